//! Manifests: which are intercepted, and the answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use tokio::time::timeout;

use super::body::Served;
use super::config::OnTimeout;
use super::converted::{Belongs, Waited};
use super::forward;
use super::front::Call;
use super::label::{CONTENT_DIGEST, Label, value};
use super::metrics::CacheName;
use super::respond::Failure;
use super::warm::Content;
use crate::convert::StoredManifest;
use crate::oci::{Digest, RepoName, Selector, Tag};

/// Whether an image was there when it was asked for (`found`), was `converted` for the asking, or
/// is what the `upstream` has under the tag that was asked for, or the `original` because the
/// conversion takes longer than requests wait; or that it is no image to convert (`no-image`).
pub(super) const OUTCOME: HeaderName = HeaderName::from_static("overlaybd-outcome");

/// How long the upstream may take over the original that is answered when the hold is over.
const ORIGINAL: Duration = Duration::from_secs(5);

/// The tag of the source where a tag asks for the converted image.
fn plain(tag: &Tag, suffix: &str) -> Option<Tag> {
    if suffix.is_empty() {
        return None;
    }
    tag.as_str().strip_suffix(suffix)?.parse().ok()
}

/// `GET` or `HEAD` of a manifest by tag. Under a tag with the suffix is, in this order: what the
/// upstream has there, where that is preferred; what the plain tag's image becomes; what the
/// upstream has there.
///
/// # Errors
/// What the client is told instead.
pub(super) async fn by_tag(
    call: Call<'_>,
    repo: &RepoName,
    tag: Tag,
) -> Result<Response<Served>, Failure> {
    let Some(plain) = plain(&tag, &call.front.config.suffix) else {
        return by_plain_tag(call, repo, &tag).await;
    };
    let front = call.front;
    if front.config.prefer_upstream_tags {
        match call.ask(repo, &Selector::Tag(tag)).await {
            Ok(_) => return as_it_is(call).await,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(Failure::upstream(&error, front.is_own())),
        }
    }
    // This resolves the tag, and is the permission to have what it became.
    let (head, until) = match call.ask(repo, &Selector::Tag(plain.clone())).await {
        Ok(answer) => answer,
        Err(error) if error.is_not_found() => return as_it_is(call).await,
        Err(_) if call.hold.is_over() => return too_long(call, repo, None).await,
        Err(error) => return Err(Failure::upstream(&error, front.is_own())),
    };
    let source = call.source(repo);
    let converter = &front.converted.converter;
    let known = Box::pin(converter.lookup(&source, &head.digest));
    let known = call.hold.question(known);
    let Ok(known) = call.aside(known).await? else {
        return too_long(call, repo, Some(&head.digest)).await;
    };
    let known = known.map_err(|error| Failure::conversion(&error, front.is_own()))?;
    front.metrics.lookup(CacheName::Image, known.is_some());
    let place = call.chosen.place;
    let followed = front
        .tags
        .follow(front, place, &source, &plain, &head.digest);
    followed.await;
    let (image, outcome) = match known {
        Some(image) => (image, "found"),
        None => match call.wait(repo, &head.digest).await {
            Ok(held) => (held.image, "converted"),
            Err(Waited::Failed(failure)) => return Err(failure),
            Err(Waited::TooLong) => return too_long(call, repo, Some(&head.digest)).await,
        },
    };
    let document = Arc::new(Document::new(&image.root));
    call.keep(Content::Document(Arc::clone(&document)), until);
    let mut response = document.answer(&call.parts.headers, call.is_head());
    let outcome = HeaderValue::from_static(outcome);
    response.headers_mut().insert(OUTCOME, outcome);
    Ok(response)
}

/// What the upstream has under the tag that was asked for, of whatever kind it is.
async fn as_it_is(call: Call<'_>) -> Result<Response<Served>, Failure> {
    Ok(told(forward::pass(call).await?, "upstream"))
}

/// A good answer with a word on what it is.
fn told(mut response: Response<Served>, outcome: &'static str) -> Response<Served> {
    let status = response.status();
    if status.is_success() || status == StatusCode::NOT_MODIFIED {
        let outcome = HeaderValue::from_static(outcome);
        response.headers_mut().insert(OUTCOME, outcome);
    }
    response
}

