//! The check of a whole image: every digest, every checksum, and the root filesystems.

use std::sync::Arc;

use anyhow::Context as _;
use serde_json::Value;

use super::Tree;
use super::fetch::{self, Blobs};
use super::pairs::{Pair, Side, pairs};
use super::report::{Damaged, ImageReport, Report, finding};
use crate::cli::image::NotConverted;
use crate::convert::Source;
use crate::convert::image::is_overlaybd_layer;
use crate::convert::image::{BLOB_DIGEST, BLOB_SIZE};
use crate::convert::tag::UserTag;
use crate::format::blob::{LayerBlob, Stack};
use crate::format::block::FileDevice;
use crate::oci::{Descriptor, Digest, ImageConfig, ImageManifest, Platform, Selector, json};

/// How much is checked.
#[derive(Clone)]
pub struct Options {
    /// The platforms of an index; none for all that were converted.
    pub platforms: Vec<Platform>,
    /// Most differences that are listed of an image.
    pub limit: usize,
    /// Told of what happens; must be quick.
    pub progress: Arc<dyn Fn(Step) + Send + Sync>,
}

/// What a check is at.
#[derive(Debug, Clone)]
pub enum Step {
    /// It begins with an image.
    Image {
        /// The platform, where it is known.
        platform: Option<Platform>,
        /// Bytes that will be read of it and its source.
        bytes: u64,
    },
    /// So many bytes were read.
    Bytes(u64),
}

/// Checks a converted image: that all of it has the digests that name it, that every block of
/// its blobs is whole, that the blobs belong upon each other, and that its root filesystem
/// is its source's.
///
/// # Errors
/// When something cannot be had or is no converted image: what is wrong with one is told in
/// the report.
pub async fn check(
    source: (&Source, &Selector),
    converted: (&Source, &Selector),
    options: &Options,
) -> anyhow::Result<Report> {
    let source_root = fetch::document(source.0, source.1)
        .await
        .context("the source image")?;
    let converted_root = fetch::document(converted.0, converted.1)
        .await
        .context("the converted image")?;
    let mut report = Report {
        source: source_root.raw.digest.clone(),
        converted: converted_root.raw.digest.clone(),
        problems: Vec::new(),
        images: Vec::new(),
        kept: Vec::new(),
        left_out: Vec::new(),
    };
    let (source, converted) = (source.0, converted.0);
    let pairs = pairs(
        (source, &source_root),
        (converted, &converted_root),
        &options.platforms,
        &mut report,
    );
    let pairs = match pairs.await {
        Ok(pairs) => pairs,
        Err(error) => {
            report.problems.push(finding(error)?);
            return Ok(report);
        }
    };
    if pairs.is_empty() && report.problems.is_empty() {
        return Err(NotConverted {
            image: report.converted.to_string(),
        }
        .into());
    }
    for pair in pairs {
        let image = check_pair(source, converted, pair, options).await?;
        report.images.push(image);
    }
    Ok(report)
}

async fn check_pair(
    source: &Source,
    converted: &Source,
    pair: Pair,
    options: &Options,
) -> anyhow::Result<ImageReport> {
    let layers = |side: &Side| {
        side.manifest
            .layers
            .iter()
            .filter_map(|layer| layer.size)
            .fold(0, u64::saturating_add)
    };
    let blob_bytes = layers(&pair.converted);
    (options.progress)(Step::Image {
        platform: pair.platform.clone(),
        bytes: blob_bytes.saturating_add(layers(&pair.source)),
    });
    let mut report = ImageReport {
        platform: pair.platform.as_ref().map(ToString::to_string),
        source: pair.source.digest.clone(),
        converted: pair.converted.digest.clone(),
        layers: pair.converted.manifest.layers.len(),
        blob_bytes,
        names: None,
        problems: Vec::new(),
        differences: Vec::new(),
        more: false,
    };
    if !pair
        .converted
        .manifest
        .layers
        .iter()
        .all(is_overlaybd_layer)
    {
        report
            .problems
            .push("its layers are not in overlaybd format".to_owned());
        return Ok(report);
    }
    let diff_ids = match configs(source, converted, &pair, &mut report.problems).await {
        Ok(config) => config.diff_ids,
        Err(error) => {
            report.problems.push(finding(error)?);
            return Ok(report);
        }
    };
    if diff_ids.len() != pair.source.manifest.layers.len() {
        let (ids, layers) = (diff_ids.len(), pair.source.manifest.layers.len());
        let text = format!("the source has {layers} layers and {ids} diff ids");
        report.problems.push(text);
        return Ok(report);
    }
    let bytes = |progress: &Arc<dyn Fn(Step) + Send + Sync>| {
        let progress = Arc::clone(progress);
        move |count| progress(Step::Bytes(count))
    };
    let from = Blobs::new(source.clone(), bytes(&options.progress));
    let to = Blobs::new(converted.clone(), bytes(&options.progress));
    let limit = options.limit;
    let compare = move || -> anyhow::Result<ImageReport> {
        let found = converted_tree(&to, &pair.converted.manifest, &mut report.problems);
        let found = found.or_else(|error| {
            report.problems.push(finding(error)?);
            anyhow::Ok(None)
        })?;
        // Without the one there is nothing to compare the other to.
        let Some(found) = found else {
            return Ok(report);
        };
        let mut expected = Tree::bare();
        for (number, layer) in pair.source.manifest.layers.iter().enumerate() {
            let Some(diff_id) = diff_ids.get(number) else {
                break;
            };
            let applied = from.untar(layer, diff_id, |tar| expected.add_layer(number, tar));
            if let Err(error) = applied.context("the source") {
                report.problems.push(finding(error)?);
                return Ok(report);
            }
        }
        report.names = Some(expected.len());
        report.differences = expected.differences(&found, limit.saturating_add(1));
        report.more = report.differences.len() > limit;
        report.differences.truncate(limit);
        Ok(report)
    };
    tokio::task::spawn_blocking(compare).await?
}

