//! `export`: the merged disk as a raw file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use rustix::fs::Access;

use super::context::Context;
use super::exit::ExitStatus;
use super::image::{self, Found, ImageOptions, NotConverted};
use super::layer::LayerSource;
use super::output::{self, size};
use super::progress::{ProgressOptions, Terminal};
use super::standalone::usage;
use crate::config::ONE_PLATFORM;
use crate::convert::image::{disk_layers, is_overlaybd};
use crate::format::blob::{self, LayerBlob, Stack};
use crate::format::block::BlockDevice as _;
use crate::oci::{ImageReference, Platform};

/// Write the disk that an image or blobs make to a sparse raw file
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  overlaybd-proxy export oci:out:7_obd --output disk.raw
  overlaybd-proxy export 127.0.0.1:8480/library/redis:7_obd --output disk.raw --force
  overlaybd-proxy export 0.obd 1.obd 2.obd --output disk.raw
  mount -o ro,loop disk.raw /mnt

Blobs are named from the bottom up. Each block's checksum is verified as it is read; the file
appears under its name only when it is whole.")]
pub struct ExportArgs {
    /// One image, or blob files from the bottom up
    #[arg(required = true, value_name = "IMAGE|BLOB")]
    what: Vec<String>,
    /// The raw file
    #[arg(short, long, value_name = "RAW")]
    output: PathBuf,
    /// Overwrite the file if it is there
    #[arg(short, long)]
    force: bool,
    /// The image of an index that is exported [default: this machine's]
    #[arg(id = ONE_PLATFORM, long = "platform", value_name = "PLATFORM")]
    platform: Option<Platform>,
    #[command(flatten)]
    progress: ProgressOptions,
    #[command(flatten)]
    images: ImageOptions,
}

pub async fn run(args: ExportArgs, context: Context) -> anyhow::Result<ExitStatus> {
    if args.output == Path::new("-") {
        return Err(usage(
            "--output: a disk is written with holes, which standard output cannot have: name a file \
             (./- for one of this name)",
        )
        .into());
    }
    refuse_overwriting(&args.output, args.force)?;
    let terminal = Terminal::choose(args.progress);
    let files = args.what.iter().filter(|text| image::is_file(text)).count();
    let found = match (args.what.as_slice(), files) {
        ([text], 0) => Some(image::parse(text)?),
        (all, files) if files == all.len() => None,
        (all, _) => {
            let no_file = all.iter().find(|text| !image::is_file(text));
            return Err(usage(&format!(
                "{}: either one image or only blob files can be exported, and this is no file",
                no_file.map_or("", String::as_str)
            ))
            .into());
        }
    };
    let registries =
        args.images
            .registries(&found.iter().collect::<Vec<_>>(), &context, &terminal)?;
    let image_layers = match &found {
        Some(image) => {
            let looked_up = Found::look_up(image, &registries).await?;
            Some(layers_of(image, looked_up, args.platform.as_ref()).await?)
        }
        None => None,
    };
    let (path, printer) = (args.output.clone(), terminal.clone());
    let work = move || -> anyhow::Result<(u64, u64)> {
        let layers = match image_layers {
            Some(layers) => layers
                .into_iter()
                .map(|(name, layer)| {
                    let blob = layer.open();
                    Ok(Arc::new(blob.with_context(|| format!("layer {name}"))?))
                })
                .collect::<anyhow::Result<Vec<_>>>()?,
            None => args
                .what
                .iter()
                .map(|path| image::open_file(path).map(Arc::new))
                .collect::<anyhow::Result<Vec<_>>>()?,
        };
        refuse_unrelated(&layers)?;
        write(layers, &args.output, args.force, &terminal)
            .map(|written| (written.0, written.1))
            .with_context(|| format!("--output {}", args.output.display()))
    };
    let (disk, data) = tokio::task::spawn_blocking(work).await??;
    if printer.is_json() {
        output::json(&serde_json::json!({
            "event": "done",
            "output": path.display().to_string(),
            "disk_bytes": disk,
            "data_bytes": data,
        }))?;
        return Ok(ExitStatus::Ok);
    }
    output::line(format_args!(
        "{} of data on a disk of {}",
        size(data),
        size(disk)
    ))?;
    Ok(ExitStatus::Ok)
}

