//! An upstream's yes to a question, cached for seconds, and for hours in case that the upstream
//! fails (`stale-if-error`, RFC 5861 § 4).

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::future::Cache;

use crate::registry::{self, Error};

/// Most decisions remembered.
const MAX_DECISIONS: u64 = 100_000;
/// How long an upstream may take whose earlier yes is at hand; at most half of a request's hold.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest time that an earlier yes is kept.
const MAX_STALE: Duration = Duration::from_hours(24 * 365);
/// How long an upstream that failed is not asked again.
const REPEAT_AFTER: Duration = Duration::from_secs(10);
/// Most upstreams that are remembered as silent.
const MAX_UPSTREAMS: u64 = 4096;

/// What a decision is known by: a question and the credentials that it is asked with, hashed.
pub(in crate::server) type Key = [u8; 32];

/// An upstream's yes, with what else it said.
#[derive(Debug, Clone)]
pub(in crate::server) struct Allowed<T> {
    /// What was asked for.
    pub answer: T,
    /// Until when it is a yes: counted from the question.
    pub until: Instant,
    /// When the upstream said so.
    pub since: Instant,
    /// Whether it is an earlier yes, in place of an answer that did not come.
    pub is_stale: bool,
}

impl<T> Allowed<T> {
    /// A yes to one request and no other.
    pub fn once(answer: T) -> Self {
        let now = Instant::now();
        Self {
            answer,
            until: now,
            since: now,
            is_stale: false,
        }
    }

    /// An earlier yes, in place of an answer.
    fn again(self) -> Self {
        Self {
            until: Instant::now() + REPEAT_AFTER,
            is_stale: true,
            ..self
        }
    }
}

/// Whether a decision was remembered, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Remembered {
    /// It was.
    Yes,
    /// The upstream was asked.
    No,
}

/// The upstreams, by their places, that did not answer a moment ago: whoever has an earlier yes
/// does not wait for them anew. Cheap to clone; the clones are the same.
#[derive(Clone)]
pub(in crate::server) struct SilentUpstreams(Cache<usize, ()>);

impl Default for SilentUpstreams {
    fn default() -> Self {
        let cache = Cache::builder().max_capacity(MAX_UPSTREAMS);
        Self(cache.time_to_live(REPEAT_AFTER).build())
    }
}

/// Questions of one kind, and what upstreams said to them. A refusal is never cached.
pub(in crate::server) struct Decisions<T> {
    cache: Cache<Key, Allowed<T>>,
    /// The last yes, which holds while the upstream fails; `None` if it does not.
    earlier: Option<Cache<Key, Allowed<T>>>,
    silent: SilentUpstreams,
    patience: Duration,
    lifetime: Duration,
}