/// Compares the configs; the source's.
async fn configs(
    source: &Source,
    converted: &Source,
    pair: &Pair,
    problems: &mut Vec<String>,
) -> anyhow::Result<ImageConfig> {
    let from = fetch::config(source, &pair.source.manifest.config)
        .await
        .context("the source's config")?;
    let to = fetch::config(converted, &pair.converted.manifest.config).await?;
    let source_config = ImageConfig::parse(&from)?;
    let layers: Vec<&Digest> = pair
        .converted
        .manifest
        .layers
        .iter()
        .map(|layer| &layer.digest)
        .collect();
    let config = ImageConfig::parse(&to)?;
    if !config.diff_ids.iter().map(|diff_id| &diff_id.0).eq(layers) {
        problems.push("the config's diff ids are not its layers' digests".to_owned());
    }
    if without_diff_ids(&from)? != without_diff_ids(&to)? {
        let text = "the config is not the source's, in more than the diff ids";
        problems.push(text.to_owned());
    }
    Ok(source_config)
}

fn without_diff_ids(config: &[u8]) -> anyhow::Result<Value> {
    let mut value = json::parse(config)
        .map_err(|error| Damaged(format!("a config that is no JSON: {error}")))?;
    if let Some(rootfs) = value.get_mut("rootfs").and_then(Value::as_object_mut) {
        rootfs.remove("diff_ids");
    }
    Ok(value)
}

/// The converted root filesystem. `None` if a layer is damaged: then all of them were looked
/// at, and the problems say which.
fn converted_tree(
    blobs: &Blobs,
    manifest: &ImageManifest,
    problems: &mut Vec<String>,
) -> anyhow::Result<Option<Tree>> {
    // Without layers there is no disk; what they make is an empty root.
    if manifest.layers.is_empty() {
        return Ok(Some(Tree::bare()));
    }
    let mut layers: Vec<Arc<LayerBlob>> = Vec::new();
    let mut below: Option<&Digest> = None;
    for layer in &manifest.layers {
        annotations(layer, problems);
        match converted_layer(blobs, layer) {
            Ok(blob) => {
                usable(&blob, layer, problems);
                belongs(&blob, layer, below, layers.last(), problems);
                layers.push(Arc::new(blob));
            }
            Err(error) => problems.push(finding(error)?),
        }
        below = Some(&layer.digest);
    }
    if layers.len() != manifest.layers.len() {
        return Ok(None);
    }
    let stack = Stack::new(layers)?;
    Ok(Some(
        Tree::from_filesystem(stack).context("the converted root filesystem")?,
    ))
}

fn converted_layer(blobs: &Blobs, layer: &Descriptor) -> anyhow::Result<LayerBlob> {
    let name = || format!("layer {}", layer.digest);
    let file = blobs.to_file(layer).with_context(name)?;
    let device = FileDevice::new(file).with_context(name)?;
    let blob = LayerBlob::open_readable(Arc::new(device)).with_context(name)?;
    // The file is our own copy: what cannot be read of it is not whole.
    blob.verify()
        .map_err(|error| Damaged(error.to_string()))
        .with_context(name)?;
    Ok(blob)
}

fn annotations(layer: &Descriptor, problems: &mut Vec<String>) {
    let says = |key| layer.annotations.get(key).map(String::as_str);
    let digest = &layer.digest;
    if says(BLOB_DIGEST) != Some(digest.as_str()) {
        problems.push(format!(
            "layer {digest}: its annotation names another digest"
        ));
    }
    if says(BLOB_SIZE).map(str::to_owned) != layer.size.map(|size| size.to_string()) {
        problems.push(format!("layer {digest}: its annotation names another size"));
    }
}

/// Sees that nodes take the layer: what overlaybd refuses can still be read here.
fn usable(blob: &LayerBlob, layer: &Descriptor, problems: &mut Vec<String>) {
    let digest = &layer.digest;
    problems.extend(blob.refusals().iter().map(|refusal| {
        format!(
            "layer {digest}: overlaybd refuses it: {refusal}: convert the image again, or pull \
             its tag through a proxy of this version"
        )
    }));
}

/// Sees that a blob is a layer upon the one below, as far as it says so itself.
fn belongs(
    blob: &LayerBlob,
    layer: &Descriptor,
    below: Option<&Digest>,
    below_blob: Option<&Arc<LayerBlob>>,
    problems: &mut Vec<String>,
) {
    let digest = &layer.digest;
    // Other tools write other tags, which say nothing here.
    if let Ok(tag) = blob.user_tag().parse::<UserTag>()
        && tag.parent.as_ref() != below
    {
        let parent = tag
            .parent
            .map_or("nothing".to_owned(), |parent| parent.to_string());
        problems.push(format!("layer {digest}: it was made upon {parent}"));
    }
    let parent = blob.lsmt().parent_uuid.as_str();
    if let Some(below) = below_blob
        && !parent.is_empty()
        && parent != below.lsmt().uuid
    {
        problems.push(format!(
            "layer {digest}: its parent is {parent}, which is not below it"
        ));
    }
}
