//! The check of a whole image: every digest, every checksum, and the root filesystems.

use std::sync::Arc;

use anyhow::Context as _;
use serde_json::Value;

use super::acceleration;
use super::annotations::{is_acceleration_layer, is_overlaybd_layer, is_turbo_layer};
use super::blobs::converted_tree;
use super::fetch::{self, Blobs, Repository};
use super::pairs::{Pair, Side, pairs};
use super::report::{Damaged, ImageReport, Report, finding};
use super::tree::Tree;
use super::turbo;
use crate::format::prefetch::Trace;
use crate::oci::{Descriptor, DiffId, ImageConfig, ImageManifest, Platform, Selector, json};

/// Settings of a check.
#[derive(Clone)]
pub struct Options {
    /// The platforms of an index; none for all that were converted.
    pub platforms: Vec<Platform>,
    /// Most differences that are listed of an image.
    pub limit: usize,
    /// Called at each step; must not block.
    pub progress: Arc<dyn Fn(Step) + Send + Sync>,
}

/// Progress of a check.
#[derive(Debug, Clone)]
pub enum Step {
    /// An image is begun.
    Image {
        /// The platform, where it is known.
        platform: Option<Platform>,
        /// Bytes that will be read of it and its source.
        bytes: u64,
    },
    /// So many bytes were read.
    Bytes(u64),
}

/// Verifies a converted image: the digests of its manifests, configs and blobs, the checksum of
/// every block, the order of its blobs, and that its root filesystem equals its source's. The
/// report is empty ([`Report::is_empty`]) if the image was not converted.
///
/// # Errors
/// When something cannot be fetched or read. What is wrong with the image is in the report.
pub async fn check(
    source: (&Repository, &Selector),
    converted: (&Repository, &Selector),
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
    for pair in pairs {
        let image = check_pair(source, converted, pair, options).await?;
        report.images.push(image);
    }
    Ok(report)
}

async fn check_pair(
    source: &Repository,
    converted: &Repository,
    mut pair: Pair,
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
    let configs = configs(source, converted, &pair, &mut report.problems).await;
    let (diff_ids, mut converted_ids) = match configs {
        Ok((from, to)) => (from.diff_ids, to.diff_ids),
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
    let accelerated = acceleration::take_off(&mut pair.converted.manifest, &mut converted_ids);
    let compare = move || -> anyhow::Result<ImageReport> {
        let (source, converted) = (&pair.source.manifest, &pair.converted.manifest);
        let problems = &mut report.problems;
        let trace = match &accelerated {
            Some(layer) => acceleration::trace(&to, layer, converted.layers.len(), problems)?,
            None => None,
        };
        let trees = if converted.layers.iter().any(is_turbo_layer) {
            let image = |blobs, manifest, diff_ids| turbo::Image {
                blobs,
                manifest,
                diff_ids,
            };
            turbo::trees(
                &image(&from, source, &diff_ids),
                &image(&to, converted, &converted_ids),
                problems,
            )
        } else {
            native_trees(
                (&from, source, &diff_ids),
                (&to, converted, trace.as_ref()),
                problems,
            )
        };
        let trees = trees.or_else(|error| {
            problems.push(finding(error)?);
            anyhow::Ok(None)
        })?;
        let Some((expected, found)) = trees else {
            return Ok(report);
        };
        report.names = Some(expected.len());
        report.differences = expected.differences(&found, limit.saturating_add(1));
        report.more = report.differences.len() > limit;
        report.differences.truncate(limit);
        Ok(report)
    };
    tokio::task::spawn_blocking(compare).await?
}

/// The root filesystems of the source and of the native image made of it; `None` if a layer is
/// damaged.
fn native_trees(
    (from, source, diff_ids): (&Blobs, &ImageManifest, &[DiffId]),
    (to, converted, trace): (&Blobs, &ImageManifest, Option<&Trace>),
    problems: &mut Vec<String>,
) -> anyhow::Result<Option<(Tree, Tree)>> {
    // Without the one there is nothing to compare the other to.
    let Some(found) = converted_tree(to, converted, trace, problems)? else {
        return Ok(None);
    };
    let mut expected = Tree::bare();
    for (number, (layer, diff_id)) in source.layers.iter().zip(diff_ids).enumerate() {
        let applied = from.untar(layer, diff_id, |tar| expected.add_layer(number, tar));
        applied.context("the source")?;
    }
    Ok(Some((expected, found)))
}

/// Compares the configs; both of them.
async fn configs(
    source: &Repository,
    converted: &Repository,
    pair: &Pair,
    problems: &mut Vec<String>,
) -> anyhow::Result<(ImageConfig, ImageConfig)> {
    let from = fetch::config(source, &pair.source.manifest.config)
        .await
        .context("the source's config")?;
    let to = fetch::config(converted, &pair.converted.manifest.config).await?;
    let source_config = ImageConfig::parse(&from)?;
    let config = ImageConfig::parse(&to)?;
    // That of a TurboOCI layer is of the tar in it, and is verified with it.
    let layers = pair.converted.manifest.layers.iter();
    let is_right = |(layer, diff_id): (&Descriptor, &DiffId)| {
        is_turbo_layer(layer) || layer.digest == diff_id.0
    };
    let count = pair.converted.manifest.layers.len();
    if config.diff_ids.len() != count || !layers.zip(&config.diff_ids).all(is_right) {
        problems.push("the config's diff ids are not its layers' digests".to_owned());
    }
    let mut found = without_diff_ids(&to)?;
    let top = pair.converted.manifest.layers.last();
    if top.is_some_and(is_acceleration_layer) {
        acceleration::without_history(&mut found);
    }
    if without_diff_ids(&from)? != found {
        let text = "the config is not the source's, in more than the diff ids";
        problems.push(text.to_owned());
    }
    Ok((source_config, config))
}

fn without_diff_ids(config: &[u8]) -> anyhow::Result<Value> {
    let mut value = json::parse(config)
        .map_err(|error| Damaged(format!("a config that is no JSON: {error}")))?;
    if let Some(rootfs) = value.get_mut("rootfs").and_then(Value::as_object_mut) {
        rootfs.remove("diff_ids");
    }
    Ok(value)
}
