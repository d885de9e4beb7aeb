//! Manifests: which are intercepted, and the answer.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderValue;
use http::{Response, StatusCode};
use tokio::time::timeout;

use crate::convert::Converter;
use crate::convert::layer::Format;
use crate::oci::{Digest, RepoName, Selector, Tag};
use crate::registry::header_names::CONTENT_DIGEST;
use crate::server::cache::responses::CachedContent;
use crate::server::config::{OnTimeout, TurboFallback};
use crate::server::context::RequestContext;
use crate::server::context::lookup::{Belongs, Waited};
use crate::server::document::Document;
use crate::server::error::ApiError;
use crate::server::handlers::forward;
use crate::server::handlers::source;
use crate::server::http::body::ResponseBody;
use crate::server::http::header_names::{FALLBACK, OUTCOME};
use crate::server::observe::metrics::CacheName;
use crate::server::state::AppState;

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
/// The error response.
pub(in crate::server) async fn by_tag(
    context: RequestContext<'_>,
    repo: &RepoName,
    tag: Tag,
) -> Result<Response<ResponseBody>, ApiError> {
    let Some((plain, mut converter)) = wanted(context.state, &tag) else {
        return by_plain_tag(context, repo, &tag).await;
    };
    let state = context.state;
    if state.config.prefer_upstream_tags {
        match context.ask(repo, &Selector::Tag(tag)).await {
            Ok(_) => return as_it_is(context).await,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(ApiError::upstream(&error, state.is_own())),
        }
    }
    // This resolves the tag, and is the permission to have what it became.
    let (head, until) = match context.ask(repo, &Selector::Tag(plain.clone())).await {
        Ok(answer) => answer,
        Err(error) if error.is_not_found() => return as_it_is(context).await,
        Err(_) if context.hold.is_over() => return too_long(context, repo, None).await,
        Err(error) => return Err(ApiError::upstream(&error, state.is_own())),
    };
    let source = context.source(repo);
    let mut fallback = None;
    if converter.format() != Format::Native
        && let Some(reason) = state.converted.not_turbo.get(&head.digest).await
    {
        let target = format!("/v2/{repo}/manifests/{}", head.digest);
        match instead(state, &head.digest, &reason)? {
            Some(native) => converter = native,
            None => return original(context, &target, &reason).await,
        }
        fallback = Some(reason);
    }
    let known = Box::pin(converter.lookup(&source, &head.digest));
    let known = context.hold.question(known);
    let Ok(known) = context.aside(known).await? else {
        return too_long(context, repo, Some(&head.digest)).await;
    };
    let known = known.map_err(|error| ApiError::conversion(&error, state.is_own()))?;
    state.metrics.lookup(CacheName::Image, known.is_some());
    if fallback.is_none() {
        let (tags, place) = (&state.tags, context.chosen.place);
        let followed = tags.follow(converter, place, &source, &plain, &head.digest);
        followed.await;
    }
    let (image, outcome) = match known {
        Some(image) => (image, "found"),
        None => loop {
            match context.wait(converter, repo, &head.digest).await {
                Ok(held) => break (held.image, "converted"),
                Err(Waited::NotTurbo(reason)) => {
                    let reason: Arc<str> = reason.into();
                    tracing::info!(%repo, tag = %plain, source = %head.digest, %reason,
                        "an image cannot be a TurboOCI image");
                    let not_turbo = &state.converted.not_turbo;
                    not_turbo
                        .insert(head.digest.clone(), Arc::clone(&reason))
                        .await;
                    let target = format!("/v2/{repo}/manifests/{}", head.digest);
                    match instead(state, &head.digest, &reason)? {
                        Some(native) => converter = native,
                        None => return original(context, &target, &reason).await,
                    }
                    fallback = Some(reason);
                    // It may have been made before; if that is not known, it is found out below.
                    let native = Box::pin(converter.lookup(&source, &head.digest));
                    if let Ok(Some(image)) = context.aside(native).await? {
                        break (image, "found");
                    }
                }
                Err(Waited::Failed(failure)) => return Err(failure),
                Err(Waited::TooLong) => return too_long(context, repo, Some(&head.digest)).await,
            }
        },
    };
    let document = Arc::new(Document::new(&image.root));
    context.keep(CachedContent::Document(Arc::clone(&document)), until);
    let mut response = document.answer(&context.parts.headers, context.is_head());
    let outcome = HeaderValue::from_static(outcome);
    response.headers_mut().insert(OUTCOME, outcome);
    if let Some(reason) = fallback {
        add_fallback(&mut response, "native", &reason);
    }
    Ok(response)
}

/// The plain tag and the converter, where a tag asks for a converted image.
fn wanted<'a>(state: &'a AppState, tag: &Tag) -> Option<(Tag, &'a Converter)> {
    let turbo = state
        .config
        .turbo
        .as_ref()
        .zip(state.converted.turbo.as_ref());
    let turbo = turbo.and_then(|(config, turbo)| Some((plain(tag, &config.suffix)?, turbo)));
    turbo.or_else(|| {
        Some((
            plain(tag, &state.config.suffix)?,
            &state.converted.converter,
        ))
    })
}

