//! Permissions: an upstream's yes to a client's credentials, cached for seconds, and for hours in
//! case that the upstream fails (`stale-if-error`, RFC 5861 § 4).

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::future::Cache;
use sha2::{Digest as _, Sha256};

use crate::oci::{RepoName, Selector};
use crate::registry::{self, Authorization, ManifestHead};
use crate::server::upstreams::Chosen;

/// Most decisions remembered.
const MAX_PERMISSIONS: u64 = 100_000;
/// How long an upstream may take whose earlier yes is at hand; at most half of a request's hold.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest time that an earlier yes is kept.
const MAX_STALE: Duration = Duration::from_hours(24 * 365);
/// How long an upstream that failed is not asked again.
const REPEAT_AFTER: Duration = Duration::from_secs(10);

/// What upstreams allowed, by credentials. A refusal is never cached.
pub(in crate::server) struct Permissions {
    cache: Cache<[u8; 32], Allowed>,
    /// The last yes, which holds while the upstream fails; `None` if it does not.
    earlier: Option<Cache<[u8; 32], Allowed>>,
    patience: Duration,
    lifetime: Duration,
    /// Of this process only, so that no key tells anything of the credentials behind it.
    secret: [u8; 32],
}

/// An upstream's yes.
#[derive(Debug, Clone)]
pub(in crate::server) struct Allowed {
    /// The manifest that was asked for.
    pub head: ManifestHead,
    /// Until when it is a yes: counted from the question.
    pub until: Instant,
    /// When the upstream said so.
    pub since: Instant,
    /// Whether it is an earlier yes, in place of an answer that did not come.
    pub is_stale: bool,
}

impl Permissions {
    /// A yes holds for `lifetime`, and while the upstream fails for `stale_if_error`. Requests are
    /// held for `hold`.
    pub fn new(lifetime: Duration, stale_if_error: Duration, hold: Duration) -> Self {
        let cache = |lifetime| {
            Cache::builder()
                .max_capacity(MAX_PERMISSIONS)
                .time_to_live(lifetime)
                .build()
        };
        Self {
            cache: cache(lifetime),
            earlier: (!stale_if_error.is_zero()).then(|| cache(stale_if_error.min(MAX_STALE))),
            patience: PATIENCE.min(hold / 2),
            lifetime,
            secret: rand::random(),
        }
    }

