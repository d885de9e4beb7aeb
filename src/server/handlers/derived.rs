//! Converted manifests by digest, and the documents that are made of them, which are made again
//! when they were evicted.

use std::sync::Arc;

use crate::oci::{Digest, RepoName};
use crate::server::context::RequestContext;
use crate::server::document::Document;
use crate::server::error::ApiError;
use crate::server::handlers::{merged, referrers};

/// A manifest of this program's by its digest, which belongs to what `source` became.
///
/// # Errors
/// When it cannot be had, or is none.
pub(in crate::server) async fn document(
    context: &RequestContext<'_>,
    repo: &RepoName,
    digest: &Digest,
    source: &Digest,
) -> Result<Arc<Document>, ApiError> {
    let is_there = is_there(context, digest) || remake(context, repo, digest, source).await;
    match context.document(repo, digest, source).await {
        // What it is made of was evicted too, and is there again.
        Err(_) if !is_there && remake(context, repo, digest, source).await => {
            context.document(repo, digest, source).await
        }
        answer => answer,
    }
}

fn is_there(context: &RequestContext<'_>, digest: &Digest) -> bool {
    let converted = &context.state.converted;
    converted.documents.contains_key(digest)
        || converted.store().blobs().contains(digest).unwrap_or(false)
}

/// Makes a document again that is made of what `source` became, if this is one. Returns whether it
/// is there now.
async fn remake(
    context: &RequestContext<'_>,
    repo: &RepoName,
    digest: &Digest,
    source: &Digest,
) -> bool {
    let ready = context.ready(repo, source).await.images;
    let is_converted = ready.iter().any(|(_, image)| {
        let manifests = image.manifests.iter().map(|one| &one.manifest);
        let mut manifests = manifests.chain(&image.indexes).chain([&image.root]);
        manifests.any(|manifest| manifest.digest == *digest)
    });
    if ready.is_empty() || is_converted {
        return false;
    }
    let forms = context.forms(repo, source).await;
    if forms.iter().any(|form| form.referrer.digest == *digest) {
        return true;
    }
    if let Ok(Some(list)) = referrers::tagged_list(context, repo, source).await
        && list.digest == *digest
    {
        return true;
    }
    match merged::again(context, repo, source).await {
        Ok(Some(index)) if index.digest == *digest => {
            context.keep_document(repo, source, &index).await.is_ok()
        }
        _ => false,
    }
}
