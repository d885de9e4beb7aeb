//! Tags with a suffix, which ask for a converted form.

use std::sync::Arc;

use http::{Response, StatusCode};

use super::as_it_is;
use super::planning::plan;
use crate::oci::{RepoName, Selector, Tag};
use crate::server::cache::responses::CachedContent;
use crate::server::context::RequestContext;
use crate::server::decision::{Asked, Kind, Plan};
use crate::server::error::ApiError;
use crate::server::handlers::converted::{self, Got, Image, Wanted};
use crate::server::handlers::merged::{self, Merged};
use crate::server::http::body::ResponseBody;

/// A tag with a suffix. Under it is, in this order: what the upstream has there, where that is
/// preferred; what the plain tag's image becomes; what the upstream has there.
pub(super) async fn by_suffix(
    context: RequestContext<'_>,
    repo: &RepoName,
    tag: Tag,
    plain: Tag,
    asked: Asked,
) -> Result<Response<ResponseBody>, ApiError> {
    let state = context.state;
    if state.config.prefer_upstream_tags {
        match context.ask(repo, &Selector::Tag(tag.clone())).await {
            Ok(_) => return as_it_is(context).await,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(ApiError::upstream(&error, state.is_own())),
        }
    }
    // This resolves the tag, and is the permission to have what it became.
    let (head, until) = match context.ask(repo, &Selector::Tag(plain.clone())).await {
        Ok(answer) => answer,
        Err(error) if error.is_not_found() => return as_it_is(context).await,
        Err(_) if context.hold.is_over() => {
            return converted::too_long(context, repo, None).await;
        }
        Err(error) => return Err(ApiError::upstream(&error, state.is_own())),
    };
    let image = Image {
        source: context.source(repo),
        tag: plain,
        digest: head.digest,
    };
    let (plan, number) = plan(&context, asked, &image).await?;
    let Plan::Converted {
        kind,
        fallback,
        overrides,
    } = plan
    else {
        let answer = as_it_is(context).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Err(ApiError::never(&tag, number.unwrap_or_default()));
        }
        return Ok(answer);
    };
    let wanted = Wanted {
        image,
        kind,
        fallback,
        overrides,
    };
    match converted::get(&context, &wanted).await {
        Got::Document(document, outcome, instead) => {
            // What is kept has no reason with it.
            if instead.is_none() {
                context.keep(CachedContent::Document(Arc::clone(&document)), until);
            }
            let instead = instead.as_deref();
            Ok(converted::answer(&context, &document, outcome, instead))
        }
        Got::Original(reason) => converted::original(context, &wanted.image, &reason).await,
        Got::TooLong => converted::too_long(context, repo, Some(&wanted.image.digest)).await,
        Got::NoImage(failure) | Got::Refused(failure) | Got::Failed(failure) => Err(failure),
    }
}

/// A tag with the suffix of indexes that have the original and its converted forms.
pub(super) async fn by_merged_suffix(
    context: RequestContext<'_>,
    repo: &RepoName,
    tag: Tag,
    plain: Tag,
) -> Result<Response<ResponseBody>, ApiError> {
    let state = context.state;
    if state.config.prefer_upstream_tags {
        match context.ask(repo, &Selector::Tag(tag.clone())).await {
            Ok(_) => return as_it_is(context).await,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(ApiError::upstream(&error, state.is_own())),
        }
    }
    let (head, until) = match context.ask(repo, &Selector::Tag(plain.clone())).await {
        Ok(answer) => answer,
        Err(error) if error.is_not_found() => return as_it_is(context).await,
        Err(_) if context.hold.is_over() => {
            return converted::too_long(context, repo, None).await;
        }
        Err(error) => return Err(ApiError::upstream(&error, state.is_own())),
    };
    let image = Image {
        source: context.source(repo),
        tag: plain,
        digest: head.digest,
    };
    let mut converters = Vec::new();
    for kind in [Kind::Native, Kind::Turbo] {
        match plan(&context, Asked::Suffix(kind), &image).await? {
            (
                Plan::Converted {
                    kind, overrides, ..
                },
                _,
            ) => {
                let converter = state.converted.converter_of(kind, &overrides);
                let asked_by = context.asked_by(Some(&image.tag));
                converters.extend(converter.map(|converter| converter.asked_by(asked_by)));
            }
            (Plan::Original(_) | Plan::Absent, number) => {
                let answer = as_it_is(context).await?;
                if answer.status() == StatusCode::NOT_FOUND {
                    return Err(ApiError::never(&tag, number.unwrap_or_default()));
                }
                return Ok(answer);
            }
        }
    }
    let source = &image.digest;
    match merged::answer(&context, repo, source, until, &converters).await? {
        Merged::Answer(response) => Ok(*response),
        Merged::TooLong => converted::too_long(context, repo, Some(source)).await,
    }
}
