//! Which image a job converts.

use super::super::layer::Format;
use super::super::types::Source;
use crate::oci::{Digest, RepoName};

/// A source manifest or index in its repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ImageKey {
    pub(super) host: String,
    pub(super) repo: RepoName,
    pub(super) source: Digest,
    pub(super) format: Format,
}

impl ImageKey {
    pub(super) fn of(source: &Source, manifest: &Digest, format: Format) -> Self {
        Self {
            host: source.upstream.host().to_owned(),
            repo: source.repo.clone(),
            source: manifest.clone(),
            format,
        }
    }
}
