//! Whether a manifest in a registry is one that this program made.
//!
//! A tag may be replaced only then. So annotations of the manifest are not enough: either the
//! index records that a source was converted to this manifest, or every layer's blob has this
//! program's LSMT user tag, which names the blob below it. The latter works without the index,
//! and for what another replica or an older version made.

use std::sync::Arc;

use super::super::error::ConvertError;
use super::super::image::{disk_layers, has_overlaybd_layers, is_turbo_layer};
use super::super::layer::LayerBlob;
use super::super::remote::RemoteBlob;
use super::super::scratch::Scratch;
use super::super::tag::UserTag;
use super::super::turbo;
use super::super::types::Source;
use super::context::Context;
use super::destination::Destination;
use super::threads::{blocking, on_thread};
use crate::format::block::SharedDevice;
use crate::oci::{Digest, ImageManifest, Manifest, Selector};
use crate::registry::{self, RawManifest};

/// Most entries of an index that are examined.
const MAX_ENTRIES: usize = 64;

/// Whether this program made a manifest of `destination`, where images from `source` are pushed.
pub(super) async fn is_own_manifest(
    context: &Context,
    source: &Source,
    destination: &Destination,
    raw: &RawManifest,
) -> Result<bool, ConvertError> {
    if is_recorded(context, source, destination, &raw.digest).await? {
        return Ok(true);
    }
    let target = destination.as_own_source();
    let index = match Manifest::parse(&raw.media_type, &raw.bytes) {
        Ok(Manifest::Image(image)) => return is_tagged(context, &target, &image).await,
        Ok(Manifest::Index(index)) if index.manifests.len() <= MAX_ENTRIES => index,
        _ => return Ok(false),
    };
    // Entries that are not converted stay as they were in the source's index.
    let mut has_tagged = false;
    for entry in &index.manifests {
        let Some(image) = image_of(&target, &entry.digest).await? else {
            continue;
        };
        if has_overlaybd_layers(&image) {
            if !is_tagged(context, &target, &image).await? {
                return Ok(false);
            }
            has_tagged = true;
        }
    }
    Ok(has_tagged)
}

/// Whether the index records that a source was converted to this manifest, and that it was pushed.
async fn is_recorded(
    context: &Context,
    source: &Source,
    destination: &Destination,
    digest: &Digest,
) -> Result<bool, ConvertError> {
    let index = context.store.index();
    if !index
        .is_pushed(&destination.host, &destination.repo, digest)
        .await?
    {
        return Ok(false);
    }
    let host = source.upstream.host();
    let sources = index.sources(host, &source.repo, digest).await?;
    // A source that is an overlaybd image is recorded as converted to itself.
    Ok(sources.iter().any(|source| source != digest))
}

/// The image manifest that an entry of an index names, if it is one and is there.
async fn image_of(target: &Source, digest: &Digest) -> Result<Option<ImageManifest>, ConvertError> {
    let selector = Selector::Digest(digest.clone());
    let fetched = target
        .upstream
        .manifest(&target.repo, &selector, &target.authorization)
        .await;
    let raw = match fetched {
        Ok(raw) => raw,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(match Manifest::parse(&raw.media_type, &raw.bytes) {
        Ok(Manifest::Image(image)) => Some(image),
        _ => None,
    })
}

/// Whether every layer's blob has this program's user tag, of any version, over the one below.
async fn is_tagged(
    context: &Context,
    target: &Source,
    image: &ImageManifest,
) -> Result<bool, ConvertError> {
    if !has_overlaybd_layers(image) {
        return Ok(false);
    }
    let mut below = None;
    let (layers, _) = disk_layers(&image.layers);
    for layer in layers {
        let digest = layer.digest.clone();
        let size = target
            .upstream
            .size_of(&target.repo, layer, &target.authorization)
            .await?;
        let device: SharedDevice = Arc::new(RemoteBlob::new(target.clone(), digest, size));
        let opened = if is_turbo_layer(layer) {
            open_turbo(context, device).await?
        } else {
            // Also one that overlaybd refuses: an earlier version made those.
            let opened = blocking(move || Ok(LayerBlob::open_readable(device))).await?;
            opened.map_err(Into::into)
        };
        let blob = match opened {
            Ok(blob) => blob,
            Err(error) => match upstream_error(&*error) {
                Some(error) if !error.is_not_found() => return Err(error.clone().into()),
                _ => return Ok(false),
            },
        };
        match blob.user_tag().parse::<UserTag>() {
            Ok(tag) if tag.parent == below => below = Some(layer.digest.clone()),
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// The metadata of a `TurboOCI` layer, or why it cannot be read.
async fn open_turbo(
    context: &Context,
    device: SharedDevice,
) -> Result<Result<LayerBlob, Box<dyn std::error::Error + Send + Sync>>, ConvertError> {
    let blobs = context.store.blobs().clone();
    on_thread("open", move || {
        let scratch = Arc::new(Scratch::new(blobs.unnamed()?));
        let opened = turbo::open(&device, &mut blobs.unnamed()?, &scratch);
        Ok(opened.map(|(blob, _)| blob).map_err(Into::into))
    })
    .await
}

/// The error of the registry among the causes of `error`.
fn upstream_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a registry::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<std::io::Error>();
        let inner = inner.and_then(std::io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| inner.downcast_ref()) {
            return Some(found);
        }
        next = error.source();
    }
    None
}
