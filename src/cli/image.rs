//! An image found by its name, for commands that look into it.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::context::{Context, PasswordFlag};
use super::layer::LayerSource;
use super::platforms::LacksPlatform;
use super::progress::Terminal;
use crate::config::options::{Registries, RegistryOptions, UpstreamOptions};
use crate::convert::image::{TARGET_DIGEST, disk_layers, is_overlaybd};
use crate::convert::{RemoteBlob, Source};
use crate::format::blob::LayerBlob;
use crate::format::block::{FileDevice, SharedDevice};
use crate::format::prefetch::Trace;
use crate::lazy::{LayerPlace, Origin};
use crate::oci::{
    Descriptor, Digest, ImageManifest, ImageReference, Index, Manifest, ManifestKind, Platform,
    RepoName, Selector,
};
use crate::registry::{self, Authorization, RawManifest, Upstream};

/// How deep indexes may lie in indexes, and how many entries they may have together.
const MAX_DEPTH: usize = 4;
const MAX_ENTRIES: usize = 1000;
/// Layers that are looked up at the same time.
const LOOK_UPS: usize = 16;

/// An image whose layers are no overlaybd blobs.
#[derive(Debug, thiserror::Error)]
#[error(
    "{image} is not in overlaybd format: convert it first, or ask the proxy for its tag with the \
     suffix"
)]
pub struct NotConverted {
    /// Its name.
    pub image: String,
}

/// Where images are looked for.
#[derive(clap::Args)]
pub struct ImageOptions {
    #[command(flatten)]
    registry: RegistryOptions,
    #[command(flatten)]
    password: PasswordFlag,
}

impl ImageOptions {
    /// Reads the settings and starts the log.
    pub fn registries(
        &self,
        hosts: &[&ImageReference],
        context: &Context,
        terminal: &Terminal,
    ) -> anyhow::Result<Registries> {
        let (mut sources, mut errors) = context.personal();
        let mut registry = sources.effective(&self.registry, &mut errors);
        self.password.apply(&mut registry, &mut errors)?;
        let upstreams = sources.effective(&UpstreamOptions::default(), &mut errors);
        context.start_log(&mut sources, &mut errors, terminal, &[]);
        let hosts = hosts.iter().filter_map(|image| match image {
            ImageReference::Registry(reference) => Some(reference.host.as_str()),
            ImageReference::Layout(_) => None,
        });
        let registries = Registries::new(registry, hosts).with_upstreams(&upstreams, &mut errors);
        errors.none_or(Some(registries)).map_err(Into::into)
    }
}

/// A manifest or index that was fetched.
pub struct Found {
    /// Where it came from.
    pub upstream: Upstream,
    /// The repository.
    pub repo: RepoName,
    /// The document as it came.
    pub raw: RawManifest,
    /// The document, read.
    pub manifest: Manifest,
}

impl Found {
    /// Fetches what the name leads to.
    pub async fn look_up(image: &ImageReference, registries: &Registries) -> anyhow::Result<Self> {
        let mut errors = registries.errors();
        let target = registries.source(image, &mut errors);
        let upstream = errors.none_or(target)?.open()?;
        Self::fetch(upstream, image.repo().clone(), &image.selector())
            .await
            .with_context(|| format!("image {image} (there is no file of this name)"))
    }

    async fn fetch(
        upstream: Upstream,
        repo: RepoName,
        selector: &Selector,
    ) -> anyhow::Result<Self> {
        let raw = upstream
            .manifest(&repo, selector, &Authorization::Own)
            .await?;
        let manifest = Manifest::parse(&raw.media_type, &raw.bytes)?;
        Ok(Self {
            upstream,
            repo,
            raw,
            manifest,
        })
    }

    /// The image manifest that an entry of an index names.
    pub async fn entry(&self, descriptor: &Descriptor) -> anyhow::Result<Self> {
        let selector = Selector::Digest(descriptor.digest.clone());
        Self::fetch(self.upstream.clone(), self.repo.clone(), &selector)
            .await
            .with_context(|| format!("manifest {}", descriptor.digest))
    }

