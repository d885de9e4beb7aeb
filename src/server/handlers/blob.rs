//! Blobs: converted ones from the blob directory, others from the upstream.

use http::Response;
use http::header::{HeaderValue, RANGE};

use crate::oci::{Digest, RepoName};
use crate::server::access::signed_address::Origin;
use crate::server::cache::responses::CachedContent;
use crate::server::context::RequestContext;
use crate::server::context::belongs::Belongs;
use crate::server::context::finding::Found;
use crate::server::error::ApiError;
use crate::server::handlers::blob_file;
use crate::server::handlers::bucket;
use crate::server::handlers::forward;
use crate::server::handlers::manifest::pass_undecided;
use crate::server::handlers::probe::{self, AtHand, Probe};
use crate::server::handlers::source;
use crate::server::http::body::ResponseBody;

/// `GET` or `HEAD` of a blob.
///
/// # Errors
/// The error response.
pub(in crate::server) async fn serve<'a>(
    mut context: RequestContext<'a>,
    repo: &'a RepoName,
    digest: &'a Digest,
) -> Result<Response<ResponseBody>, ApiError> {
    let state = context.state;
    let Some(probe) = Probe::begin(&mut context, repo, digest) else {
        let is_redirectable = bucket::may_redirect(&context);
        let (response, _) = answer_or_redirect(context, repo, digest, is_redirectable).await?;
        return Ok(response);
    };
    let is_pushed =
        probe.asks_whether_pushed(state) && context.pushed(repo, digest).await.is_some();
    let is_redirectable = context.state.config.blob_redirect.is_some();
    match answer_or_redirect(context, repo, digest, is_redirectable).await {
        Ok((response, origin)) => Ok(probe.answer(state, response, origin, is_pushed)),
        Err(failure) => Err(probe::failure(failure)),
    }
}

/// As [`serve`], with the blob in any case, and what kind it is of.
///
/// # Errors
/// As [`serve`].
pub(in crate::server) async fn answer(
    context: RequestContext<'_>,
    repo: &RepoName,
    digest: &Digest,
) -> Result<(Response<ResponseBody>, Origin), ApiError> {
    answer_or_redirect(context, repo, digest, false).await
}

/// As [`answer`], or a redirect to where a converted blob can be read, if the client may be sent there.
async fn answer_or_redirect(
    context: RequestContext<'_>,
    repo: &RepoName,
    digest: &Digest,
    is_redirectable: bool,
) -> Result<(Response<ResponseBody>, Origin), ApiError> {
    let response = match context.belongs_to_read(repo, digest).await? {
        Belongs::Here { .. }
            if is_redirectable
                && let Some(redirect) = Box::pin(bucket::redirect(&context, digest)).await? =>
        {
            redirect
        }
        Belongs::Here { source, until } => match context.find(repo, digest, &source).await? {
            Found::File(blob) => {
                let (buffers, asked) = (&context.state.open_files.buffers, &context.parts.headers);
                let repository = context.note(repo, &blob);
                // The next to ask may be sent to the bucket.
                if context.state.config.blob_redirect.is_none() {
                    context.keep(CachedContent::Blob(digest.clone(), repository), until);
                }
                let answer = blob_file::answer(blob, buffers, asked, context.is_head());
                let mut response = answer?;
                response.extensions_mut().insert(AtHand);
                response
            }
            Found::Pushed(upstream, repo) => {
                let target = format!("/v2/{repo}/blobs/{digest}");
                forward::fetch(&context, &upstream, &target).await?
            }
            Found::Upstream => {
                count(&context)?;
                forward::pass(context).await?
            }
        },
        Belongs::Upstream => {
            count(&context)?;
            let response = source::blob(context, repo, digest).await?;
            return Ok((response, Origin::Source));
        }
        Belongs::Undecided(failure) => {
            count(&context)?;
            pass_undecided(context, failure).await?
        }
    };
    Ok((response, Origin::Converted))
}

/// Counts a request for a blob that is not here. Ranges, and what overlaybd opens blobs with, do not
/// count: a container that runs would see a refusal as a broken disk. A range that is the whole blob
/// counts, unless it is overlaybd's.
///
/// # Errors
/// When the client made too many.
pub(in crate::server) fn count(context: &RequestContext<'_>) -> Result<(), ApiError> {
    let parts = &context.parts;
    let range = parts.headers.get(RANGE);
    let is_part =
        range.is_some_and(|range| !is_whole(range) || probe::is_overlaybd(&parts.headers));
    if is_part || probe::is_marked(&parts.extensions) {
        return Ok(());
    }
    context.count()
}

/// Whether a range is open and begins with the first byte.
fn is_whole(range: &HeaderValue) -> bool {
    let text = range.to_str().unwrap_or_default();
    text.split_once('=').is_some_and(|(unit, range)| {
        unit.trim().eq_ignore_ascii_case("bytes")
            && range.trim().strip_suffix('-').is_some_and(|first| {
                let first = first.trim();
                !first.is_empty() && first.bytes().all(|digit| digit == b'0')
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_without_an_end_from_the_first_byte_is_the_whole() {
        let whole = |range: &'static str| is_whole(&HeaderValue::from_static(range));
        for range in ["bytes=0-", "Bytes= 00 -"] {
            assert!(whole(range), "{range}");
        }
        for range in [
            "bytes=0-9",
            "bytes=5-",
            "bytes=-5",
            "bytes=-",
            "bytes=0-,9-",
            "0-",
            "",
        ] {
            assert!(!whole(range), "{range}");
        }
    }
}
