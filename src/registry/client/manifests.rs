//! Manifests: fetched, resolved, stored.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::answer::Answer;
use super::dialer::Outgoing;
use super::endpoint::{Call, Endpoint};
use super::payload::Payload;
use super::retry::Failure;
use super::scope::Scopes;
use super::{Need, Registry, call, repeated};
use crate::oci::media_type::MANIFEST_ACCEPT;
use crate::oci::{Digest, RepoName, Selector};
use crate::registry::config::MAX_MANIFEST;
use crate::registry::header_names::{CONTENT_DIGEST, OCI_SUBJECT};
use crate::registry::{Authorization, Error, ManifestHead, PushedManifest, RawManifest};

fn need(selector: &Selector) -> Need {
    match selector {
        Selector::Tag(_) => Need::Resolve,
        Selector::Digest(_) => Need::Pull,
    }
}

/// The digest of `bytes` by the algorithm of `like`.
pub(super) fn digest_like(like: &Digest, bytes: &[u8]) -> Result<Digest, Error> {
    use sha2::Digest as _;
    if like.algorithm() == "sha256" {
        return Ok(Digest::of(bytes));
    }
    let mut text = "sha512:".to_owned();
    for byte in sha2::Sha512::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text.parse()
        .map_err(|error| Error::Configuration(format!("{error}")))
}

/// The digest that the upstream states, where it is one that we know.
fn stated_digest(answer: &Answer) -> Option<Digest> {
    answer.header(CONTENT_DIGEST)?.parse().ok()
}

/// Whether a failed `HEAD` is to be followed by a `GET`: there are registries, and servers before them,
/// that answer a `GET` where they refuse a `HEAD`, and only a `GET` has the reason in words.
fn is_doubtful(answer: &Answer) -> bool {
    match answer.status() {
        // One with a challenge is about credentials, by whichever method.
        StatusCode::UNAUTHORIZED => answer.header(header::WWW_AUTHENTICATE).is_none(),
        StatusCode::BAD_REQUEST
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::INTERNAL_SERVER_ERROR
        | StatusCode::NOT_IMPLEMENTED
        | StatusCode::SERVICE_UNAVAILABLE => true,
        _ => false,
    }
}

fn mismatch(place: &str, what: &'static str, expected: &Digest, found: &Digest) -> Error {
    Error::Mismatch {
        place: place.to_owned(),
        what,
        expected: expected.to_string(),
        found: found.to_string(),
    }
}

impl Endpoint {
    async fn ask_manifest(
        &self,
        method: Method,
        repo: &RepoName,
        selector: &Selector,
        authorization: &Authorization,
    ) -> Result<Answer, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(MANIFEST_ACCEPT));
        let url = self.url(&format!("{repo}/manifests/{selector}"));
        let call = call(method, url, headers, Scopes::pull(repo), authorization);
        self.call(&call).await
    }

    async fn get_manifest(
        &self,
        repo: &RepoName,
        selector: &Selector,
        limit: usize,
        authorization: &Authorization,
    ) -> Result<RawManifest, Failure> {
        let answer = self
            .ask_manifest(Method::GET, repo, selector, authorization)
            .await?
            .expect(&[StatusCode::OK])
            .await?;
        let media_type = answer.media_type();
        let place = answer.place.clone();
        let stated = stated_digest(&answer);
        let bytes = answer.document(limit).await?;
        let digest = match selector {
            Selector::Digest(asked) => {
                let digest = digest_like(asked, &bytes)?;
                if digest != *asked {
                    return Err(mismatch(&place, "manifest's digest", asked, &digest).into());
                }
                digest
            }
            Selector::Tag(_) => Digest::of(&bytes),
        };
        // The stated digest is not used, but if it is wrong, the answer is.
        if let Some(stated) = stated {
            let computed = digest_like(&stated, &bytes)?;
            if computed != stated {
                return Err(mismatch(&place, "manifest's digest", &stated, &computed).into());
            }
        }
        Ok(RawManifest {
            digest,
            media_type,
            bytes,
        })
    }

    /// `None` if the answer is not sufficient, and a `GET` is needed.
    async fn probe_manifest(
        &self,
        repo: &RepoName,
        selector: &Selector,
        authorization: &Authorization,
    ) -> Result<Option<ManifestHead>, Failure> {
        let answer = self
            .ask_manifest(Method::HEAD, repo, selector, authorization)
            .await?;
        if is_doubtful(&answer) {
            answer.drain().await;
            return Ok(None);
        }
        let answer = answer.expect(&[StatusCode::OK]).await?;
        let stated = stated_digest(&answer);
        let digest = match (selector, stated) {
            (Selector::Digest(asked), Some(stated))
                if stated.algorithm() == asked.algorithm() && stated != *asked =>
            {
                let place = &answer.place;
                return Err(mismatch(place, "manifest's digest", asked, &stated).into());
            }
            (Selector::Digest(asked), _) => Some(asked.clone()),
            // The index and the cache know SHA-256.
            (Selector::Tag(_), stated) => stated.filter(|digest| digest.algorithm() == "sha256"),
        };
        let media_type = answer.media_type();
        match (digest, answer.length()) {
            (Some(digest), Some(size)) if !media_type.is_empty() => Ok(Some(ManifestHead {
                digest,
                size,
                media_type,
            })),
            _ => Ok(None),
        }
    }

    async fn put_manifest(
        &self,
        repo: &RepoName,
        selector: &Selector,
        media_type: &HeaderValue,
        bytes: &Bytes,
        authorization: &Authorization,
    ) -> Result<PushedManifest, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, media_type.clone());
        let answer = self
            .call(&Call {
                outgoing: Outgoing {
                    method: Method::PUT,
                    url: self.url(&format!("{repo}/manifests/{selector}")),
                    headers,
                    payload: Payload::Bytes(bytes.clone()),
                },
                scopes: Scopes::push(repo),
                authorization,
            })
            .await?
            .expect(&[StatusCode::CREATED, StatusCode::OK, StatusCode::ACCEPTED])
            .await
            .map_err(again_if_blob_unknown)?;
        let digest = match selector {
            Selector::Digest(digest) => digest.clone(),
            Selector::Tag(_) => Digest::of(bytes),
        };
        if let Some(stated) = stated_digest(&answer) {
            let ours = digest_like(&stated, bytes)?;
            if stated != ours {
                let place = &answer.place;
                return Err(mismatch(place, "stored manifest's digest", &ours, &stated).into());
            }
        }
        let referrers_api = answer.header(OCI_SUBJECT).is_some();
        answer.drain().await;
        Ok(PushedManifest {
            digest,
            referrers_api,
        })
    }
}

