//! Which image a job converts.

use std::sync::Arc;

use super::super::types::Source;
use crate::oci::{Digest, RepoName};

/// A source manifest or index in its repository, and what is made of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ImageKey {
    pub(super) host: String,
    pub(super) repo: RepoName,
    pub(super) source: Digest,
    /// The settings, as the index names them: format and platforms are among them.
    pub(super) variant: Arc<str>,
}

impl ImageKey {
    pub(super) fn of(source: &Source, manifest: &Digest, variant: &Arc<str>) -> Self {
        Self {
            host: source.upstream.host().to_owned(),
            repo: source.repo.clone(),
            source: manifest.clone(),
            variant: Arc::clone(variant),
        }
    }
}
