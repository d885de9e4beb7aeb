//! What upstreams allow clients to read: which question that is, and by what its answer is known.

use std::time::Duration;

use http::HeaderValue;
use sha2::{Digest as _, Sha256};

use crate::oci::{Digest, RepoName, Selector};
use crate::registry::{self, Authorization, ManifestHead};
use crate::server::access::decisions::{Allowed, Decisions, Key, Remembered, SilentUpstreams};
use crate::server::access::waits::Waits;
use crate::server::upstreams::Chosen;

/// What upstreams allowed, by credentials.
pub(in crate::server) struct Permissions {
    manifests: Decisions<ManifestHead>,
    repositories: Decisions<()>,
    /// The sizes of blobs of sources, where upstreams state them.
    blobs: Decisions<Option<u64>>,
    pings: Decisions<Ping>,
    waits: Waits,
    lifetime: Duration,
    /// Of this process only, so that no key tells anything of the credentials behind it.
    secret: [u8; 32],
}

/// What an upstream says to `GET /v2/`.
#[derive(Debug, Clone)]
pub(in crate::server) enum Ping {
    /// Come in.
    Open,
    /// How a client that came without credentials authenticates.
    Challenges(Vec<HeaderValue>),
}

impl Permissions {
    /// A yes holds for `lifetime`, and while the upstream fails for `stale_if_error`. Requests are
    /// held for `hold`.
    pub fn new(lifetime: Duration, stale_if_error: Duration, hold: Duration) -> Self {
        let silent = SilentUpstreams::default();
        Self {
            manifests: Decisions::new(lifetime, stale_if_error, hold, silent.clone()),
            repositories: Decisions::new(lifetime, stale_if_error, hold, silent.clone()),
            blobs: Decisions::new(lifetime, stale_if_error, hold, silent.clone()),
            // Each is passed on to the upstream.
            pings: Decisions::new(Duration::ZERO, stale_if_error, hold, silent),
            waits: Waits::default(),
            lifetime,
            secret: rand::random(),
        }
    }

    /// How long an upstream's yes holds.
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Asks the upstream for a manifest's head with these credentials: that resolves the tag,
    /// and is the permission to have what the manifest was converted to. Requests that ask the
    /// same at the same time ask once. Whoever may have what a tag names may have it by its digest,
    /// too, for as long: the upstream hands them the same bytes under both names.
    ///
    /// Credentials that have ended while their client waits for the answer still count
    /// ([`Permissions::wait_goes_on`]).
    ///
    /// # Errors
    /// The upstream's no, or that there is no answer.
    pub async fn head(
        &self,
        chosen: &Chosen<'_>,
        repo: &RepoName,
        selector: &Selector,
        authorization: &Authorization,
    ) -> Result<(Allowed<ManifestHead>, Remembered), registry::Error> {
        let key = self.manifest_key(chosen.place, repo, selector, authorization);
        let question = Box::pin(chosen.upstream.head_manifest(repo, selector, authorization));
        let answer = self
            .manifests
            .ask(key, chosen.place, chosen.upstream.host(), question)
            .await;
        if let (Ok((allowed, Remembered::No)), Selector::Tag(_)) = (&answer, selector) {
            let named = Selector::Digest(allowed.answer.digest.clone());
            let named = self.manifest_key(chosen.place, repo, &named, authorization);
            // Credentials may have been renewed meanwhile: those that come now were not asked for.
            // Both keys are made before that is looked at, so that a renewal in between shows.
            if key == self.manifest_key(chosen.place, repo, selector, authorization) {
                self.manifests.insert_as(named, allowed).await;
            }
        }
        match answer {
            Err(error @ registry::Error::Unauthorized { .. }) => match self.waits.get(&key).await {
                Some(head) => Ok((Allowed::once(head), Remembered::No)),
                None => Err(error),
            },
            answer => answer,
        }
    }

    /// As [`Permissions::head`], for the manifest itself: only credentials count that have not ended.
    /// An answer that is older than `max_age` is asked for again.
    ///
    /// # Errors
    /// The upstream's no, or that there is no answer.
    pub async fn source(
        &self,
        max_age: Duration,
        chosen: &Chosen<'_>,
        repo: &RepoName,
        selector: &Selector,
        authorization: &Authorization,
    ) -> Result<(Allowed<ManifestHead>, Remembered), registry::Error> {
        let key = self.manifest_key(chosen.place, repo, selector, authorization);
        let (place, host) = (chosen.place, chosen.upstream.host());
        let question = Box::pin(chosen.upstream.head_manifest(repo, selector, authorization));
        self.manifests
            .ask_within(max_age, key, place, host, question)
            .await
    }

    /// Asks the upstream whether these credentials may read a blob.
    ///
    /// # Errors
    /// The upstream's no, or that there is no answer.
    pub async fn blob(
        &self,
        chosen: &Chosen<'_>,
        repo: &RepoName,
        digest: &Digest,
        authorization: &Authorization,
    ) -> Result<(Allowed<Option<u64>>, Remembered), registry::Error> {
        let key = self.blob_key(chosen.place, repo, digest, authorization);
        let (place, host) = (chosen.place, chosen.upstream.host());
        let question = Box::pin(chosen.upstream.can_read_blob(repo, digest, authorization));
        self.blobs.ask(key, place, host, question).await
    }

