//! Blobs: converted ones from the blob directory, others from the upstream.

use http::Response;

use crate::oci::{Digest, RepoName};
use crate::server::access::signed_address::Origin;
use crate::server::cache::responses::CachedContent;
use crate::server::context::RequestContext;
use crate::server::context::lookup::{Belongs, Found};
use crate::server::error::ApiError;
use crate::server::handlers::blob_file;
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
        let (response, _) = answer(context, repo, digest).await?;
        return Ok(response);
    };
    let is_pushed =
        probe.asks_whether_pushed(state) && context.pushed(repo, digest).await.is_some();
    match answer(context, repo, digest).await {
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
    let response = match context.belongs_to_read(repo, digest).await? {
        Belongs::Here { source, until } => match context.find(repo, digest, &source).await? {
            Found::File(blob) => {
                let (buffers, asked) = (&context.state.open_files.buffers, &context.parts.headers);
                let repository = context.note(repo, &blob);
                context.keep(CachedContent::Blob(digest.clone(), repository), until);
                let answer = blob_file::answer(blob, buffers, asked, context.is_head());
                let mut response = answer?;
                response.extensions_mut().insert(AtHand);
                response
            }
            Found::Pushed(upstream, repo) => {
                let target = format!("/v2/{repo}/blobs/{digest}");
                forward::fetch(&context, &upstream, &target).await?
            }
            Found::Upstream => forward::pass(context).await?,
        },
        Belongs::Upstream => {
            let response = source::blob(context, repo, digest).await?;
            return Ok((response, Origin::Source));
        }
        Belongs::Undecided(failure) => pass_undecided(context, failure).await?,
    };
    Ok((response, Origin::Converted))
}