/// What is answered when the hold is over. Where the upstream has not even said what the source
/// is, there is no original to answer with.
async fn too_long(
    call: Call<'_>,
    repo: &RepoName,
    source: Option<&Digest>,
) -> Result<Response<Served>, Failure> {
    match (call.front.config.on_timeout, source) {
        (OnTimeout::Wait | OnTimeout::Busy, _) => Err(call.later()),
        (OnTimeout::WaitThenOriginal, _) if call.again().is_some() => Err(call.later()),
        (OnTimeout::Original | OnTimeout::WaitThenOriginal, None) => {
            Err(Failure::silent_upstream(call.hold.time()))
        }
        (OnTimeout::Original | OnTimeout::WaitThenOriginal, Some(source)) => {
            let hold = call.hold.time();
            let target = format!("/v2/{repo}/manifests/{source}");
            let original = Box::pin(forward::pass_to(call, &target));
            let answer = timeout(ORIGINAL, original).await;
            let answer = answer.unwrap_or_else(|_| Err(Failure::silent_upstream(hold)))?;
            Ok(told(answer, "original"))
        }
    }
}

async fn by_plain_tag(
    call: Call<'_>,
    repo: &RepoName,
    tag: &Tag,
) -> Result<Response<Served>, Failure> {
    let front = call.front;
    if !front.prepare.is_wanted(repo, tag) {
        return forward::pass(call).await;
    }
    let (place, source) = (call.chosen.place, call.source(repo));
    let response = forward::pass(call).await?;
    if response.status() == StatusCode::OK {
        let digest = response
            .headers()
            .get(CONTENT_DIGEST)
            .and_then(|digest| digest.to_str().ok()?.parse().ok());
        if let Some(digest) = digest {
            let begun = front.prepare.begin(front, place, source, tag, digest);
            begun.await;
        }
    }
    Ok(response)
}

/// `GET` or `HEAD` of a manifest by digest.
///
/// # Errors
/// What the client is told instead.
pub(super) async fn by_digest(
    call: Call<'_>,
    repo: &RepoName,
    digest: &Digest,
) -> Result<Response<Served>, Failure> {
    match call.belongs(repo, digest).await? {
        Belongs::Here { source, until } => {
            let document = call.document(repo, digest, &source).await?;
            call.keep(Content::Document(Arc::clone(&document)), until);
            Ok(document.answer(&call.parts.headers, call.is_head()))
        }
        Belongs::Upstream => forward::pass(call).await,
        Belongs::Undecided(failure) => pass_undecided(call, failure).await,
    }
}

/// Passes a request through of which it cannot be told whether it is ours to answer: the
/// upstream's "not found" then means nothing.
///
/// # Errors
/// `failure`, where the upstream has nothing.
pub(super) async fn pass_undecided(
    call: Call<'_>,
    failure: Failure,
) -> Result<Response<Served>, Failure> {
    let response = forward::pass(call).await?;
    if response.status() == StatusCode::NOT_FOUND {
        return Err(failure);
    }
    Ok(response)
}

/// A manifest as it is served.
#[derive(Debug)]
pub(super) struct Document {
    bytes: Bytes,
    media_type: HeaderValue,
    label: Label,
}

impl Document {
    pub fn new(stored: &StoredManifest) -> Self {
        Self {
            bytes: stored.bytes.clone(),
            media_type: value(&stored.media_type),
            label: Label::new(&stored.digest),
        }
    }

    /// Its bytes' number.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The answer to a request for it.
    pub fn answer(&self, asked: &HeaderMap, is_head: bool) -> Response<Served> {
        let mut response = Response::new(Served::empty());
        let headers = response.headers_mut();
        headers.reserve(8);
        self.label.put(headers);
        if self.label.is_known(asked) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        headers.insert(CONTENT_TYPE, self.media_type.clone());
        headers.insert(CONTENT_LENGTH, HeaderValue::from(self.bytes.len()));
        if !is_head {
            *response.body_mut() = Served::bytes(self.bytes.clone());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_is_taken_off_a_tag_and_something_must_be_left() {
        let plain_of = |tag: &str, suffix| {
            let tag: Tag = tag.parse().unwrap();
            plain(&tag, suffix).map(|tag| tag.to_string())
        };
        assert_eq!(plain_of("7_obd", "_obd").as_deref(), Some("7"));
        assert_eq!(plain_of("7_obd_obd", "_obd").as_deref(), Some("7_obd"));
        for (tag, suffix) in [("_obd", "_obd"), ("7", "_obd"), ("7_obd", "")] {
            assert_eq!(plain_of(tag, suffix), None, "{tag}");
        }
    }
}
