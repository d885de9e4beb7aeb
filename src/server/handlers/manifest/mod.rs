//! Manifests: which are intercepted, and the answer.

mod plain;
pub(in crate::server) mod planning;
mod suffixed;

use std::sync::Arc;

use http::header::{HeaderValue, VARY};
use http::{HeaderMap, Response, StatusCode};

use crate::oci::{Digest, RepoName, Tag};
use crate::server::cache::responses::CachedContent;
use crate::server::context::RequestContext;
use crate::server::context::belongs::Belongs;
use crate::server::decision::{self, Asked};
use crate::server::error::ApiError;
use crate::server::handlers::converted::with_outcome;
use crate::server::handlers::{derived, forward, referrers, source};
use crate::server::http::body::ResponseBody;
use crate::server::http::header_names::FORMAT;
use plain::{by_plain_tag, pass_tag};
use planning::named;
use suffixed::{by_merged_suffix, by_suffix};

/// `GET` or `HEAD` of a manifest by tag.
///
/// # Errors
/// The error response.
pub(in crate::server) async fn by_tag(
    context: RequestContext<'_>,
    repo: &RepoName,
    tag: Tag,
) -> Result<Response<ResponseBody>, ApiError> {
    let (plain, asked) = decision::read(&context.state.config, &tag, context.stated);
    if let Asked::Suffix(_) = asked {
        return by_suffix(context, repo, tag, plain, asked).await;
    }
    if let Some(plain) = decision::without(&tag, &context.state.config.merged_suffix) {
        return by_merged_suffix(context, repo, tag, plain).await;
    }
    match referrers::by_tag(&context, repo, &tag).await {
        Ok(Some(list)) => return Ok(list),
        Ok(None) => {}
        Err(failure) => {
            tracing::warn!(%repo, %tag, reason = failure.message(),
                "a list of referrers is answered without the converted forms");
        }
    }
    let (may_ever, may_now) = {
        let policy = &context.policy.policy;
        let image = named(context.state, context.chosen.place, repo, &tag);
        let is_said = context.stated.is_some();
        (
            policy.may_convert_plain(&image, true),
            policy.may_convert_plain(&image, is_said),
        )
    };
    let mut answer = if may_now {
        Box::pin(by_plain_tag(context, repo, tag, asked)).await
    } else {
        pass_tag(context, repo, &tag).await
    };
    // Also for those that get the original: others may not.
    if may_ever {
        vary(match &mut answer {
            Ok(response) => response.headers_mut(),
            Err(failure) => failure.headers_mut(),
        });
    }
    answer
}

/// Says that an answer depends on the form that nodes ask for (RFC 9110 § 12.5.5).
pub(in crate::server) fn vary(headers: &mut HeaderMap) {
    headers.append(VARY, HeaderValue::from(FORMAT));
}

/// What the upstream has under the tag that was asked for, of whatever kind it is.
async fn as_it_is(context: RequestContext<'_>) -> Result<Response<ResponseBody>, ApiError> {
    Ok(with_outcome(forward::pass(context).await?, "upstream"))
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
            let document = derived::document(&context, repo, digest, &source).await?;
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
