//! Publishes a converted image: its documents to the registry, and what it is in the index.

use super::super::context::Context;
use super::super::destination::Destination;
use super::super::variant;
use super::document::{manifest_digests, part_digests};
use super::job::ImageJob;
use crate::convert::error::ConvertError;
use crate::convert::layer::Format;
use crate::convert::push::push;
use crate::convert::types::{ConvertedImage, StoredManifest};
use crate::oci::{Digest, Selector};
use crate::store::{ManifestKey, Origin};

/// Pushes an image's documents if images are pushed, then records all of it.
pub(super) async fn publish(
    job: &ImageJob<'_>,
    image: &ConvertedImage,
) -> Result<(), ConvertError> {
    let ImageJob {
        context,
        source,
        destination,
        ..
    } = job;
    if destination.is_pushed {
        let selector = Selector::Digest(image.root.digest.clone());
        let (to, repo) = (&destination.upstream, &destination.repo);
        push(&context.store, image, source, to, repo, &selector).await?;
    }
    let parts = part_digests(image);
    let index = context.store.index();
    let host = source.upstream.host();
    index
        .link(host, &source.repo, &image.source, &parts)
        .await?;
    // Each entry of an index is an image that may be asked for by itself.
    for one in image
        .manifests
        .iter()
        .filter(|one| one.source != image.source)
    {
        let parts = manifest_digests(one);
        index.link(host, &source.repo, &one.source, &parts).await?;
        record(job, &one.source, &one.manifest, one.has_foreign_layers).await?;
    }
    // What the upstream did not have, it may have the next time.
    if image.is_partial {
        return Ok(());
    }
    let is_foreign = image.manifests.iter().any(|one| one.has_foreign_layers);
    record(job, &image.source, &image.root, is_foreign).await?;
    if destination.is_pushed && context.config.settings.format == Format::Native {
        share_manifest(context, destination, image).await?;
    }
    Ok(())
}

/// Records what a source manifest became.
async fn record(
    job: &ImageJob<'_>,
    source: &Digest,
    made: &StoredManifest,
    is_foreign: bool,
) -> Result<(), ConvertError> {
    let (context, destination) = (job.context, &job.destination);
    let index = context.store.index();
    let variant = if is_foreign {
        variant::with_foreign_layers(&context.image_variant)
    } else {
        context.image_variant.to_string()
    };
    let (kind, digest, size) = (&made.media_type, &made.digest, made.bytes.len() as u64);
    index
        .put_built_manifest(source, &variant, kind, digest, size)
        .await?;
    if destination.is_pushed {
        let (host, repo) = (&destination.host, &destination.repo);
        index.put_pushed(host, repo, digest).await?;
    }
    Ok(())
}

/// Adds the manifest, which the registry has, to the table that is shared with the reference
/// converter. A row that another tool wrote stays.
async fn share_manifest(
    context: &Context,
    destination: &Destination,
    image: &ConvertedImage,
) -> Result<(), ConvertError> {
    let index = context.store.index();
    let (root, size) = (&image.root, image.root.bytes.len() as u64);
    let key = ManifestKey {
        host: destination.host.clone(),
        repo: destination.repo.clone(),
        source: image.source.clone(),
        media_type: root.media_type.clone(),
    };
    match index.find_manifest(&key).await? {
        Some(row) if row.digest != root.digest && row.origin != Origin::Foreign => {
            index
                .replace_shared_manifest(&key, &root.digest, size, &row.digest)
                .await?;
        }
        Some(_) => {}
        None => index.share_manifest(&key, &root.digest, size).await?,
    }
    Ok(())
}
