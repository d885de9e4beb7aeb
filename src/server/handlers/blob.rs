//! Blobs: converted ones from the blob directory, others from the upstream.

use http::Response;

use crate::oci::{Digest, RepoName};
use crate::server::cache::responses::CachedContent;
use crate::server::context::RequestContext;
use crate::server::context::lookup::{Belongs, Found};
use crate::server::error::ApiError;
use crate::server::handlers::blob_file::answer;
use crate::server::handlers::forward;
use crate::server::handlers::manifest::pass_undecided;
use crate::server::handlers::source;
use crate::server::http::body::ResponseBody;

/// `GET` or `HEAD` of a blob.
///
/// # Errors
/// The error response.
pub(in crate::server) async fn serve(
    context: RequestContext<'_>,
    repo: &RepoName,
    digest: &Digest,
) -> Result<Response<ResponseBody>, ApiError> {
    match context.belongs_to_read(repo, digest).await? {
        Belongs::Here { source, until } => {
            let buffers = &context.state.open_files.buffers;
            match context.find(repo, digest, &source).await? {
                Found::File(blob) => {
                    context.keep(CachedContent::Blob(digest.clone()), until);
                    answer(blob, buffers, &context.parts.headers, context.is_head())
                }
                Found::Pushed(upstream, repo) => {
                    let target = format!("/v2/{repo}/blobs/{digest}");
                    forward::fetch(&context, &upstream, &target).await
                }
                Found::Upstream => forward::pass(context).await,
            }
        }
        Belongs::Upstream => source::blob(context, repo, digest).await,
        Belongs::Undecided(failure) => pass_undecided(context, failure).await,
    }
}
