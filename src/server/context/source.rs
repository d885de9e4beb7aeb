//! What the upstream allows of a source, for answers from the cache of sources.

use std::time::{Duration, Instant};

use crate::oci::{Digest, RepoName, Selector};
use crate::registry;
use crate::server::context::RequestContext;

impl RequestContext<'_> {
    /// As [`RequestContext::ask`]; that there is no such manifest is remembered. What a tag names
    /// is not older than `--tag-ttl` and than what was last written through this proxy.
    ///
    /// # Errors
    /// The upstream's no, or that there is no answer.
    pub async fn ask_for_source(
        &self,
        repo: &RepoName,
        selector: &Selector,
    ) -> Result<registry::ManifestHead, registry::Error> {
        let started = Instant::now();
        let state = self.state;
        let (place, authorization) = (self.chosen.place, &self.authorization);
        let max_age = match (selector, &state.config.source_cache) {
            (Selector::Digest(_), _) => Duration::MAX,
            (Selector::Tag(_), Some(config)) => config.tag_ttl.min(state.missing.since_write()),
            (Selector::Tag(_), None) => Duration::ZERO,
        };
        let permissions = &state.permissions;
        let key = permissions.manifest_key(place, repo, selector, authorization);
        let asked = permissions.source(max_age, &self.chosen, repo, selector, authorization);
        let asked = self.upstream(repo, Box::pin(asked));
        let answer = state.missing.or_ask(key, asked).await;
        let (head, _) = self.decided("head", started, answer)?;
        Ok(head)
    }

    /// Whether this client may read a blob of a source, and until when: with its size, where the
    /// upstream states it. That there is none is remembered.
    ///
    /// # Errors
    /// The upstream's no, or that there is no answer.
    pub async fn ask_for_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<(Option<u64>, Instant), registry::Error> {
        let started = Instant::now();
        let state = self.state;
        let (place, authorization) = (self.chosen.place, &self.authorization);
        let permissions = &state.permissions;
        let key = permissions.blob_key(place, repo, digest, authorization);
        let asked = permissions.blob(&self.chosen, repo, digest, authorization);
        let asked = self.upstream(repo, Box::pin(asked));
        let answer = state.missing.or_ask(key, asked).await;
        self.decided("head", started, answer)
    }
}
