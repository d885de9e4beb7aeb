//! The job that converts an image: a manifest or an index in, the converted one out.

mod acceleration;
mod document;
mod index;
mod job;
mod load;
mod manifest;
mod publish;
mod size;
mod source;

pub(super) use document::part_digests;
pub(super) use job::{Halt, ImageJob};
pub(super) use load::{load, local_manifest};
pub use size::source_size;

use super::super::image::is_overlaybd;
use super::super::types::ConvertedImage;
use crate::oci::{Digest, Manifest};
use load::is_complete;
use publish::publish;
use source::{parse_manifest, source_manifest};

/// Converts an image, as far as it is not converted yet.
pub(super) async fn convert(job: &ImageJob<'_>, manifest: &Digest) -> Result<ConvertedImage, Halt> {
    let loading = Box::pin(load(job.context, job.source, manifest));
    if let Some(image) = job.deadline.within(loading).await??
        && is_complete(job, &image).await?
    {
        return Ok(image);
    }
    let raw = source_manifest(job.source, manifest).await?;
    let image = match parse_manifest(&raw)? {
        Manifest::Image(parsed) if is_overlaybd(&parsed) => {
            let root = job
                .store_document(&raw.bytes, &raw.media_type, &raw.digest)
                .await?;
            ConvertedImage::unchanged(manifest, root)
        }
        Manifest::Image(parsed) => {
            let one = job.convert_manifest(&raw, &parsed, None).await?;
            ConvertedImage {
                manifests: vec![one.clone()],
                ..ConvertedImage::unchanged(manifest, one.manifest)
            }
        }
        Manifest::Index(parsed) => {
            let (made, entries) = job.convert_index(&raw, &parsed).await?;
            let root = job
                .store_document(&made.bytes, &made.media_type, &made.digest)
                .await?;
            ConvertedImage {
                manifests: entries.manifests,
                kept: entries.kept,
                indexes: entries.indexes,
                is_partial: entries.is_partial,
                ..ConvertedImage::unchanged(manifest, root)
            }
        }
    };
    publish(job, &image).await?;
    Ok(image)
}
