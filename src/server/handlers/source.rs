//! What upstreams have, from the cache of sources. Nothing is answered from there before the
//! upstream said yes to these credentials, for this repository.
//!
//! Whole blobs that are not there are downloaded and kept. Ranges of them are passed through and
//! begin no download: nodes that read the original layers of TurboOCI images ask for a little of
//! large ones.

use std::sync::Arc;

use http::header::{
    ACCEPT, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue,
    IF_MATCH, IF_RANGE, RANGE,
};
use http::{HeaderMap, Response, StatusCode};
use hyper::body::Body as _;

use crate::convert::source_cache::{Incoming, Joined, Reader};
use crate::convert::{CacheOutcome, SourceCache, StoredManifest};
use crate::oci::{Digest, ManifestKind, RepoName, Selector, Tag};
use crate::registry::content_headers::{ContentHeaders, value};
use crate::registry::ranges::{self, Wanted};
use crate::registry::{self, ManifestHead, body};
use crate::server::cache::open_files::OpenBlob;
use crate::server::cache::responses::CachedContent;
use crate::server::context::RequestContext;
use crate::server::document::Document;
use crate::server::error::ApiError;
use crate::server::handlers::blob_file::{self, FOREVER, OCTETS};
use crate::server::handlers::forward;
use crate::server::handlers::probe::{self, AtHand};
use crate::server::http::body::ResponseBody;
use crate::server::http::header_names::OUTCOME;
use crate::server::state::AppState;

/// How often a blob is looked for that comes in, or goes, meanwhile.
const MAX_LOOKS: usize = 3;

type Answer = Result<Response<ResponseBody>, ApiError>;

/// The cache, if it is for this request.
fn cache_of<'a>(context: &RequestContext<'a>) -> Option<&'a SourceCache> {
    let sources = context.state.converted.converter.sources()?;
    sources.is_for(context.chosen.upstream).then_some(sources)
}

/// Passes a request through that the cache is of no use for.
async fn pass(context: RequestContext<'_>, sources: &SourceCache) -> Answer {
    let answer = forward::pass(context).await?;
    sources.count(CacheOutcome::Passed, length_of(&answer));
    Ok(answer)
}

/// The bytes of an answer's body, as its head tells.
fn length_of(answer: &Response<ResponseBody>) -> u64 {
    if answer.body().is_end_stream() {
        return 0;
    }
    let length = answer.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or_default()
}

/// A good answer, counted, with a word on where it came from.
fn with_outcome(
    mut response: Response<ResponseBody>,
    sources: &SourceCache,
    outcome: CacheOutcome,
) -> Response<ResponseBody> {
    sources.count(outcome, length_of(&response));
    let outcome = HeaderValue::from_static(outcome.name());
    response.headers_mut().insert(OUTCOME, outcome);
    response
}

/// What an upstream's answer to the question for permission means: an error that is the answer, or
/// `None` if the upstream may answer the request itself otherwise.
fn refusal(error: &registry::Error, is_own: bool) -> Option<ApiError> {
    let is_final = matches!(
        error,
        registry::Error::Unauthorized { .. }
            | registry::Error::Forbidden { .. }
            | registry::Error::NotFound { .. }
    );
    (is_final || error.is_failing()).then(|| ApiError::upstream(error, is_own))
}

/// `GET` or `HEAD` of a manifest by tag.
///
/// # Errors
/// The error response.
pub(in crate::server) async fn by_tag(
    context: RequestContext<'_>,
    repo: &RepoName,
    tag: &Tag,
) -> Answer {
    let Some(sources) = cache_of(&context) else {
        return forward::pass(context).await;
    };
    let selector = Selector::Tag(tag.clone());
    let head = match context.ask_for_source(repo, &selector).await {
        Ok(head) => head,
        Err(error) => match refusal(&error, context.state.is_own()) {
            Some(answer) => return Err(answer),
            None => return pass(context, sources).await,
        },
    };
    // A registry may answer others with another manifest.
    if !accepts(&context.parts.headers, &head.media_type) {
        return pass(context, sources).await;
    }
    manifest(context, sources, repo, &head).await
}