/// What makes the image that is served instead of a TurboOCI image; `None` for the original.
///
/// # Errors
/// That there is none, where that is wanted.
fn instead<'a>(
    state: &'a AppState,
    source: &Digest,
    reason: &str,
) -> Result<Option<&'a Converter>, ApiError> {
    match state.config.turbo.as_ref().map(|turbo| turbo.fallback) {
        Some(TurboFallback::Original) => Ok(None),
        Some(TurboFallback::Error) => Err(ApiError::not_turbo(source, reason)),
        Some(TurboFallback::Native) | None => Ok(Some(&state.converted.converter)),
    }
}

/// The original image, and why it is that.
async fn original(
    context: RequestContext<'_>,
    target: &str,
    reason: &str,
) -> Result<Response<ResponseBody>, ApiError> {
    let mut response = with_outcome(forward::pass_to(context, target).await?, "original");
    add_fallback(&mut response, "original", reason);
    Ok(response)
}

/// Says that an image is not of the form that was asked for, and why.
fn add_fallback(response: &mut Response<ResponseBody>, form: &str, reason: &str) {
    if let Ok(value) = HeaderValue::try_from(format!("{form}; {reason}")) {
        response.headers_mut().insert(FALLBACK, value);
    }
}

/// What the upstream has under the tag that was asked for, of whatever kind it is.
async fn as_it_is(context: RequestContext<'_>) -> Result<Response<ResponseBody>, ApiError> {
    Ok(with_outcome(forward::pass(context).await?, "upstream"))
}

/// A good answer with a word on what it is.
fn with_outcome(
    mut response: Response<ResponseBody>,
    outcome: &'static str,
) -> Response<ResponseBody> {
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
    context: RequestContext<'_>,
    repo: &RepoName,
    source: Option<&Digest>,
) -> Result<Response<ResponseBody>, ApiError> {
    match (context.state.config.on_timeout, source) {
        (OnTimeout::Wait | OnTimeout::Busy, _) => Err(context.later().await),
        (OnTimeout::WaitThenOriginal, _) if context.again().is_some() => Err(context.later().await),
        (OnTimeout::Original | OnTimeout::WaitThenOriginal, None) => {
            Err(ApiError::silent_upstream(context.hold.time()))
        }
        (OnTimeout::Original | OnTimeout::WaitThenOriginal, Some(source)) => {
            let hold = context.hold.time();
            let target = format!("/v2/{repo}/manifests/{source}");
            let original = Box::pin(forward::pass_to(context, &target));
            let answer = timeout(ORIGINAL, original).await;
            let answer = answer.unwrap_or_else(|_| Err(ApiError::silent_upstream(hold)))?;
            Ok(with_outcome(answer, "original"))
        }
    }
}

async fn by_plain_tag(
    context: RequestContext<'_>,
    repo: &RepoName,
    tag: &Tag,
) -> Result<Response<ResponseBody>, ApiError> {
    let state = context.state;
    if !state.prepare.is_wanted(repo, tag) {
        return source::by_tag(context, repo, tag).await;
    }
    let (place, image) = (context.chosen.place, context.source(repo));
    let response = source::by_tag(context, repo, tag).await?;
    if response.status() == StatusCode::OK {
        let digest = response
            .headers()
            .get(CONTENT_DIGEST)
            .and_then(|digest| digest.to_str().ok()?.parse().ok());
        if let Some(digest) = digest {
            let begun = state.prepare.begin(place, image, tag, digest);
            begun.await;
        }
    }
    Ok(response)
}

/// `GET` or `HEAD` of a manifest by digest.
///
/// # Errors
/// The error response.
pub(in crate::server) async fn by_digest(
    context: RequestContext<'_>,
    repo: &RepoName,
    digest: &Digest,
) -> Result<Response<ResponseBody>, ApiError> {
    match context.belongs(repo, digest).await? {
        Belongs::Here { source, until } => {
            let document = context.document(repo, digest, &source).await?;
            context.keep(CachedContent::Document(Arc::clone(&document)), until);
            Ok(document.answer(&context.parts.headers, context.is_head()))
        }
        Belongs::Upstream => source::by_digest(context, repo, digest).await,
        Belongs::Undecided(failure) => pass_undecided(context, failure).await,
    }
}

/// Passes a request through of which it is not known whether it is ours to answer: the
/// upstream's "not found" then means nothing.
///
/// # Errors
/// `failure`, where the upstream has nothing.
pub(in crate::server) async fn pass_undecided(
    context: RequestContext<'_>,
    failure: ApiError,
) -> Result<Response<ResponseBody>, ApiError> {
    let response = forward::pass(context).await?;
    if response.status() == StatusCode::NOT_FOUND {
        return Err(failure);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_is_removed_from_a_tag_unless_nothing_is_left() {
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
