//! What the upstream is asked for one request, and how its answers are counted.

use std::time::{Duration, Instant};

use crate::convert::Source;
use crate::oci::{RepoName, Selector};
use crate::registry;
use crate::server::access::decisions::{Allowed, Remembered};
use crate::server::context::RequestContext;
use crate::server::error::ApiError;
use crate::server::observe::metrics::{CacheName, Called};

impl RequestContext<'_> {
    /// Waits for what tells whether and how something is answered; the request does not count as
    /// being worked on meanwhile.
    ///
    /// # Errors
    /// None in practice: these places have no bound.
    pub async fn aside<T>(&self, work: impl Future<Output = T>) -> Result<T, ApiError> {
        let slots = &self.state.limits.permissions;
        let waited = self.slot.wait(slots, work).await;
        waited.map_err(|full| ApiError::full(full, "waiting requests"))
    }

    /// Waits for an upstream as long as the request is held, and aside.
    pub(super) async fn upstream<T>(
        &self,
        repo: &RepoName,
        work: impl Future<Output = Result<T, registry::Error>>,
    ) -> Result<T, registry::Error> {
        let host = self.chosen.upstream.host();
        let place = || format!("{repo} at {host}");
        let held = self.hold.upstream(place, work);
        // Its places are without bound.
        self.aside(held).await.unwrap_or_else(|_| {
            Err(registry::Error::TimedOut {
                place: place(),
                what: "place to wait",
                after: Duration::ZERO,
            })
        })
    }

    /// The source of a conversion for this request.
    pub fn source(&self, repo: &RepoName) -> Source {
        Source {
            upstream: self.chosen.upstream.clone(),
            repo: repo.clone(),
            authorization: self.authorization.clone(),
        }
    }

    /// The head of a manifest at the upstream, which is the permission to have what it became.
    ///
    /// # Errors
    /// The upstream's no, or that there is no answer.
    pub async fn ask(
        &self,
        repo: &RepoName,
        selector: &Selector,
    ) -> Result<(registry::ManifestHead, Instant), registry::Error> {
        let started = Instant::now();
        let state = self.state;
        let asked = state
            .permissions
            .head(&self.chosen, repo, selector, &self.authorization);
        let answer = self.upstream(repo, Box::pin(asked)).await;
        let (head, until) = self.decided("head", started, answer)?;
        // The first yes is what an answer hangs on.
        let _ = self
            .allowed
            .set((repo.clone(), selector.clone(), head.clone()));
        Ok((head, until))
    }

    /// Until when this client may read the repository, whatever is left in it; while the upstream
    /// does not answer, what it said earlier counts.
    pub(super) async fn may_read(&self, repo: &RepoName, does_answer: bool) -> Option<Instant> {
        let started = Instant::now();
        let permissions = &self.state.permissions;
        let (chosen, authorization) = (&self.chosen, &self.authorization);
        let answer = if does_answer {
            let asked = permissions.repository(chosen, repo, authorization);
            self.upstream(repo, Box::pin(asked)).await
        } else {
            let earlier = permissions.earlier_repository(chosen.place, repo, authorization);
            Ok((earlier.await?, Remembered::Yes))
        };
        match self.decided("tags", started, answer) {
            Ok(((), until)) => Some(until),
            Err(error) => {
                tracing::debug!(%error, "not by its repository");
                None
            }
        }
    }

    /// Counts a decision, and says until when it holds.
    pub(super) fn decided<T>(
        &self,
        call: &'static str,
        started: Instant,
        answer: Result<(Allowed<T>, Remembered), registry::Error>,
    ) -> Result<(T, Instant), registry::Error> {
        let metrics = &self.state.metrics;
        let is_remembered = matches!(answer, Ok((_, Remembered::Yes)));
        metrics.lookup(CacheName::Permission, is_remembered);
        if !is_remembered {
            let host = self.chosen.upstream.host();
            metrics.call(host, call, Called::of(&answer), started.elapsed());
        }
        let (allowed, _) = answer?;
        if allowed.is_stale {
            metrics.stale_permission();
            // The first of several questions that a request asks tells enough.
            let _ = self.stale_since.set(allowed.since);
        }
        Ok((allowed.answer, allowed.until))
    }
}
