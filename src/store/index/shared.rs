//! Rows for the tables that are shared with the reference converter.

use super::values::signed;
use crate::oci::{ChainId, Digest, RepoName};
use crate::store::error::IndexError;

/// A layer for the shared table.
#[derive(Debug, Clone, Copy)]
pub struct SharedLayer<'a> {
    /// The chain that it completes.
    pub chain: &'a ChainId,
    /// The converted blob.
    pub digest: &'a Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The chain below and the blob that this one was built on; `None` at the bottom.
    pub below: Option<(&'a ChainId, &'a Digest)>,
}

/// The same as the databases take it.
#[derive(Debug, Clone)]
pub(super) struct LayerValues {
    pub(super) host: String,
    pub(super) repo: String,
    pub(super) chain: String,
    pub(super) digest: String,
    pub(super) size: i64,
    /// Chain and blob.
    pub(super) below: Option<(String, String)>,
}

impl LayerValues {
    pub(super) fn new(
        host: &str,
        repo: &RepoName,
        layer: &SharedLayer<'_>,
    ) -> Result<Self, IndexError> {
        Ok(Self {
            host: host.to_owned(),
            repo: repo.as_str().to_owned(),
            chain: layer.chain.0.as_str().to_owned(),
            digest: layer.digest.as_str().to_owned(),
            size: signed(layer.size)?,
            below: layer
                .below
                .map(|(chain, digest)| (chain.0.as_str().to_owned(), digest.as_str().to_owned())),
        })
    }
}