/// Sees that each layer lies upon the one that it was made upon, as far as it says so.
fn refuse_unrelated(layers: &[Arc<LayerBlob>]) -> anyhow::Result<()> {
    let mut below: Option<&str> = None;
    for (number, layer) in (1..).zip(layers) {
        let (uuid, parent) = (&layer.lsmt().uuid, layer.lsmt().parent_uuid.as_str());
        let says = parent.bytes().any(|byte| byte != b'0' && byte != b'-');
        if says && below != Some(parent) {
            let found = match below {
                Some(below) => format!("below it is {below}"),
                None => "nothing is below it".to_owned(),
            };
            return Err(usage(&format!(
                "layer {number} was made upon the layer {parent}, and {found}: name all blobs of \
                 an image, from the bottom up"
            ))
            .into());
        }
        below = Some(uuid);
    }
    Ok(())
}

fn refuse_overwriting(path: &Path, force: bool) -> anyhow::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            Err(usage(&format!("--output: {} is a directory", path.display())).into())
        }
        Ok(_) if !force => {
            let path = path.display();
            Err(usage(&format!(
                "--output: {path} is there already: --force overwrites it"
            ))
            .into())
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("--output {}", path.display())),
    }
}

type NamedLayer = (crate::oci::Digest, LayerSource);

async fn layers_of(
    image: &ImageReference,
    found: Found,
    platform: Option<&Platform>,
) -> anyhow::Result<Vec<NamedLayer>> {
    let (found, manifest) = found
        .image_for(platform)
        .await
        .with_context(|| format!("image {image}"))?;
    let (on_disk, _) = disk_layers(&manifest.layers);
    if on_disk.is_empty() {
        anyhow::bail!("image {image} has no layers: there is no disk to write");
    }
    if !is_overlaybd(&manifest) {
        let image = image.to_string();
        return Err(NotConverted { image }.into());
    }
    let mut layers = Vec::with_capacity(on_disk.len());
    for layer in on_disk {
        layers.push((layer.digest.clone(), found.layer(layer).await?));
    }
    Ok(layers)
}

/// Writes the disk beside its place and moves it there when it is whole; how large the disk
/// is, and how much of it is data.
fn write(
    layers: Vec<Arc<LayerBlob>>,
    path: &Path,
    force: bool,
    terminal: &Terminal,
) -> anyhow::Result<(u64, u64)> {
    let most: u64 = layers.iter().map(|layer| layer.summary().data_bytes).sum();
    let stack = Stack::new(layers)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Its own errors name the temporary file.
    rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK)?;
    let temporary = tempfile::Builder::new()
        .prefix(".overlaybd-export-")
        .tempfile_in(directory)?;
    let bar = terminal.bytes_bar("writing".to_owned(), most);
    let mut data = 0;
    blob::export(&stack, temporary.as_file(), |bytes| {
        data += bytes;
        bar.inc(bytes);
    })?;
    bar.finish_and_clear();
    temporary.as_file().sync_all()?;
    make_readable(temporary.as_file())?;
    if force {
        temporary.persist(path).map_err(|error| error.error)?;
    } else {
        // Whoever made the file meanwhile keeps it.
        let kept = temporary.persist_noclobber(path);
        kept.map_err(|error| error.error)?;
    }
    Ok((stack.size(), data))
}

/// Temporary files are for their owner only; a result is as the user's umask has it.
fn make_readable(file: &std::fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    // umask can only be read by setting it, which other threads would notice.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let umask = status
        .lines()
        .find_map(|line| line.strip_prefix("Umask:"))
        .and_then(|text| u32::from_str_radix(text.trim(), 8).ok())
        .unwrap_or(0o077);
    file.set_permissions(std::fs::Permissions::from_mode(0o666 & !umask))
}
