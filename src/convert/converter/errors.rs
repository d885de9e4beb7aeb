//! The errors of jobs, made from what failed.

use std::fmt::Display;
use std::sync::Arc;

use super::super::error::{ConvertError, LayerError};
use super::super::plan::Step;
use crate::oci::Digest;
use crate::registry::RawManifest;
use crate::store::BlobError;

/// The error of a manifest, index or config that cannot be used.
pub(super) fn document_error(
    what: &'static str,
    digest: &Digest,
    cause: impl Display,
) -> ConvertError {
    ConvertError::Document {
        what,
        digest: digest.clone(),
        cause: cause.to_string(),
    }
}

/// The error of a manifest that is not one of an image.
pub(super) fn not_image(raw: &RawManifest, kind: String) -> ConvertError {
    ConvertError::NotImage {
        manifest: raw.digest.clone(),
        kind,
    }
}

/// The error of a layer that cannot be converted.
pub(super) fn layer_error(step: &Step, cause: LayerError) -> ConvertError {
    ConvertError::Layer {
        layer: step.layer.digest.clone(),
        cause: Arc::new(cause),
    }
}

/// Why a thread that makes a blob failed.
pub(super) enum BlobThreadError {
    Blobs(BlobError),
    Layer(LayerError),
}

impl From<BlobError> for BlobThreadError {
    fn from(error: BlobError) -> Self {
        Self::Blobs(error)
    }
}

impl From<LayerError> for BlobThreadError {
    fn from(error: LayerError) -> Self {
        Self::Layer(error)
    }
}
