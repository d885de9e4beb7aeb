//! A layer that was converted, as manifests name it.

use crate::oci::{DiffId, Digest};

/// A finished blob, in the file that was given to [`ChainBuilder::add_layer`](super::layer::ChainBuilder::add_layer).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertedLayer {
    /// Digest of the whole blob.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// What a manifest says of it besides, if it is a TurboOCI layer.
    pub turbo: Option<TurboLayer>,
}

/// What a manifest says of a TurboOCI layer, besides its blob's digest and size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurboLayer {
    /// Digest of the tar in the blob.
    pub diff_id: DiffId,
    /// Whether the original layer, in which the data is, is compressed with gzip.
    pub is_gzip: bool,
}