impl<T: Clone + Send + Sync + 'static> Decisions<T> {
    /// A yes holds for `lifetime`, and while the upstream fails for `stale_if_error`. Requests are
    /// held for `hold`.
    pub fn new(
        lifetime: Duration,
        stale_if_error: Duration,
        hold: Duration,
        silent: SilentUpstreams,
    ) -> Self {
        let cache = |lifetime| {
            Cache::builder()
                .max_capacity(MAX_DECISIONS)
                .time_to_live(lifetime)
                .build()
        };
        Self {
            cache: cache(lifetime),
            earlier: (!stale_if_error.is_zero()).then(|| cache(stale_if_error.min(MAX_STALE))),
            silent,
            patience: PATIENCE.min(hold / 2),
            lifetime,
        }
    }

    /// What the upstream said, or says now to `question`. Requests that ask the same at the same
    /// time ask once.
    ///
    /// # Errors
    /// The upstream's no, or that there is no answer.
    pub async fn ask(
        &self,
        key: Key,
        place: usize,
        host: &str,
        question: impl Future<Output = Result<T, Error>>,
    ) -> Result<(Allowed<T>, Remembered), Error> {
        self.ask_within(Duration::MAX, key, place, host, question)
            .await
    }

    /// As [`Decisions::ask`], where an answer that is older than `max_age` is asked for again.
    ///
    /// # Errors
    /// As [`Decisions::ask`].
    pub async fn ask_within(
        &self,
        max_age: Duration,
        key: Key,
        place: usize,
        host: &str,
        question: impl Future<Output = Result<T, Error>>,
    ) -> Result<(Allowed<T>, Remembered), Error> {
        if let Some(allowed) = self.cache.get(&key).await {
            // One that stands in for an answer has a time of its own.
            let is_fresh = allowed.is_stale || allowed.since.elapsed() < max_age;
            if is_fresh && allowed.until > Instant::now() {
                return Ok((allowed, Remembered::Yes));
            }
            self.cache.invalidate(&key).await;
        }
        let mut remembered = Remembered::Yes;
        // On the heap, because it is large and seldom needed.
        let ask = Box::pin(async {
            remembered = Remembered::No;
            self.ask_upstream(key, place, host, question).await
        });
        let allowed = if self.lifetime.is_zero() {
            ask.await?
        } else {
            Box::pin(self.cache.try_get_with(key, ask))
                .await
                .map_err(|error: Arc<registry::Error>| (*error).clone())?
        };
        Ok((allowed, remembered))
    }

    /// Remembers an upstream's yes as the answer to another question, too; not in case that the
    /// upstream fails, because it was not asked that one.
    pub async fn insert_as(&self, key: Key, allowed: &Allowed<T>) {
        if self.lifetime.is_zero() || allowed.is_stale {
            return;
        }
        self.cache.insert(key, allowed.clone()).await;
    }

    /// Asks the upstream. Where it fails, its last yes to the same question is the answer; a no is
    /// a no.
    async fn ask_upstream(
        &self,
        key: Key,
        place: usize,
        host: &str,
        question: impl Future<Output = Result<T, Error>>,
    ) -> Result<Allowed<T>, Error> {
        let since = Instant::now();
        let Some(earlier) = self.earlier(&key).await else {
            return self.decide(key, since, question.await).await;
        };
        if self.silent.0.contains_key(&place) {
            return Ok(earlier);
        }
        let answer = tokio::time::timeout(self.patience, question).await;
        let answer = answer.unwrap_or_else(|_| {
            Err(Error::TimedOut {
                place: host.to_owned(),
                what: "answer",
                after: self.patience,
            })
        });
        match answer {
            Err(error) if error.is_failing() => {
                tracing::warn!(%error,
                    "the upstream fails: its earlier yes holds (--stale-if-error)");
                if matches!(error, Error::Unreachable { .. } | Error::TimedOut { .. }) {
                    self.silent.0.insert(place, ()).await;
                }
                Ok(earlier)
            }
            answer => self.decide(key, since, answer).await,
        }
    }

    /// The last yes to a question, to be used in place of an answer.
    pub async fn earlier(&self, key: &Key) -> Option<Allowed<T>> {
        let earlier = self.earlier.as_ref()?.get(key).await?;
        Some(earlier.again())
    }

    /// What is remembered of an answer.
    async fn decide(
        &self,
        key: Key,
        since: Instant,
        answer: Result<T, Error>,
    ) -> Result<Allowed<T>, Error> {
        match answer {
            Ok(answer) => {
                let allowed = Allowed {
                    answer,
                    until: since + self.lifetime,
                    since,
                    is_stale: false,
                };
                if let Some(earlier) = &self.earlier {
                    earlier.insert(key, allowed.clone()).await;
                }
                Ok(allowed)
            }
            Err(error) => {
                if !error.is_failing() {
                    self.forget_earlier(&key).await;
                }
                Err(error)
            }
        }
    }

    /// Forgets what was allowed, so that the upstream is asked anew.
    pub async fn forget(&self, key: &Key) {
        self.cache.invalidate(key).await;
        self.forget_earlier(key).await;
    }

    async fn forget_earlier(&self, key: &Key) {
        if let Some(earlier) = &self.earlier {
            earlier.invalidate(key).await;
        }
    }
}
