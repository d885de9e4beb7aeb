//! Images that are read as they are needed, by the commands that do.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::context::Context;
use super::image::{self, Found, ImageOptions};
use super::progress::Terminal;
use crate::config::{BLOCK_CACHE_SIZE, ONE_PLATFORM, bytes, duration};
use crate::lazy::{DiskCache, ImageDisk, ImageFilesystem, Reading};
use crate::oci::{ImageManifest, ImageReference, Platform};

/// The heading of options of reading in the help.
const READING: &str = "Reading";

/// Which image is read, and how long a read may take.
#[derive(clap::Args)]
pub struct ReadOptions {
    /// The image of an index that is read [default: this machine's]
    #[arg(id = ONE_PLATFORM, long = "platform", value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// How long reading a part of a blob may take, with all attempts, before it is an error
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = positive,
          help_heading = READING)]
    read_timeout: Duration,
    #[command(flatten)]
    images: ImageOptions,
}

/// Which image is read, and what is kept of it from one run to the next.
#[derive(clap::Args)]
pub struct LazyOptions {
    #[command(flatten)]
    read: ReadOptions,
    /// Where parts of blobs are kept from one run to the next [default:
    /// $XDG_CACHE_HOME/overlaybd-proxy or ~/.cache/overlaybd-proxy]
    #[arg(id = "block-cache-dir", long = "cache-dir", value_name = "DIR", help_heading = READING)]
    cache_dir: Option<PathBuf>,
    /// Most bytes that are kept there, of all images; 0 to keep nothing
    #[arg(id = BLOCK_CACHE_SIZE, long = "cache-size", value_name = "SIZE", default_value = "4GiB",
          value_parser = bytes, help_heading = READING)]
    cache_size: u64,
}

fn positive(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it must be longer than that".to_owned()),
        duration => Ok(duration),
    }
}

impl LazyOptions {
    /// The cache on the disk. Where there can be none, it works without.
    fn cache(&self) -> Option<DiskCache> {
        if self.cache_size == 0 {
            return None;
        }
        let named = self.cache_dir.as_deref().map(Path::to_owned);
        let directory = named.or_else(DiskCache::default_directory)?;
        let opened = DiskCache::open(&directory, self.cache_size);
        opened
            .inspect_err(|error| {
                tracing::warn!(
                    directory = %directory.display(), %error,
                    "nothing is kept on the disk (--cache-dir names another place, --cache-size 0 \
                     uses none)"
                );
            })
            .ok()
    }

    /// Opens an image, or blob files from the bottom up, as a disk.
    ///
    /// # Errors
    /// When it cannot be found, is not converted, or its layers cannot be opened.
    pub async fn open(
        &self,
        what: &[String],
        context: &Context,
        terminal: &Terminal,
        reading: Reading,
    ) -> anyhow::Result<ImageDisk> {
        if what.iter().all(|text| image::is_file(text)) {
            // Also for mistakes in the configuration, and for the log.
            self.read.images.registries(&[], context, terminal)?;
            let what = what.to_vec();
            let open = move || {
                let layers: anyhow::Result<Vec<_>> = what
                    .iter()
                    .map(|path| image::open_file(path).map(Arc::new))
                    .collect();
                anyhow::Ok(ImageDisk::of_files(layers?)?)
            };
            return tokio::task::spawn_blocking(open).await?;
        }
        let [text] = what else {
            anyhow::bail!("name one image, or only blob files, from the bottom up");
        };
        let image = image::parse(text)?;
        let (found, manifest) = self.read.find(&image, context, terminal).await?;
        let reading = Reading {
            cache: self.cache(),
            ..reading
        };
        let read = &self.read;
        read.open_found(&image, &found, &manifest, reading).await
    }
}

impl ReadOptions {
    /// Finds the manifest of an image.
    ///
    /// # Errors
    /// When it cannot be found.
    pub async fn find(
        &self,
        image: &ImageReference,
        context: &Context,
        terminal: &Terminal,
    ) -> anyhow::Result<(Found, ImageManifest)> {
        let registries = self.images.registries(&[image], context, terminal)?;
        let found = Found::look_up(image, &registries).await?;
        let found = found.image_for(self.platform.as_ref()).await;
        found.with_context(|| format!("image {image}"))
    }

    /// Opens an image of which the manifest was found as a disk.
    ///
    /// # Errors
    /// When it is not converted, or its layers cannot be opened.
    pub async fn open_found(
        &self,
        image: &ImageReference,
        found: &Found,
        manifest: &ImageManifest,
        reading: Reading,
    ) -> anyhow::Result<ImageDisk> {
        let layers = found.places(image, manifest).await?;
        let reading = Reading {
            total: self.read_timeout,
            timeout: reading.timeout.min(self.read_timeout),
            ..reading
        };
        let disk = ImageDisk::open(&found.origin(), layers, reading).await;
        disk.with_context(|| format!("image {image}"))
    }
}

/// The filesystem of an image's disk.
///
/// # Errors
/// When there is none, or it cannot be read.
pub async fn filesystem(disk: &ImageDisk) -> anyhow::Result<Arc<ImageFilesystem>> {
    let device = Arc::<crate::format::blob::Stack>::clone(&disk.stack);
    let patience = disk.read_timeout;
    let open = move || ImageFilesystem::open(device).map(|opened| opened.waiting(patience));
    let opened = tokio::task::spawn_blocking(open).await?;
    Ok(Arc::new(opened.context("the image's root filesystem")?))
}