    /// The one image for a platform: of an index the entry, of an image itself.
    pub async fn image_for(
        self,
        platform: Option<&Platform>,
    ) -> anyhow::Result<(Self, ImageManifest)> {
        let found = match &self.manifest {
            Manifest::Image(_) => self,
            Manifest::Index(index) => {
                let flat = self.flat(index).await?;
                self.entry(choose(&flat, platform)?).await?
            }
        };
        match found.manifest.clone() {
            Manifest::Image(image) => Ok((found, image)),
            Manifest::Index(_) => anyhow::bail!(
                "{} is an index within {MAX_DEPTH} indexes, or one that is said to be an image",
                found.raw.digest
            ),
        }
    }

    /// An index with what is in the indexes within it, which are for its entries' platforms
    /// where they do not say others.
    async fn flat(&self, index: &Index) -> anyhow::Result<Index> {
        let mut flat = index.clone();
        for _ in 1..MAX_DEPTH {
            let is_index = |entry: &Descriptor| {
                let kind = ManifestKind::from_media_type(&entry.media_type);
                kind.is_some_and(ManifestKind::is_index)
            };
            if !flat.manifests.iter().any(is_index) {
                break;
            }
            let mut entries = Vec::new();
            for entry in std::mem::take(&mut flat.manifests) {
                if !is_index(&entry) {
                    entries.push(entry);
                    continue;
                }
                match self.entry(&entry).await.map(|found| found.manifest) {
                    Ok(Manifest::Index(inner)) => {
                        entries.extend(inner.manifests.into_iter().map(|mut below| {
                            below.platform = below.platform.or_else(|| entry.platform.clone());
                            below
                        }));
                    }
                    Ok(Manifest::Image(_)) => {}
                    // Another entry may be the one that is looked for.
                    Err(error) if is_not_there(&error) => {}
                    Err(error) => return Err(error),
                }
                if entries.len() > MAX_ENTRIES {
                    anyhow::bail!("the index has more than {MAX_ENTRIES} entries");
                }
            }
            flat.manifests = entries;
        }
        Ok(flat)
    }

    /// Where a layer is.
    ///
    /// # Errors
    /// When the manifest does not say its size, and the registry does not either, or a TurboOCI
    /// layer does not say where its data is.
    pub async fn place(&self, layer: &Descriptor) -> anyhow::Result<LayerPlace> {
        let target = match layer.annotations.get(TARGET_DIGEST) {
            None => None,
            Some(digest) => {
                let digest = digest
                    .parse()
                    .with_context(|| format!("the annotation {TARGET_DIGEST}"))?;
                let size = self
                    .upstream
                    .blob_size(&self.repo, &digest, &Authorization::Own)
                    .await
                    .with_context(|| format!("the original layer {digest}"))?;
                Some((digest, size))
            }
        };
        let size = self
            .upstream
            .size_of(&self.repo, layer, &Authorization::Own)
            .await?;
        let blob = (layer.digest.clone(), size);
        Ok(LayerPlace { blob, target })
    }

    /// Where a layer's bytes are; they are fetched when they are read.
    ///
    /// # Errors
    /// As [`place`](Self::place).
    pub async fn layer(&self, layer: &Descriptor) -> anyhow::Result<LayerSource> {
        let LayerPlace { blob, target } = self.place(layer).await?;
        let device = |(digest, size)| self.device(digest, size);
        Ok(LayerSource {
            blob: device(blob),
            target: target.map(device),
        })
    }

    /// The places of the layers that make up a converted image's disk, bottom first: all but an
    /// acceleration layer.
    ///
    /// # Errors
    /// [`NotConverted`], or as [`place`](Self::place).
    pub async fn places(
        &self,
        image: &ImageReference,
        manifest: &ImageManifest,
    ) -> anyhow::Result<Vec<LayerPlace>> {
        let (layers, _) = disk_layers(&manifest.layers);
        if layers.is_empty() {
            anyhow::bail!("image {image} has no layers: there is no disk to read");
        }
        if !is_overlaybd(manifest) {
            let image = image.to_string();
            return Err(NotConverted { image }.into());
        }
        let layers = layers.iter().map(|layer| self.place(layer));
        futures_util::stream::iter(layers)
            .buffered(LOOK_UPS)
            .try_collect()
            .await
    }