/// The parts of a manifest are pushed before it. A registry that does not know one of them may not
/// show it yet, or another client is writing it at this moment (docker-registry writes links to blobs
/// in place): it is asked again.
fn again_if_blob_unknown(failure: Failure) -> Failure {
    match &failure.error {
        Error::Upstream { detail, .. } if detail.contains("MANIFEST_BLOB_UNKNOWN") => {
            Failure::passing(failure.error)
        }
        _ => failure,
    }
}

impl Registry {
    pub(in crate::registry) async fn head_manifest(
        &self,
        repo: &RepoName,
        selector: &Selector,
        authorization: &Authorization,
    ) -> Result<ManifestHead, Error> {
        let limit = self.0.config.manifest_limit;
        self.first(need(selector), authorization, |endpoint| async move {
            let head = endpoint.probe_manifest(repo, selector, authorization);
            if let Some(head) = head.await? {
                return Ok(head);
            }
            let manifest = endpoint
                .get_manifest(repo, selector, limit, authorization)
                .await?;
            Ok(ManifestHead {
                digest: manifest.digest,
                size: manifest.bytes.len() as u64,
                media_type: manifest.media_type,
            })
        })
        .await
    }

    pub(in crate::registry) async fn manifest(
        &self,
        repo: &RepoName,
        selector: &Selector,
        authorization: &Authorization,
    ) -> Result<RawManifest, Error> {
        let limit = self.0.config.manifest_limit;
        self.first(need(selector), authorization, |endpoint| async move {
            endpoint
                .get_manifest(repo, selector, limit, authorization)
                .await
        })
        .await
    }

    /// The manifest at the endpoint that is written to.
    pub(in crate::registry) async fn written_manifest(
        &self,
        repo: &RepoName,
        selector: &Selector,
        authorization: &Authorization,
    ) -> Result<RawManifest, Error> {
        let endpoint = self.writer(authorization)?;
        repeated(&endpoint, || {
            endpoint.get_manifest(repo, selector, MAX_MANIFEST, authorization)
        })
        .await
    }

    pub(in crate::registry) async fn push_manifest(
        &self,
        repo: &RepoName,
        selector: &Selector,
        media_type: &str,
        bytes: Bytes,
        authorization: &Authorization,
    ) -> Result<PushedManifest, Error> {
        let pushed = self
            .store_manifest(repo, selector, media_type, &bytes, authorization)
            .await?;
        if !pushed.referrers_api {
            self.list_referrer(repo, media_type, &bytes, authorization)
                .await?;
        }
        Ok(pushed)
    }

    pub(super) async fn store_manifest(
        &self,
        repo: &RepoName,
        selector: &Selector,
        media_type: &str,
        bytes: &Bytes,
        authorization: &Authorization,
    ) -> Result<PushedManifest, Error> {
        let what = || format!("{repo}: manifest {selector}");
        let header = HeaderValue::from_str(media_type).map_err(|_| {
            Error::Configuration(format!("{}: {media_type:?} is no media type", what()))
        })?;
        if bytes.len() > MAX_MANIFEST {
            let detail = format!("{} bytes are more than {MAX_MANIFEST}", bytes.len());
            let place = what();
            return Err(Error::Unsupported { place, detail });
        }
        if let Selector::Digest(digest) = selector {
            let found = digest_like(digest, bytes)?;
            if found != *digest {
                return Err(mismatch(&what(), "manifest's digest", digest, &found));
            }
        }
        let endpoint = self.writer(authorization)?;
        repeated(&endpoint, || {
            endpoint.put_manifest(repo, selector, &header, bytes, authorization)
        })
        .await
    }
}
