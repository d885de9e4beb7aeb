//! Where the converted parts of an image belong.

use super::super::types::{PushTarget, Source};
use crate::oci::RepoName;
use crate::registry::{Authorization, Upstream};

/// The repository under which an image's converted parts are recorded, and to which they are
/// pushed if pushing is configured.
#[derive(Debug, Clone)]
pub(super) struct Destination {
    pub(super) upstream: Upstream,
    pub(super) host: String,
    pub(super) repo: RepoName,
    pub(super) is_pushed: bool,
}

impl Destination {
    /// The destination of images from `source`.
    pub(super) fn new(source: &Source, push: Option<&PushTarget>) -> Self {
        let (upstream, repo) = match push {
            None => (&source.upstream, &source.repo),
            Some(target) => target.place(source),
        };
        Self {
            upstream: upstream.clone(),
            host: upstream.host().to_owned(),
            repo: repo.clone(),
            is_pushed: push.is_some(),
        }
    }

    /// The destination as a place to read blobs from: with the proxy's own credentials where
    /// images are pushed, else `source` itself.
    pub(super) fn as_source(&self, source: &Source) -> Source {
        if self.is_pushed {
            self.as_own_source()
        } else {
            source.clone()
        }
    }

    /// The destination, read with the proxy's own credentials.
    pub(super) fn as_own_source(&self) -> Source {
        Source {
            upstream: self.upstream.clone(),
            repo: self.repo.clone(),
            authorization: Authorization::Own,
        }
    }
}
