//! The one place where a finished image leaves for its destination.

use crate::convert::push::{Parts, PushSummary, push};
use crate::convert::{ConvertError, ConvertedImage, PushTarget, Source, Suffixes};
use crate::oci::{RepoName, Selector};
use crate::registry::{self, Authorization, Upstream};

/// Where a converted image goes.
#[derive(Clone)]
pub struct Destination {
    /// The registry or layout.
    pub upstream: Upstream,
    /// The repository.
    pub repo: RepoName,
    /// The tag.
    pub selector: Selector,
}

impl Destination {
    /// Where the converter itself puts each layer as soon as it is made, so that the database
    /// names it there and the next run finds it; `None` where nothing is found again.
    pub fn target(&self) -> Option<PushTarget> {
        let is_registry = matches!(self.upstream, Upstream::Registry(_));
        is_registry.then(|| PushTarget {
            upstream: Some(self.upstream.clone()),
            repo: Some(self.repo.clone()),
            // The user names the tag: none is made here.
            suffixes: Suffixes::default(),
            overwrite_tags: false,
        })
    }

    /// Sees that images can be put there, before any work is done.
    ///
    /// # Errors
    /// When a registry cannot be reached or does not allow a push, or a layout cannot be written.
    pub async fn try_out(&self) -> Result<(), registry::Error> {
        let own = Authorization::Own;
        self.upstream.try_push(&self.repo, &own).await
    }

    /// Brings a converted image, and what its index keeps unconverted, there.
    ///
    /// # Errors
    /// When a part cannot be had, or is not taken.
    pub async fn take(
        &self,
        parts: Parts<'_>,
        image: &ConvertedImage,
        source: &Source,
    ) -> Result<PushSummary, ConvertError> {
        let summary = push(
            parts,
            image,
            source,
            &self.upstream,
            &self.repo,
            &self.selector,
        )
        .await?;
        self.upstream.finish().await?;
        Ok(summary)
    }
}