/// `GET` or `HEAD` of a manifest by digest, which nothing converted has.
///
/// # Errors
/// The error response.
pub(in crate::server) async fn by_digest(
    context: RequestContext<'_>,
    repo: &RepoName,
    digest: &Digest,
) -> Answer {
    let Some(sources) = cache_of(&context) else {
        return forward::pass(context).await;
    };
    let selector = Selector::Digest(digest.clone());
    match context.ask_for_source(repo, &selector).await {
        Ok(head) => manifest(context, sources, repo, &head).await,
        Err(error) => match refusal(&error, context.state.is_own()) {
            Some(answer) => Err(answer),
            None => pass(context, sources).await,
        },
    }
}

/// Whether a request names a media type among those that it accepts. Wildcards do not count:
/// registries do not take them for lists and OCI manifests either.
fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|range| range.split(';').next())
        .any(|range| range.trim().eq_ignore_ascii_case(media_type))
}

/// A manifest that this client may have.
async fn manifest(
    context: RequestContext<'_>,
    sources: &SourceCache,
    repo: &RepoName,
    head: &ManifestHead,
) -> Answer {
    // Others are not named by the digest of their bytes, as schema 1 is.
    if ManifestKind::from_media_type(&head.media_type).is_none() {
        return pass(context, sources).await;
    }
    if context.is_head() {
        return Ok(described(head, &context.parts.headers));
    }
    let source = context.source(repo);
    let fetched = sources.manifest(&source, &head.digest);
    let fetched = context.hold.question(Box::pin(fetched));
    let Ok(fetched) = context.aside(fetched).await? else {
        return pass(context, sources).await;
    };
    match fetched {
        Ok((bytes, outcome)) => {
            let document = Document::new(&StoredManifest {
                digest: head.digest.clone(),
                media_type: head.media_type.clone(),
                bytes,
            });
            let response = document.answer(&context.parts.headers, false);
            Ok(with_outcome(response, sources, outcome))
        }
        Err(error) => {
            tracing::debug!(%error, "the manifest is passed through");
            pass(context, sources).await
        }
    }
}

/// The answer to `HEAD`: what the upstream said is all that it takes.
fn described(head: &ManifestHead, asked: &HeaderMap) -> Response<ResponseBody> {
    let content_headers = ContentHeaders::new(&head.digest);
    let mut response = Response::new(ResponseBody::empty());
    content_headers.put(response.headers_mut());
    if content_headers.is_known(asked) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, value(&head.media_type));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(head.size));
    response
}

/// `GET` or `HEAD` of a blob that nothing converted has.
///
/// # Errors
/// The error response.
pub(in crate::server) async fn blob(
    context: RequestContext<'_>,
    repo: &RepoName,
    digest: &Digest,
) -> Answer {
    let Some(sources) = cache_of(&context) else {
        return forward::pass(context).await;
    };
    // overlaybd asks for a whole one, and reads ranges.
    let is_whole = !context.is_head()
        && !context.parts.headers.contains_key(RANGE)
        && !probe::is_marked(&context.parts.extensions);
    // Before anything is looked for: what is there is nobody's business who may not have it.
    let (size, until) = match context.ask_for_blob(repo, digest).await {
        Ok(allowed) => allowed,
        Err(error) if error.is_not_found() => return Err(ApiError::no_such_blob(digest)),
        Err(error) => match refusal(&error, context.state.is_own()) {
            Some(answer) => return Err(answer),
            None => return pass(context, sources).await,
        },
    };
    for _ in 0..MAX_LOOKS {
        let open_files = &context.state.open_files;
        // All of a file is verified before it is first served.
        let opened = context.hold.question(Box::pin(open_files.open(digest)));
        let Ok(opened) = context.aside(opened).await? else {
            return pass(context, sources).await;
        };
        if let Some(file) = opened.map_err(|error| ApiError::from(&error))? {
            // Then what the upstream has by this name is something else, such as a page.
            if size.is_some_and(|size| size != file.file.size()) {
                return pass(context, sources).await;
            }
            context.keep(CachedContent::SourceBlob(digest.clone()), until);
            let (asked, is_head) = (&context.parts.headers, context.is_head());
            let mut response = blob_file::answer(file, &open_files.buffers, asked, is_head)?;
            response.extensions_mut().insert(AtHand);
            return Ok(with_outcome(response, sources, CacheOutcome::Hit));
        }
        if !is_whole {
            return match sources.coming(context.chosen.upstream, digest) {
                Some(incoming) if !context.is_head() => {
                    growing(context, sources, incoming, CacheOutcome::Joined, size).await
                }
                _ => pass(context, sources).await,
            };
        }
        if size.is_some_and(|size| !sources.has_room_for(size)) {
            return pass(context, sources).await;
        }
        match sources.join(&context.source(repo), digest).await {
            // It came in meanwhile.
            Ok(Joined::There) => {}
            Ok(Joined::Begun(incoming)) => {
                return growing(context, sources, incoming, CacheOutcome::Filled, size).await;
            }
            Ok(Joined::Coming(incoming)) => {
                return growing(context, sources, incoming, CacheOutcome::Joined, size).await;
            }
            Ok(Joined::Busy) => return pass(context, sources).await,
            Err(error) => {
                tracing::warn!(%error, "the cache of source blobs cannot be used");
                return pass(context, sources).await;
            }
        }
    }
    pass(context, sources).await
}

