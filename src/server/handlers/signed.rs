//! Reads of blobs at signed addresses: no credentials, and no question to the upstream.
//!
//! What another replica has made is fetched from the object storage, or read where it was pushed to. What is not there either is asked
//! for as by anyone without credentials: the proxy's own are used where all clients are served with
//! these. A reader that is refused opens the blob anew, with its credentials, and that makes what was
//! evicted again.

use std::time::Instant;

use http::{Method, Response, StatusCode};

use crate::oci::{Digest, RepoName};
use crate::server::access::signed_address::{self, Grant, Origin, Refused, Subject};
use crate::server::cache::responses::CachedContent;
use crate::server::context::RequestContext;
use crate::server::error::ApiError;
use crate::server::handlers::{blob, blob_file, forward, source};
use crate::server::http::body::ResponseBody;
use crate::server::observe::metrics::CacheName;
use crate::server::state::AppState;
use crate::server::upstreams::Chosen;

/// With what a request for a blob comes besides credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Standing {
    /// Nothing.
    Plain,
    /// A signed address.
    Granted(Grant),
    /// A signed address of the upstream's own, which is another proxy of this kind.
    Foreign,
}

/// With what a request for a blob comes; what was this proxy's is taken out of its query.
/// `is_of_upstream`: the address is one of the upstream, and not of this proxy.
///
/// # Errors
/// When the address allows nothing.
pub(in crate::server) fn standing(
    state: &AppState,
    chosen: &mut Chosen<'_>,
    method: &Method,
    (repo, digest): (&RepoName, &Digest),
    is_of_upstream: bool,
) -> Result<Standing, ApiError> {
    let whole = chosen.query.clone();
    let Some(value) = signed_address::take(&mut chosen.query) else {
        return Ok(Standing::Plain);
    };
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Ok(Standing::Plain);
    }
    let subject = Subject {
        upstream: chosen.upstream.host(),
        repo,
        digest,
    };
    let (result, why) = match state.addresses.verify(subject, &value) {
        Ok(grant) => return Ok(Standing::Granted(grant)),
        Err(_) if is_of_upstream => {
            chosen.query = whole;
            return Ok(Standing::Foreign);
        }
        Err(Refused::Expired) => ("expired", "has expired"),
        Err(Refused::Forged) => {
            tracing::info!(%repo, %digest, "an address was refused that no key here has signed for \
                this: replicas need one --url-key-file");
            (
                "forged",
                "is not signed for this by a key that is known here",
            )
        }
    };
    state.metrics.signed_address(result);
    Err(ApiError::signed_address(why))
}

/// `GET` or `HEAD` of a blob at a signed address.
///
/// # Errors
/// The error response.
pub(in crate::server) async fn read(
    context: RequestContext<'_>,
    repo: &RepoName,
    digest: &Digest,
    grant: Grant,
) -> Result<Response<ResponseBody>, ApiError> {
    let state = context.state;
    let opened = Box::pin(state.open_files.open(digest));
    let opened = context.aside(opened).await?;
    let mut opened = opened.map_err(|error| ApiError::from(&error))?;
    if opened.is_none()
        && grant.origin == Origin::Converted
        && state.converted.store().objects().is_some()
    {
        opened = context.fetched(digest).await?;
    }
    if let Some(file) = opened {
        state.metrics.lookup(CacheName::Blob, true);
        let (content, is_source) = match grant.origin {
            Origin::Converted => {
                let repository = context.note(repo, &file);
                (CachedContent::Blob(digest.clone(), repository), false)
            }
            Origin::Source => (CachedContent::SourceBlob(digest.clone()), true),
        };
        // No longer than a permission, so that a key that is taken away is soon of no use.
        let left = grant.left.min(state.permissions.lifetime());
        context.keep(content, Instant::now() + left);
        let (asked, is_head) = (&context.parts.headers, context.is_head());
        if is_source {
            return Ok(source::again(state, file, asked, is_head));
        }
        return blob_file::answer(file, &state.open_files.buffers, asked, is_head);
    }
    if grant.origin == Origin::Converted
        && let Some((upstream, pushed_to)) = context.pushed(repo, digest).await
    {
        let target = format!("/v2/{pushed_to}/blobs/{digest}");
        return forward::fetch(&context, &upstream, &target).await;
    }
    let anew = || ApiError::signed_address("is of a blob that is not here now");
    match blob::answer(context, repo, digest).await {
        Ok((response, _)) if response.status() == StatusCode::UNAUTHORIZED => Err(anew()),
        Ok((response, _)) => Ok(response),
        Err(failure) if failure.status() == StatusCode::UNAUTHORIZED => Err(anew()),
        Err(failure) => Err(failure),
    }
}
