//! The blobs of a converted image: each verified, and all of them read as one disk.

use std::sync::Arc;

use anyhow::Context as _;

use super::acceleration::check_ranges;
use super::annotations::check_blob;
use super::fetch::Blobs;
use super::report::{Damaged, finding};
use super::tree::Tree;
use crate::format::blob::{LayerBlob, Stack};
use crate::format::block::FileDevice;
use crate::format::prefetch::Trace;
use crate::oci::{Descriptor, Digest, ImageManifest};

/// The converted root filesystem. `trace` is what is read ahead of it. `None` if a layer is damaged; all layers are read nevertheless,
/// and `problems` names those that are.
pub(super) fn converted_tree(
    blobs: &Blobs,
    manifest: &ImageManifest,
    trace: Option<&Trace>,
    problems: &mut Vec<String>,
) -> anyhow::Result<Option<Tree>> {
    // Without layers there is no disk; what they make is an empty root.
    if manifest.layers.is_empty() {
        return Ok(Some(Tree::bare()));
    }
    let mut layers: Vec<Arc<LayerBlob>> = Vec::new();
    let mut below: Option<&Digest> = None;
    for layer in &manifest.layers {
        check_blob(layer, problems);
        match native_layer(blobs, layer) {
            Ok(blob) => {
                refusals(&blob, layer, problems);
                parents(&blob, layer, below, layers.last(), problems);
                layers.push(Arc::new(blob));
            }
            Err(error) => problems.push(finding(error)?),
        }
        below = Some(&layer.digest);
    }
    if layers.len() != manifest.layers.len() {
        return Ok(None);
    }
    if let Some(trace) = trace {
        check_ranges(trace, &layers, problems);
    }
    let stack = Stack::new(layers)?;
    Ok(Some(
        Tree::from_filesystem(stack).context("the converted root filesystem")?,
    ))
}

/// A native layer, of which every block was verified.
pub(super) fn native_layer(blobs: &Blobs, layer: &Descriptor) -> anyhow::Result<LayerBlob> {
    let name = || format!("layer {}", layer.digest);
    let file = blobs.to_file(layer).with_context(name)?;
    let device = FileDevice::new(file).with_context(name)?;
    let blob = LayerBlob::open_readable(Arc::new(device)).with_context(name)?;
    // The file is a local copy: what cannot be read of it is damaged.
    blob.verify()
        .map_err(|error| Damaged(error.to_string()))
        .with_context(name)?;
    Ok(blob)
}

/// What overlaybd refuses, although it can be read here.
pub(super) fn refusals(blob: &LayerBlob, layer: &Descriptor, problems: &mut Vec<String>) {
    let digest = &layer.digest;
    problems.extend(blob.refusals().iter().map(|refusal| {
        format!(
            "layer {digest}: overlaybd refuses it: {refusal}: convert the image again, or pull \
             its tag through a proxy of this version"
        )
    }));
}

/// Compares what a blob says of the layer below with the layer below.
pub(super) fn parents(
    blob: &LayerBlob,
    layer: &Descriptor,
    below: Option<&Digest>,
    below_blob: Option<&Arc<LayerBlob>>,
    problems: &mut Vec<String>,
) {
    let digest = &layer.digest;
    if let Some(parent) = tagged_parent(blob.user_tag())
        && parent.as_ref() != below
    {
        let parent = parent.map_or("nothing".to_owned(), |parent| parent.to_string());
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

/// The blob below, as the LSMT `user_tag` of this program's blobs has it:
/// `overlaybd-proxy/VERSION parent=DIGEST`, or `none` at the bottom, and what orders its data
/// behind that. Other tools' tags do not name it.
#[allow(clippy::option_option)]
fn tagged_parent(tag: &str) -> Option<Option<Digest>> {
    let (version, parent) = tag
        .strip_prefix("overlaybd-proxy/")?
        .split_once(" parent=")?;
    version.parse::<u32>().ok()?;
    match parent.split(' ').next()? {
        "none" => Some(None),
        digest => digest.parse().ok().map(Some),
    }
}
