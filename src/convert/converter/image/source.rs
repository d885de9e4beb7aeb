//! Reads the documents of a source image.

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;

use super::super::errors::{document_error, not_image};
use crate::convert::error::ConvertError;
use crate::convert::plan::SourceLayer;
use crate::convert::types::Source;
use crate::oci::{Descriptor, Digest, ImageManifest, Manifest, ManifestError, Selector};
use crate::registry::RawManifest;

/// The longest image config that is read.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// A manifest or index of the source.
pub(super) async fn source_manifest(
    source: &Source,
    digest: &Digest,
) -> Result<RawManifest, ConvertError> {
    let selector = Selector::Digest(digest.clone());
    Ok(source
        .upstream
        .manifest(&source.repo, &selector, &source.authorization)
        .await?)
}

/// A source document as a manifest or index.
pub(super) fn parse_manifest(raw: &RawManifest) -> Result<Manifest, ConvertError> {
    Manifest::parse(&raw.media_type, &raw.bytes).map_err(|error| match error {
        ManifestError::UnknownKind(kind) => not_image(raw, kind),
        error => document_error("manifest", &raw.digest, error),
    })
}

/// The layers of a source manifest, with the sizes that it may leave out.
pub(super) async fn source_layers(
    source: &Source,
    parsed: &ImageManifest,
) -> Result<Vec<SourceLayer>, ConvertError> {
    let mut layers = Vec::with_capacity(parsed.layers.len());
    for layer in &parsed.layers {
        let size = source
            .upstream
            .size_of(&source.repo, layer, &source.authorization);
        layers.push(SourceLayer {
            media_type: layer.media_type.clone(),
            digest: layer.digest.clone(),
            size: size.await?,
        });
    }
    Ok(layers)
}

/// The bytes of a source config, verified.
pub(super) async fn source_config(
    source: &Source,
    config: &Descriptor,
) -> Result<Bytes, ConvertError> {
    if let Some(data) = &config.data {
        return Ok(data.clone());
    }
    let size = source
        .upstream
        .size_of(&source.repo, config, &source.authorization)
        .await?;
    if size > MAX_CONFIG_BYTES {
        let cause = format!("has {size} bytes, more than {MAX_CONFIG_BYTES}");
        return Err(document_error("image config", &config.digest, cause));
    }
    let stream = source
        .upstream
        .blob(&source.repo, &config.digest, size, &source.authorization)
        .await?;
    let bytes = stream
        .try_fold(BytesMut::new(), |mut whole, chunk| async move {
            whole.extend_from_slice(&chunk);
            Ok(whole)
        })
        .await?
        .freeze();
    let found = config.digest.of_same_kind(&bytes);
    if found == config.digest {
        return Ok(bytes);
    }
    let cause = format!("the upstream sends other bytes: {found}");
    Err(document_error("image config", &config.digest, cause))
}
