//! `inspect`: what is in a blob or an image.

use std::sync::Arc;

use anyhow::Context as _;
use serde::Serialize;

use super::context::Context;
use super::exit::ExitStatus;
use super::image::{self, Found, ImageOptions};
use super::output::{self, size};
use super::progress::Terminal;
use crate::config::ONE_PLATFORM;
use crate::convert::image::{
    ACCELERATION_LAYER, disk_layers, is_acceleration_layer, is_overlaybd_layer,
};
use crate::convert::tag::UserTag;
use crate::format::blob::{LayerBlob, Summary};
use crate::format::lsmt::Mapping;
use crate::format::prefetch::{Record, Trace};
use crate::oci::{Descriptor, Digest, ImageManifest, ImageReference, Manifest, Platform};

/// Show what is in a blob file or an image
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  overlaybd-proxy inspect layer.obd
  overlaybd-proxy inspect --json 127.0.0.1:8480/library/redis:7_obd | jq '.layers[].blob.lsmt'
  overlaybd-proxy inspect --mappings oci:out:7_obd

Of an image in a registry only the headers and indexes of its blobs are fetched, by range.
An argument that is the path of a file is a blob; everything else is an image.")]
pub struct InspectArgs {
    /// Blob files, or images: [HOST/]REPO[:TAG], oci:DIR[:TAG], oci-archive:FILE[:TAG]
    #[arg(required = true, value_name = "BLOB|IMAGE")]
    what: Vec<String>,
    /// Print JSON, one object for each argument
    #[arg(long)]
    json: bool,
    /// List each layer's mappings, in sectors of 512 bytes
    #[arg(long)]
    mappings: bool,
    /// The image of an index that is looked into [default: this machine's]
    #[arg(id = ONE_PLATFORM, long = "platform", value_name = "PLATFORM")]
    platform: Option<Platform>,
    #[command(flatten)]
    images: ImageOptions,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Report {
    Blob {
        path: String,
        size: u64,
        #[serde(flatten)]
        blob: BlobReport,
    },
    Image(ImageReport),
}

#[derive(Serialize)]
struct ImageReport {
    image: String,
    digest: Digest,
    media_type: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    index: Vec<EntryReport>,
    manifest: Digest,
    config: Digest,
    subject: Option<Digest>,
    layers: Vec<LayerReport>,
}

#[derive(Serialize)]
struct EntryReport {
    platform: Option<String>,
    digest: Digest,
    attestation: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
}

#[derive(Serialize)]
struct LayerReport {
    digest: Digest,
    size: u64,
    media_type: String,
    annotations: std::collections::BTreeMap<String, String>,
    /// `None` for a layer that is not in overlaybd format.
    blob: Option<BlobReport>,
    /// Whether the blob says that it was made on top of the layer below it; `None` where it
    /// does not say.
    fits: Option<bool>,
    /// What is read ahead, of an acceleration layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<TraceReport>,
}

/// The trace of an acceleration layer.
#[derive(Serialize)]
struct TraceReport {
    /// How many ranges of layers it has; those of a list of paths are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    records: Option<usize>,
    /// Bytes of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    /// The ranges.
    #[serde(skip_serializing_if = "Option::is_none")]
    ranges: Option<Vec<Record>>,
    /// The paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    paths: Option<Vec<String>>,
}

impl TraceReport {
    fn new(trace: Trace, with_ranges: bool) -> Self {
        match trace {
            Trace::Records(records) => Self {
                records: Some(records.len()),
                bytes: Some(records.iter().map(|record| record.count).sum()),
                ranges: with_ranges.then_some(records),
                paths: None,
            },
            Trace::Paths(paths) => Self {
                records: None,
                bytes: None,
                ranges: None,
                paths: Some(
                    paths
                        .iter()
                        .map(|path| String::from_utf8_lossy(path).into_owned())
                        .collect(),
                ),
            },
        }
    }
}

#[derive(Serialize)]
struct BlobReport {
    #[serde(flatten)]
    summary: Summary,
    /// What this program wrote into the blob, if it made it.
    made_by: Option<MadeBy>,
    /// Why overlaybd refuses the layer; empty for a good one.
    refused_by_overlaybd: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<Vec<Mapping>>,
}

#[derive(Serialize)]
struct MadeBy {
    format_version: u32,
    parent: Option<Digest>,
    /// The digest of the prefetch list that orders the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    prefetch_list: Option<Digest>,
}

impl BlobReport {
    fn new(blob: &LayerBlob, with_mappings: bool) -> Self {
        let tag = blob.user_tag().parse::<UserTag>().ok();
        Self {
            summary: blob.summary(),
            made_by: tag.map(|tag| MadeBy {
                format_version: tag.version,
                parent: tag.parent,
                prefetch_list: tag.list,
            }),
            refused_by_overlaybd: blob.refusals().iter().map(ToString::to_string).collect(),
            list: with_mappings.then(|| blob.mappings().to_vec()),
        }
    }
}

pub async fn run(args: InspectArgs, context: Context) -> anyhow::Result<ExitStatus> {
    let args = Arc::new(args);
    let mut images = Vec::new();
    for text in args.what.iter().filter(|text| !image::is_file(text)) {
        images.push(image::parse(text)?);
    }
    let hosts: Vec<&ImageReference> = images.iter().collect();
    let terminal = Terminal::plain();
    let registries = args.images.registries(&hosts, &context, &terminal)?;
    for (number, text) in args.what.iter().enumerate() {
        let report = if image::is_file(text) {
            let (path, with_mappings) = (text.clone(), args.mappings);
            tokio::task::spawn_blocking(move || blob_report(path, with_mappings)).await??
        } else {
            let image = image::parse(text)?;
            let found = Found::look_up(&image, &registries).await?;
            Report::Image(image_report(&image, found, &args).await?)
        };
        if args.json {
            output::json(&report)?;
        } else {
            if number > 0 {
                output::line("")?;
            }
            print(&report)?;
        }
    }
    Ok(ExitStatus::Ok)
}

fn blob_report(path: String, with_mappings: bool) -> anyhow::Result<Report> {
    let blob = image::open_file(&path)?;
    Ok(Report::Blob {
        size: std::fs::metadata(&path)?.len(),
        blob: BlobReport::new(&blob, with_mappings),
        path,
    })
}

async fn image_report(
    image: &ImageReference,
    found: Found,
    args: &InspectArgs,
) -> anyhow::Result<ImageReport> {
    let (digest, media_type) = (found.raw.digest.clone(), found.raw.media_type.clone());
    let index = match &found.manifest {
        Manifest::Image(_) => Vec::new(),
        Manifest::Index(index) => index
            .manifests
            .iter()
            .map(|entry| EntryReport {
                platform: entry.platform.as_ref().map(ToString::to_string),
                digest: entry.digest.clone(),
                attestation: entry.is_attestation(),
                artifact_type: entry.artifact_type.clone(),
            })
            .collect(),
    };
    let (found, manifest) = found
        .image_for(args.platform.as_ref())
        .await
        .with_context(|| format!("image {image}"))?;
    let layers = layer_reports(&found, &manifest, args.mappings).await?;
    Ok(ImageReport {
        image: image.to_string(),
        digest,
        media_type,
        index,
        manifest: found.raw.digest.clone(),
        config: manifest.config.digest.clone(),
        subject: manifest.subject.map(|subject| subject.digest),
        layers,
    })
}

async fn layer_reports(
    found: &Found,
    manifest: &ImageManifest,
    with_mappings: bool,
) -> anyhow::Result<Vec<LayerReport>> {
    let mut reports = Vec::with_capacity(manifest.layers.len());
    let mut below: Option<&Descriptor> = None;
    let (_, accelerated) = disk_layers(&manifest.layers);
    for layer in &manifest.layers {
        let blob = if is_overlaybd_layer(layer) && !is_acceleration_layer(layer) {
            let opening = found.layer(layer).await?;
            let open = move || -> anyhow::Result<BlobReport> {
                let blob = opening.open()?;
                Ok(BlobReport::new(&blob, with_mappings))
            };
            let opened = tokio::task::spawn_blocking(open).await?;
            Some(opened.with_context(|| format!("layer {}", layer.digest))?)
        } else {
            None
        };
        let made_by = blob.as_ref().and_then(|blob| blob.made_by.as_ref());
        let fits = made_by.map(|made| made.parent.as_ref() == below.map(|layer| &layer.digest));
        reports.push(LayerReport {
            digest: layer.digest.clone(),
            size: layer.size.unwrap_or_default(),
            media_type: layer.media_type.clone(),
            annotations: layer.annotations.clone(),
            blob,
            fits,
            trace: match accelerated.filter(|top| std::ptr::eq(*top, layer)) {
                Some(_) => {
                    let trace = found.trace(manifest).await?;
                    trace.map(|trace| TraceReport::new(trace, with_mappings))
                }
                None => None,
            },
        });
        below = Some(layer);
    }
    Ok(reports)
}

fn print(report: &Report) -> anyhow::Result<()> {
    match report {
        Report::Blob { path, size, blob } => {
            output::line(format_args!("blob {path}"))?;
            output::line(format_args!("  size         {}", output::size(*size)))?;
            print_blob(blob)
        }
        Report::Image(image) => print_image(image),
    }
}

fn print_image(report: &ImageReport) -> anyhow::Result<()> {
    output::line(format_args!("image {}", report.image))?;
    output::line(format_args!("  digest       {}", report.digest))?;
    output::line(format_args!("  media type   {}", report.media_type))?;
    for entry in &report.index {
        let platform = entry.platform.as_deref().unwrap_or("no platform");
        let mark = match (entry.attestation, entry.digest == report.manifest) {
            (true, _) => " (attestation)",
            (false, true) => " (shown below)",
            (false, false) => "",
        };
        let kind = entry.artifact_type.as_deref().unwrap_or_default();
        let space = if kind.is_empty() { "" } else { " " };
        output::line(format_args!(
            "  entry        {} {platform}{space}{kind}{mark}",
            entry.digest
        ))?;
    }
    if !report.index.is_empty() {
        output::line(format_args!("  manifest     {}", report.manifest))?;
    }
    output::line(format_args!("  config       {}", report.config))?;
    if let Some(subject) = &report.subject {
        output::line(format_args!("  subject      {subject}"))?;
    }
    for (number, layer) in report.layers.iter().enumerate() {
        output::line(format_args!("layer {number} {}", layer.digest))?;
        output::line(format_args!("  size         {}", size(layer.size)))?;
        output::line(format_args!("  media type   {}", layer.media_type))?;
        for (name, value) in &layer.annotations {
            output::line(format_args!("  annotation   {name}={value}"))?;
        }
        match (&layer.blob, layer.annotations.get(ACCELERATION_LAYER)) {
            (Some(blob), _) => print_blob(blob)?,
            (None, Some(_)) => print_trace(layer.trace.as_ref())?,
            (None, None) => output::line("  not in overlaybd format")?,
        }
        match layer.fits {
            Some(true) if number == 0 => output::line("  chain        made as the bottom layer")?,
            Some(true) => output::line("  chain        made on top of the layer below")?,
            Some(false) => output::line("  chain        MADE ON TOP OF ANOTHER LAYER")?,
            None => {}
        }
    }
    Ok(())
}

fn print_trace(trace: Option<&TraceReport>) -> anyhow::Result<()> {
    let Some(trace) = trace else {
        output::line("  acceleration without a trace: nothing is read ahead")?;
        return Ok(());
    };
    if let (Some(records), Some(bytes)) = (trace.records, trace.bytes) {
        output::line(format_args!(
            "  acceleration {records} ranges of the layers below are read ahead, {}",
            size(bytes)
        ))?;
    }
    if let Some(paths) = &trace.paths {
        output::line(format_args!(
            "  acceleration {} paths are read ahead",
            paths.len()
        ))?;
    }
    for record in trace.ranges.iter().flatten() {
        output::line(format_args!(
            "  range        layer {} offset {} length {}",
            record.layer, record.offset, record.count
        ))?;
    }
    for path in trace.paths.iter().flatten() {
        output::line(format_args!("  path         {}", path.escape_debug()))?;
    }
    Ok(())
}

fn print_blob(report: &BlobReport) -> anyhow::Result<()> {
    let Summary {
        zfile,
        lsmt,
        mappings,
        data_bytes,
        zeroed_bytes,
    } = &report.summary;
    output::line(format_args!(
        "  zfile        {}, blocks of {} KiB, {} blocks, {} inflated, CRCs {}",
        zfile.algorithm,
        zfile.block_size,
        zfile.index_size,
        size(zfile.original_size),
        if zfile.verify { "yes" } else { "no" }
    ))?;
    output::line(format_args!(
        "  disk         {} ({} bytes)",
        size(lsmt.virtual_size),
        lsmt.virtual_size
    ))?;
    output::line(format_args!(
        "  mappings     {mappings}: {} of data, {} of zeros",
        size(*data_bytes),
        size(*zeroed_bytes)
    ))?;
    output::line(format_args!("  uuid         {}", lsmt.uuid))?;
    if !lsmt.parent_uuid.is_empty() {
        output::line(format_args!("  parent uuid  {}", lsmt.parent_uuid))?;
    }
    if !lsmt.user_tag.is_empty() {
        output::line(format_args!("  user tag     {}", lsmt.user_tag))?;
    }
    for refusal in &report.refused_by_overlaybd {
        output::line(format_args!("  REFUSED      by overlaybd: {refusal}"))?;
    }
    for mapping in report.list.iter().flatten() {
        output::line(format_args!("    {mapping}"))?;
    }
    Ok(())
}
