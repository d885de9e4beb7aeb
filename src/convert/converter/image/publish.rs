//! Publishes a converted image: its documents to the registry, and what it is in the index.

use super::super::context::Context;
use super::super::conversion_span;
use super::super::destination::Destination;
use super::super::image_records::record_of;
use super::super::status::add;
use super::super::variant;
use super::document::{manifest_digests, part_digests};
use super::job::ImageJob;
use crate::convert::error::ConvertError;
use crate::convert::layer::Format;
use crate::convert::push::{Parts, push};
use crate::convert::types::ConvertedImage;
use crate::oci::Selector;
use crate::registry::Sharing;
use crate::store::{BuiltManifest, ImageRows, ManifestKey, Origin, PartsOf};
use crate::telemetry;

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
        let parts = Parts {
            store: &context.store,
            sharing: Sharing::Blocks,
        };
        let pushing = Box::pin(push(parts, image, source, to, repo, &selector));
        let span = telemetry::child("push image", Vec::new);
        let pushed = span.around(job.deadline.unless_cancelled(pushing)).await;
        match &pushed {
            Ok(Ok(pushed)) => {
                let images = &context.counters.pushed_images;
                // Its layers went before it; the config comes with it.
                add(
                    match pushed.uploaded {
                        0 => &images.present,
                        _ => &images.pushed,
                    },
                    1,
                );
                add(&context.counters.pushed_bytes, pushed.uploaded_bytes);
            }
            Ok(Err(_)) => add(&context.counters.pushed_images.failed, 1),
            // Cancelled.
            Err(_) => {}
        }
        let pushed = pushed
            .and_then(|pushed| pushed)
            .inspect_err(|error| conversion_span::fail(&span, error))?;
        tracing::info!(
            registry = destination.host, %repo, digest = %image.root.digest,
            blobs = pushed.uploaded, bytes = pushed.uploaded_bytes, present = pushed.present,
            "a converted image was pushed"
        );
    }
    let parts = part_digests(image);
    let publishing = Box::pin(context.store.publish(&parts));
    job.deadline.unless_cancelled(publishing).await?;
    let index = context.store.index();
    let span = telemetry::child("record image", Vec::new);
    index.record_image(&rows(job, image)).await?;
    drop(span);
    if !image.is_partial
        && destination.is_pushed
        && context.config.settings.format == Format::Native
    {
        share_manifest(context, destination, image).await?;
    }
    Ok(())
}

/// What is recorded of an image.
fn rows<'a>(job: &'a ImageJob<'_>, image: &'a ConvertedImage) -> ImageRows<'a> {
    let (source, destination) = (job.source, &job.destination);
    // Each entry of an index is an image that may be asked for by itself.
    let entries = image.manifests.iter();
    let entries = entries.filter(|one| one.source != image.source);
    let mut links = vec![PartsOf {
        source: &image.source,
        parts: part_digests(image),
    }];
    links.extend(entries.clone().map(|one| PartsOf {
        source: &one.source,
        parts: manifest_digests(one),
    }));
    let entries = entries.map(|one| (&one.source, &one.manifest, one.has_foreign_layers));
    let is_foreign = image.manifests.iter().any(|one| one.has_foreign_layers);
    let whole = (&image.source, &image.root, is_foreign);
    // What the upstream did not have, it may have the next time.
    let whole = (!image.is_partial).then_some(whole);
    let own = &job.context.image_variant;
    let built = entries
        .chain(whole)
        .map(|(source, made, is_foreign)| BuiltManifest {
            source,
            variant: if is_foreign {
                variant::with_foreign_layers(own)
            } else {
                own.to_string()
            },
            media_type: &made.media_type,
            digest: &made.digest,
            size: made.bytes.len() as u64,
        });
    ImageRows {
        host: source.upstream.host(),
        repo: &source.repo,
        links,
        manifests: built.collect(),
        pushed_to: destination
            .is_pushed
            .then_some((destination.host.as_str(), &destination.repo)),
        record: record_of(
            job.context,
            source,
            image,
            job.tag,
            Some(job.tally.as_ref()),
        ),
    }
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
