//! How large a source image is, before anything of it is converted.

use super::super::errors::document_error;
use super::index::{MAX_DEPTH, MAX_ENTRIES, wants};
use super::source::{parse_manifest, source_layers, source_manifest};
use crate::convert::error::ConvertError;
use crate::convert::types::{Platforms, Source};
use crate::oci::{Digest, Manifest};

/// How many bytes the layers of a source image have, as they are compressed there. Of an index it is
/// the largest image of those for `platforms`; `None` if there is none, or if it is no image.
///
/// # Errors
/// When the upstream does not answer, or a document is none.
pub async fn source_size(
    source: &Source,
    manifest: &Digest,
    platforms: &Platforms,
) -> Result<Option<u64>, ConvertError> {
    let mut largest = None;
    let mut open = vec![(manifest.clone(), 0)];
    let mut count: usize = 0;
    while let Some((digest, depth)) = open.pop() {
        let raw = match source_manifest(source, &digest).await {
            Ok(raw) => raw,
            // An entry that is not there is not converted either.
            Err(ConvertError::Upstream(error)) if depth > 0 && error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        let index = match parse_manifest(&raw) {
            Ok(Manifest::Index(index)) => index,
            Ok(Manifest::Image(image)) if image.is_image() => {
                let layers = source_layers(source, &image).await?;
                let sizes = layers.iter().map(|layer| layer.size);
                largest = largest.max(Some(sizes.fold(0, u64::saturating_add)));
                continue;
            }
            Ok(Manifest::Image(_)) | Err(ConvertError::NotImage { .. }) => continue,
            Err(error) => return Err(error),
        };
        count = count.saturating_add(index.manifests.len());
        if count > MAX_ENTRIES || depth >= MAX_DEPTH {
            let cause = format!("has over {MAX_ENTRIES} entries, or indexes over {MAX_DEPTH} deep");
            return Err(document_error("index", &raw.digest, cause));
        }
        // An entry without a platform may be for any.
        let wanted = index.manifests.into_iter().filter(|entry| {
            !entry.is_attestation()
                && entry
                    .platform
                    .as_ref()
                    .is_none_or(|platform| wants(platforms, platform))
        });
        open.extend(wanted.map(|entry| (entry.digest, depth + 1)));
    }
    Ok(largest)
}
