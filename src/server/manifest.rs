//! Manifests: which are intercepted, and the answer.

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH};
use http::{HeaderMap, Response, StatusCode};

use super::body::Served;
use super::config::OnTimeout;
use super::converted::{Belongs, Waited};
use super::forward;
use super::front::Call;
use super::metrics::CacheName;
use super::respond::{API_VERSION, Failure, REGISTRY_2};
use crate::convert::StoredManifest;
use crate::oci::{Digest, RepoName, Selector, Tag};

/// `Docker-Content-Digest`.
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Whether an image was there when it was asked for, or was converted for the asking: what
/// `warm` tells of it.
pub(super) const OUTCOME: HeaderName = HeaderName::from_static("overlaybd-outcome");

/// The tag of the source where a tag asks for the converted image.
fn plain(tag: &Tag, suffix: &str) -> Option<Tag> {
    if suffix.is_empty() {
        return None;
    }
    tag.as_str().strip_suffix(suffix)?.parse().ok()
}

/// `GET` or `HEAD` of a manifest by tag.
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
    // This resolves the tag, and is the permission to have what it became.
    let head = match call.ask(repo, &Selector::Tag(plain.clone())).await {
        Ok(head) => head,
        // A tag of the upstream's own may end like ours.
        Err(error) if error.is_not_found() => return forward::pass(call).await,
        Err(error) => return Err(Failure::upstream(&error, front.is_own())),
    };
    let source = call.source(repo);
    let converter = &front.converted.converter;
    let known = converter.known(&source, &head.digest).await;
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
            Ok(image) => (image, "converted"),
            Err(Waited::Failed(failure)) => return Err(failure),
            Err(Waited::TooLong) => return too_long(call, repo, &head.digest).await,
        },
    };
    let mut response = answer(&image.root, &call.parts.headers, call.is_head());
    let outcome = HeaderValue::from_static(outcome);
    response.headers_mut().insert(OUTCOME, outcome);
    Ok(response)
}

async fn too_long(
    call: Call<'_>,
    repo: &RepoName,
    source: &Digest,
) -> Result<Response<Served>, Failure> {
    match call.front.config.on_timeout {
        OnTimeout::Wait | OnTimeout::Busy => Err(call.later()),
        OnTimeout::Original => {
            let target = format!("/v2/{repo}/manifests/{source}");
            forward::pass_to(call, &target).await
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
        Belongs::Here(source) => {
            let document = call.document(repo, digest, &source).await?;
            Ok(answer(&document, &call.parts.headers, call.is_head()))
        }
        Belongs::Upstream => forward::pass(call).await,
        Belongs::Unknown(error) => pass_unsure(call, &error).await,
    }
}

/// Passes a request through of which the index does not tell whether it is ours to answer: the
/// upstream's "not found" then means nothing.
///
/// # Errors
/// That the index gives no answer, where the upstream has none.
pub(super) async fn pass_unsure(
    call: Call<'_>,
    error: &crate::store::IndexError,
) -> Result<Response<Served>, Failure> {
    let response = forward::pass(call).await?;
    if response.status() == StatusCode::NOT_FOUND {
        return Err(Failure::from(error));
    }
    Ok(response)
}

fn answer(document: &StoredManifest, asked: &HeaderMap, is_head: bool) -> Response<Served> {
    let mut response = Response::new(Served::empty());
    let etag = format!("\"{}\"", document.digest);
    let is_known = matches_etag(asked, &IF_NONE_MATCH, &etag);
    let headers = response.headers_mut();
    let mut text = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    text(ETAG, &etag);
    text(CONTENT_DIGEST, document.digest.as_str());
    if is_known {
        headers.insert(API_VERSION, REGISTRY_2);
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    text(CONTENT_TYPE, &document.media_type);
    headers.insert(API_VERSION, REGISTRY_2);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(document.bytes.len()));
    if !is_head {
        *response.body_mut() = Served::bytes(document.bytes.clone());
    }
    response
}

/// Whether a list of entity tags has this one, compared weakly (RFC 9110 § 8.8.3.2).
pub(super) fn matches_etag(headers: &HeaderMap, name: &HeaderName, etag: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        // A digest holds no comma, so neither does a tag that could match.
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
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

    #[test]
    fn entity_tags_are_compared_in_lists() {
        let matches = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.append(IF_NONE_MATCH, HeaderValue::from_static(value));
            matches_etag(&headers, &IF_NONE_MATCH, "\"sha256:1\"")
        };
        assert!(matches("\"sha256:1\""));
        assert!(matches("\"a\" , W/\"sha256:1\""));
        assert!(matches("*"));
        assert!(!matches("sha256:1"));
        assert!(!matches("\"sha256:11\""));
    }
}