/// The answer to a request for a blob that was allowed a moment ago.
pub(in crate::server) fn again(
    state: &AppState,
    file: Arc<OpenBlob>,
    asked: &HeaderMap,
    is_head: bool,
) -> Response<ResponseBody> {
    match blob_file::answer(file, &state.open_files.buffers, asked, is_head) {
        Ok(response) => match state.converted.converter.sources() {
            Some(sources) => with_outcome(response, sources, CacheOutcome::Hit),
            None => response,
        },
        Err(failure) => failure.into_response(is_head),
    }
}

/// What a request gets of a blob that comes in, if what it wants is near enough.
async fn growing(
    context: RequestContext<'_>,
    sources: &SourceCache,
    incoming: Incoming,
    outcome: CacheOutcome,
    size: Option<u64>,
) -> Answer {
    let digest = incoming.digest().clone();
    let opened = context.hold.question(Box::pin(incoming.opened()));
    let reader = match context.aside(opened).await? {
        Ok(Ok(reader)) => reader,
        Err(_) => return pass(context, sources).await,
        // What the upstream says to this client may be something else.
        Ok(Err(error)) => {
            tracing::debug!(%error, "the blob is passed through");
            return pass(context, sources).await;
        }
    };
    if size.is_some_and(|size| size != reader.size()) {
        return pass(context, sources).await;
    }
    let stall = context.state.config.limits.stall;
    let content_headers = ContentHeaders::new(&digest);
    match part(reader, &content_headers, &context.parts.headers) {
        Some((reader, mut response)) => {
            let stream = body::stream(reader.into_stream());
            *response.body_mut() = ResponseBody::stream(stream, stall);
            Ok(with_outcome(response, sources, outcome))
        }
        None => pass(context, sources).await,
    }
}

/// The part of a blob that a request wants, with the head of its answer; `None` if it is not near,
/// or is no single part.
fn part(
    reader: Reader,
    content_headers: &ContentHeaders,
    asked: &HeaderMap,
) -> Option<(Reader, Response<ResponseBody>)> {
    // The file will answer these.
    if asked.contains_key(IF_MATCH) || content_headers.is_known(asked) {
        return None;
    }
    let size = reader.size();
    let wanted = match asked.get(RANGE).and_then(|range| range.to_str().ok()) {
        Some(range) if content_headers.is_current(asked.get(IF_RANGE)) => {
            ranges::parse(range, size)
        }
        _ => Wanted::Whole,
    };
    let mut response = Response::new(ResponseBody::empty());
    let range = match wanted {
        Wanted::Whole => 0..size,
        Wanted::One(range) if reader.is_near(range.start) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let content_range = ranges::content_range(&range, size);
            let headers = response.headers_mut();
            headers.insert(CONTENT_RANGE, value(&content_range));
            range
        }
        Wanted::One(_) | Wanted::Several(_) | Wanted::Nothing => return None,
    };
    let headers = response.headers_mut();
    content_headers.put(headers);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CACHE_CONTROL, FOREVER);
    headers.insert(CONTENT_TYPE, OCTETS);
    let length = range.end.saturating_sub(range.start);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    Some((reader.of(range), response))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_named_media_type_is_accepted() {
        let index = "application/vnd.oci.image.index.v1+json";
        for (accept, is_accepted) in [
            (index, true),
            ("a/b, Application/Vnd.OCI.Image.Index.v1+json;q=0.5", true),
            ("*/*", false),
            ("application/*", false),
            ("application/vnd.oci.image.manifest.v1+json", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(ACCEPT, HeaderValue::from_static("x/y"));
            headers.append(ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(accepts(&headers, index), is_accepted, "{accept}");
        }
        assert!(!accepts(&HeaderMap::new(), index));
    }
}