    /// Asks the upstream what a client with these credentials has to do first: each time, by
    /// `question`.
    ///
    /// # Errors
    /// The upstream's no, or that there is no answer.
    pub async fn ping(
        &self,
        chosen: &Chosen<'_>,
        authorization: &Authorization,
        question: impl Future<Output = Result<Ping, registry::Error>>,
    ) -> Result<Allowed<Ping>, registry::Error> {
        let key = self.key(chosen.place, b"p", "", b"", authorization);
        let (place, host) = (chosen.place, chosen.upstream.host());
        let (allowed, _) = self.pings.ask(key, place, host, question).await?;
        Ok(allowed)
    }

    /// Asks the upstream whether these credentials may read a repository at all.
    ///
    /// # Errors
    /// The upstream's no, or that there is no answer.
    pub async fn repository(
        &self,
        chosen: &Chosen<'_>,
        repo: &RepoName,
        authorization: &Authorization,
    ) -> Result<(Allowed<()>, Remembered), registry::Error> {
        let key = self.key(chosen.place, b"r", repo.as_str(), b"", authorization);
        let question = Box::pin(chosen.upstream.can_read(repo, authorization));
        self.repositories
            .ask(key, chosen.place, chosen.upstream.host(), question)
            .await
    }

    /// What the upstream said to that question before, where it fails now.
    pub async fn earlier_repository(
        &self,
        place: usize,
        repo: &RepoName,
        authorization: &Authorization,
    ) -> Option<Allowed<()>> {
        let key = self.key(place, b"r", repo.as_str(), b"", authorization);
        self.repositories.earlier(&key).await
    }

    /// A client that was allowed to have `head` is sent away to ask the same again, because the
    /// answer is not ready: when it comes back, its credentials may have ended.
    pub async fn wait_goes_on(
        &self,
        place: usize,
        repo: &RepoName,
        selector: &Selector,
        authorization: &Authorization,
        head: &ManifestHead,
    ) {
        // Nothing ends that is not there, and the proxy's own are made anew.
        if matches!(authorization, Authorization::Client(Some(_))) {
            let key = self.manifest_key(place, repo, selector, authorization);
            self.waits.go_on(key, head.clone()).await;
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
        let key = self.manifest_key(place, repo, selector, authorization);
        self.manifests.forget(&key).await;
    }

    /// What a question about a manifest is known by.
    pub fn manifest_key(
        &self,
        place: usize,
        repo: &RepoName,
        selector: &Selector,
        authorization: &Authorization,
    ) -> Key {
        let (kind, selector) = match selector {
            Selector::Tag(tag) => (b"t", tag.as_str()),
            Selector::Digest(digest) => (b"d", digest.as_str()),
        };
        self.key(
            place,
            kind,
            repo.as_str(),
            selector.as_bytes(),
            authorization,
        )
    }

    /// What a question about a blob is known by.
    pub fn blob_key(
        &self,
        place: usize,
        repo: &RepoName,
        digest: &Digest,
        authorization: &Authorization,
    ) -> Key {
        self.key(
            place,
            b"b",
            repo.as_str(),
            digest.as_str().as_bytes(),
            authorization,
        )
    }

    fn key(
        &self,
        place: usize,
        kind: &[u8],
        repo: &str,
        what: &[u8],
        authorization: &Authorization,
    ) -> Key {
        let mut hash = Sha256::new();
        hash.update(self.secret);
        hash.update(place.to_le_bytes());
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
        for part in [kind, repo.as_bytes(), what, whose, credentials] {
            // With their lengths, so that no two lists of parts are one text.
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_permission_check_changes_its_key() {
        let permissions = Permissions::new(Duration::from_secs(1), Duration::ZERO, Duration::ZERO);
        let client =
            |text: &'static str| Authorization::Client(Some(HeaderValue::from_static(text)));
        let key = |place, repo: &str, selector: &str, authorization: &Authorization| {
            let (repo, selector) = (repo.parse().unwrap(), selector.parse().unwrap());
            permissions.manifest_key(place, &repo, &selector, authorization)
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
        let (repo, digest) = ("a".parse().unwrap(), Digest::of(b""));
        let manifest = key(0, "a", digest.as_str(), &client("Basic x"));
        let blob = permissions.blob_key(0, &repo, &digest, &client("Basic x"));
        assert_ne!(manifest, blob);
        assert_eq!(keys[0], key(0, "a", "t", &client("Basic x")));
        let others = Permissions::new(Duration::from_secs(1), Duration::ZERO, Duration::ZERO);
        let (repo, selector) = ("a".parse().unwrap(), "t".parse().unwrap());
        assert_ne!(
            keys[0],
            others.manifest_key(0, &repo, &selector, &client("Basic x"))
        );
    }
}
