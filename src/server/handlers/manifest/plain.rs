//! Plain tags: passed through, or answered with a converted image.

use std::sync::Arc;

use http::{Response, StatusCode};

use super::planning::{plan, preparing};
use crate::oci::{RepoName, Selector, Tag};
use crate::registry::header_names::CONTENT_DIGEST;
use crate::server::cache::responses::CachedContent;
use crate::server::context::RequestContext;
use crate::server::decision::{Asked, Kind, Means, NativeBlobs, Plan, Why};
use crate::server::error::ApiError;
use crate::server::handlers::converted::{self, Got, Image, Wanted};
use crate::server::handlers::{forward, source};
use crate::server::http::body::ResponseBody;

/// A plain tag that may be answered with a converted image. Whatever stands in the way of that, the
/// original is there.
pub(super) async fn by_plain_tag(
    context: RequestContext<'_>,
    repo: &RepoName,
    tag: Tag,
    asked: Asked,
) -> Result<Response<ResponseBody>, ApiError> {
    let (head, until) = match context.ask(repo, &Selector::Tag(tag.clone())).await {
        Ok(answer) => answer,
        Err(_) if context.hold.is_over() => {
            return converted::too_long(context, repo, None).await;
        }
        // The upstream's own answer is the one that clients understand.
        Err(_) => return forward::pass(context).await,
    };
    let image = Image {
        source: context.source(repo),
        tag,
        digest: head.digest,
    };
    let (kind, fallback, overrides) = match plan(&context, asked, &image).await {
        Ok((
            Plan::Converted {
                kind,
                fallback,
                overrides,
            },
            _,
        )) => (kind, fallback, overrides),
        Ok((Plan::Original(why), _)) if why.is_lack() => {
            return converted::original(context, &image, &why.to_string()).await;
        }
        Ok((Plan::Original(_) | Plan::Absent, _)) => {
            return pass_tag(context, repo, &image.tag).await;
        }
        Err(failure) => return converted::original(context, &image, failure.message()).await,
    };
    let wanted = Wanted {
        image,
        kind,
        fallback,
        overrides,
    };
    if let Some(reason) = wanted.no_image(&context).await {
        return converted::original(context, &wanted.image, &reason).await;
    }
    let reason = match converted::get(&context, &wanted).await {
        Got::Document(..) if is_out_of_reach(&context, &wanted) => Why::Missing.to_string(),
        Got::Document(document, outcome, instead) => {
            if instead.is_none() {
                context.keep(CachedContent::PlainTag(Arc::clone(&document)), until);
            }
            let instead = instead.as_deref();
            return Ok(converted::answer(&context, &document, outcome, instead));
        }
        Got::TooLong => {
            return converted::too_long(context, repo, Some(&wanted.image.digest)).await;
        }
        Got::Refused(failure) => return Err(failure),
        Got::Original(reason) => reason.to_string(),
        Got::NoImage(failure) => {
            let reason = failure.message();
            wanted.remember_no_image(&context, reason).await;
            reason.to_owned()
        }
        Got::Failed(failure) => {
            let reason = failure.message();
            tracing::warn!(%repo, tag = %wanted.image.tag, source = %wanted.image.digest, reason,
                "a plain tag is answered with the original: the image was not converted");
            reason.to_owned()
        }
    };
    converted::original(context, &wanted.image, &reason).await
}

/// Whether a native image that was to be pushed turned out not to be where nodes read it.
fn is_out_of_reach(context: &RequestContext<'_>, wanted: &Wanted) -> bool {
    let (state, source) = (context.state, &wanted.image.source);
    let converter = &state.converted.converter;
    if wanted.kind != Kind::Native || !converter.is_push_refused(source) {
        return false;
    }
    let namespace = context.chosen.mount.namespace.as_deref();
    let push = converter.push_target_of(source);
    Means::of(&state.config, push, source, namespace).native == NativeBlobs::Missing
}

/// A plain tag, passed through; what it becomes is prepared if that is wanted.
pub(super) async fn pass_tag(
    context: RequestContext<'_>,
    repo: &RepoName,
    tag: &Tag,
) -> Result<Response<ResponseBody>, ApiError> {
    let state = context.state;
    if !state.config.prepares(repo, tag) {
        return source::by_tag(context, repo, tag).await;
    }
    let (place, policy) = (context.chosen.place, Arc::clone(&context.policy));
    let asked_by = context.asked_by(Some(tag));
    let from = context.source(repo);
    let response = source::by_tag(context, repo, tag).await?;
    if response.status() == StatusCode::OK {
        let digest = response
            .headers()
            .get(CONTENT_DIGEST)
            .and_then(|digest| digest.to_str().ok()?.parse().ok());
        if let Some(digest) = digest {
            let image = Image {
                source: from.clone(),
                tag: tag.clone(),
                digest,
            };
            let (shared, to_prepare) = (Arc::clone(state), image.clone());
            let converter = async move {
                let converter = preparing(&shared, &policy.policy, place, &to_prepare).await;
                converter.map(|converter| converter.asked_by(asked_by))
            };
            let begun = state
                .prepare
                .begin(place, from, tag, image.digest, converter);
            begun.await;
        }
    }
    Ok(response)
}
