//! Loads an image that was converted before, from the index and the store.

use bytes::Bytes;

use super::super::context::Context;
use super::super::errors::document_error;
use super::super::threads::blocking;
use super::super::variant;
use super::document::{converted_manifest, part_digests};
use super::job::ImageJob;
use crate::convert::error::ConvertError;
use crate::convert::types::{ConvertedImage, Source, StoredManifest};
use crate::oci::{Digest, Manifest};

/// The converted image of a source manifest, if it is recorded for this repository and its
/// manifests are in the store.
pub(in super::super) async fn load(
    context: &Context,
    source: &Source,
    manifest: &Digest,
) -> Result<Option<ConvertedImage>, ConvertError> {
    let own = &context.image_variant;
    if let Some(image) = load_variant(context, source, manifest, own).await? {
        return Ok(Some(image));
    }
    if !context.config.trust_foreign_layers {
        return Ok(None);
    }
    let foreign = variant::with_foreign_layers(own);
    let image = load_variant(context, source, manifest, &foreign).await?;
    Ok(image.map(|mut image| {
        for one in &mut image.manifests {
            one.has_foreign_layers = true;
        }
        image
    }))
}

async fn load_variant(
    context: &Context,
    source: &Source,
    manifest: &Digest,
    variant: &str,
) -> Result<Option<ConvertedImage>, ConvertError> {
    let index = context.store.index();
    let built = index.find_built_manifest(manifest, variant).await?;
    let Some((media_type, row)) = built else {
        return Ok(None);
    };
    // An image that another repository has is not loaded for this one: a conversion, which
    // finds all layers, proves that the request may read the source's layers, and links them.
    let (host, repo) = (source.upstream.host(), &source.repo);
    if !index.is_linked(host, repo, &row.digest, manifest).await? {
        return Ok(None);
    }
    // An image that is converted but not pushed is pushed by a conversion, which finds all layers.
    let destination = context.destination(source);
    if destination.is_pushed
        && !index
            .is_pushed(&destination.host, &destination.repo, &row.digest)
            .await?
    {
        return Ok(None);
    }
    let Some(root) = stored_manifest(context, &row.digest, &media_type).await? else {
        return Ok(None);
    };
    decode(context, source, manifest, root).await
}

/// Decodes a converted manifest or index with its entries; `None` if an entry is not in the
/// store.
async fn decode(
    context: &Context,
    at: &Source,
    source: &Digest,
    root: StoredManifest,
) -> Result<Option<ConvertedImage>, ConvertError> {
    let mut image = ConvertedImage::unchanged(source, root);
    let mut open = vec![(image.root.clone(), None)];
    while let Some((stored, platform)) = open.pop() {
        let parsed = Manifest::parse(&stored.media_type, &stored.bytes)
            .map_err(|error| document_error("converted manifest", &stored.digest, error))?;
        let index = match parsed {
            Manifest::Image(parsed) => {
                let one = converted_manifest(source, platform, stored, parsed);
                image.manifests.push(one);
                continue;
            }
            Manifest::Index(index) => index,
        };
        if stored.digest != image.root.digest {
            image.indexes.push(stored);
        }
        // Pushed in reverse, so that the images keep the index's order.
        for entry in index.manifests.into_iter().rev() {
            if !is_converted_from(context, at, source, &entry.digest).await? {
                image.kept.push(entry);
                continue;
            }
            let Some(stored) = stored_manifest(context, &entry.digest, &entry.media_type).await?
            else {
                return Ok(None);
            };
            open.push((stored, entry.platform));
        }
    }
    image.kept.reverse();
    // Those within others first.
    image.indexes.reverse();
    Ok(Some(image))
}

/// Whether an entry of a converted index was made by a conversion of `source`.
async fn is_converted_from(
    context: &Context,
    at: &Source,
    source: &Digest,
    entry: &Digest,
) -> Result<bool, ConvertError> {
    let (host, index) = (at.upstream.host(), context.store.index());
    Ok(index.is_linked(host, &at.repo, entry, source).await?)
}

/// A manifest or index of the store, or of the object storage.
async fn stored_manifest(
    context: &Context,
    digest: &Digest,
    media_type: &str,
) -> Result<Option<StoredManifest>, ConvertError> {
    let found = local_manifest(context, digest, media_type).await?;
    if found.is_none() && context.store.fetch(digest).await {
        return local_manifest(context, digest, media_type).await;
    }
    Ok(found)
}

/// A manifest or index of the store.
pub(in super::super) async fn local_manifest(
    context: &Context,
    digest: &Digest,
    media_type: &str,
) -> Result<Option<StoredManifest>, ConvertError> {
    let (blobs, wanted) = (context.store.blobs().clone(), digest.clone());
    let limit = crate::registry::config::MAX_MANIFEST;
    let bytes = blocking(move || {
        let Some(file) = blobs.open(&wanted)? else {
            return Ok(None);
        };
        let Some(size) = usize::try_from(file.size())
            .ok()
            .filter(|size| *size <= limit)
        else {
            return Ok(None);
        };
        let mut bytes = vec![0; size];
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Ok(Some(bytes)),
            Err(cause) => Err(document_error("the stored manifest", &wanted, cause)),
        }
    })
    .await?;
    // Small, and all else depends on it: verified each time.
    Ok(bytes
        .filter(|bytes| Digest::of(bytes) == *digest)
        .map(|bytes| StoredManifest {
            digest: digest.clone(),
            media_type: media_type.to_owned(),
            bytes: Bytes::from(bytes),
        }))
}

/// Whether every part of a recorded image is in the store, in the object storage, or in the registry
/// that it is pushed to. The parts in the store are pinned for the job.
pub(super) async fn is_complete(
    job: &ImageJob<'_>,
    image: &ConvertedImage,
) -> Result<bool, ConvertError> {
    let wanted = part_digests(image);
    let blobs = job.context.store.blobs().clone();
    let (pins, missing) = blocking(move || {
        let (mut pins, mut missing) = (Vec::new(), Vec::new());
        for digest in wanted {
            match blobs.open(&digest)? {
                Some(file) => pins.push(file.pin()?),
                None => missing.push(digest),
            }
        }
        Ok((pins, missing))
    })
    .await?;
    job.pins.extend(pins);
    let asked = Box::pin(job.context.store.missing_in_bucket(missing));
    let missing = job.deadline.within(asked).await?;
    let is_foreign = image.manifests.iter().any(|one| one.has_foreign_layers);
    if !job.destination.is_pushed && !is_foreign {
        return Ok(missing.is_empty());
    }
    // Another tool's layers are in the source's registry, unless the image is pushed elsewhere.
    let target = job.destination.as_source(job.source);
    for digest in missing {
        let size = target
            .upstream
            .blob_size(&target.repo, &digest, &target.authorization)
            .await;
        match size {
            Ok(_) => {}
            Err(error) if error.is_not_found() => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}