    /// Asks the upstream for a manifest's head with these credentials: that resolves the tag,
    /// and is the permission to have what the manifest was converted to. Requests that ask the
    /// same at the same time ask once.
    ///
    /// # Errors
    /// The upstream's no, or that there is no answer.
    pub async fn head(
        &self,
        chosen: &Chosen<'_>,
        repo: &RepoName,
        selector: &Selector,
        authorization: &Authorization,
    ) -> Result<(Allowed, Remembered), registry::Error> {
        let key = self.key(chosen.place, repo, selector, authorization);
        if let Some(allowed) = self.cache.get(&key).await {
            if allowed.until > Instant::now() {
                return Ok((allowed, Remembered::Yes));
            }
            self.cache.invalidate(&key).await;
        }
        let mut remembered = Remembered::Yes;
        // On the heap, because it is large and seldom needed.
        let ask = Box::pin(async {
            remembered = Remembered::No;
            let question = chosen.upstream.head_manifest(repo, selector, authorization);
            self.ask(key, chosen.upstream.host(), question).await
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

    /// Asks the upstream. Where it fails, its last yes to the same question is the answer; a no is
    /// a no.
    async fn ask(
        &self,
        key: [u8; 32],
        host: &str,
        question: impl Future<Output = Result<ManifestHead, registry::Error>>,
    ) -> Result<Allowed, registry::Error> {
        let since = Instant::now();
        let earlier = match &self.earlier {
            Some(earlier) => earlier.get(&key).await,
            None => None,
        };
        let answer = if earlier.is_some() {
            let answer = tokio::time::timeout(self.patience, question).await;
            answer.unwrap_or_else(|_| {
                Err(registry::Error::TimedOut {
                    place: host.to_owned(),
                    what: "answer",
                    after: self.patience,
                })
            })
        } else {
            question.await
        };
        match (answer, earlier) {
            (Ok(head), _) => {
                let allowed = Allowed {
                    head,
                    until: since + self.lifetime,
                    since,
                    is_stale: false,
                };
                if let Some(earlier) = &self.earlier {
                    earlier.insert(key, allowed.clone()).await;
                }
                Ok(allowed)
            }
            (Err(error), Some(earlier)) if error.is_failing() => {
                tracing::warn!(%error,
                    "the upstream fails: its earlier yes holds (--stale-if-error)");
                Ok(Self::again(earlier))
            }
            (Err(error), _) => {
                if !error.is_failing() {
                    self.forget_earlier(&key).await;
                }
                Err(error)
            }
        }
    }

    /// An earlier yes, in place of an answer.
    fn again(earlier: Allowed) -> Allowed {
        Allowed {
            until: Instant::now() + REPEAT_AFTER,
            is_stale: true,
            ..earlier
        }
    }

    /// Forgets what was allowed, so that the upstream is asked anew.
    pub async fn forget(
        &self,
        place: usize,
        repo: &RepoName,
        selector: &Selector,
        authorization: &Authorization,
    ) {
        let key = self.key(place, repo, selector, authorization);
        self.cache.invalidate(&key).await;
        self.forget_earlier(&key).await;
    }

    async fn forget_earlier(&self, key: &[u8; 32]) {
        if let Some(earlier) = &self.earlier {
            earlier.invalidate(key).await;
        }
    }

    fn key(
        &self,
        place: usize,
        repo: &RepoName,
        selector: &Selector,
        authorization: &Authorization,
    ) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.secret);
        hash.update(place.to_le_bytes());
        let (kind, selector) = match selector {
            Selector::Tag(tag) => (b"t", tag.as_str()),
            Selector::Digest(digest) => (b"d", digest.as_str()),
        };
        let renewed;
        let (whose, credentials) = match authorization {
            Authorization::Own => (b"o", &b""[..]),
            Authorization::Renewed(renewal) => {
                renewed = renewal.current();
                (
                    b"r",
                    renewed.as_ref().map_or(&b""[..], |value| value.as_bytes()),
                )
            }
            Authorization::Client(None) => (b"a", &b""[..]),
            Authorization::Client(Some(value)) => (b"c", value.as_bytes()),
        };
        for part in [
            kind,
            repo.as_str().as_bytes(),
            selector.as_bytes(),
            whose,
            credentials,
        ] {
            // With their lengths, so that no two lists of parts are one text.
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
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

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn every_part_of_a_permission_check_changes_its_key() {
        let permissions = Permissions::new(Duration::from_secs(1), Duration::ZERO, Duration::ZERO);
        let client =
            |text: &'static str| Authorization::Client(Some(HeaderValue::from_static(text)));
        let key = |place, repo: &str, selector: &str, authorization: &Authorization| {
            let (repo, selector) = (repo.parse().unwrap(), selector.parse().unwrap());
            permissions.key(place, &repo, &selector, authorization)
        };
        let keys = [
            key(0, "a", "t", &client("Basic x")),
            key(1, "a", "t", &client("Basic x")),
            key(0, "b", "t", &client("Basic x")),
            key(0, "a", "u", &client("Basic x")),
            key(0, "a", "t", &client("Basic y")),
            key(0, "a", "t", &client("")),
            key(0, "a", "t", &Authorization::Client(None)),
            key(0, "a", "t", &Authorization::Own),
        ];
        for (place, one) in keys.iter().enumerate() {
            assert!(!keys[..place].contains(one), "{place}");
        }
        assert_eq!(keys[0], key(0, "a", "t", &client("Basic x")));
        let others = Permissions::new(Duration::from_secs(1), Duration::ZERO, Duration::ZERO);
        let (repo, selector) = ("a".parse().unwrap(), "t".parse().unwrap());
        assert_ne!(keys[0], others.key(0, &repo, &selector, &client("Basic x")));
    }
}