    /// What nodes read ahead of a converted image, if it has an acceleration layer.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub async fn trace(&self, manifest: &ImageManifest) -> anyhow::Result<Option<Trace>> {
        let (below, top) = disk_layers(&manifest.layers);
        let Some(top) = top else {
            return Ok(None);
        };
        let (layers, opening) = (below.len(), self.layer(top).await?);
        let read = move || -> anyhow::Result<Option<Trace>> {
            let trace = opening.trace()?;
            Ok(trace
                .map(|trace| Trace::parse(&trace, layers))
                .transpose()?)
        };
        let read = tokio::task::spawn_blocking(read).await?;
        read.with_context(|| format!("acceleration layer {}", top.digest))
    }

    /// Where the image's blobs are.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin {
            upstream: self.upstream.clone(),
            repo: self.repo.clone(),
            authorization: Authorization::Own,
        }
    }

    fn device(&self, digest: Digest, size: u64) -> SharedDevice {
        let source = Source {
            upstream: self.upstream.clone(),
            repo: self.repo.clone(),
            authorization: Authorization::Own,
        };
        Arc::new(RemoteBlob::new(source, digest, size))
    }
}

/// Whether an error says that what was asked for is not there.
pub fn is_not_there(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<registry::Error>();
    error.is_some_and(|error| matches!(error, registry::Error::NotFound { .. }))
}

/// The entry for a platform: the one asked for, else this machine's, else the only one.
fn choose<'a>(index: &'a Index, platform: Option<&Platform>) -> anyhow::Result<&'a Descriptor> {
    let host = Platform::host();
    if let Some(entry) = index.find(platform.unwrap_or(&host)) {
        return Ok(entry);
    }
    let entries: Vec<&Descriptor> = index
        .manifests
        .iter()
        .filter(|entry| !entry.is_attestation())
        .collect();
    if let ([only], None) = (entries.as_slice(), platform) {
        return Ok(only);
    }
    let there: Vec<String> = entries
        .iter()
        .filter_map(|entry| entry.platform.as_ref().map(ToString::to_string))
        .collect();
    Err(LacksPlatform(format!(
        "there is no image for {}; there is one for {}: choose with --platform",
        platform.unwrap_or(&host),
        there.join(", ")
    ))
    .into())
}

/// Whether an argument means a file rather than an image.
pub fn is_file(text: &str) -> bool {
    let is_scheme = ["oci:", "oci-archive:", "docker:"]
        .iter()
        .any(|scheme| text.starts_with(scheme));
    !is_scheme && Path::new(text).is_file()
}

/// Opens a blob in a file, also one that overlaybd refuses.
pub fn open_file(path: &str) -> anyhow::Result<LayerBlob> {
    let open = || -> anyhow::Result<LayerBlob> {
        let device = FileDevice::open(Path::new(path))?;
        Ok(LayerBlob::open_readable(Arc::new(device))?)
    };
    open().with_context(|| format!("blob {path}"))
}

/// The image that an argument names.
pub fn parse(text: &str) -> anyhow::Result<ImageReference> {
    let foreign = [
        "dir:",
        "docker-archive:",
        "docker-daemon:",
        "containers-storage:",
    ];
    if let Some(scheme) = foreign.iter().find(|scheme| text.starts_with(**scheme)) {
        let mut errors = crate::config::ConfigErrors::default();
        errors.add_line(format!(
            "{scheme} is none of the places that images are read from or written to: \
             [HOST/]REPO[:TAG], oci:DIR[:TAG] and oci-archive:FILE[:TAG] are"
        ));
        return Err(errors.into());
    }
    text.parse()
        .map_err(|error: crate::oci::reference::InvalidReference| {
            let mut errors = crate::config::ConfigErrors::default();
            let hint = if text.contains('/') || text.contains('.') {
                " (and there is no such file)"
            } else {
                ""
            };
            errors.add_line(format!("{error}{hint}"));
            errors.into()
        })
}
