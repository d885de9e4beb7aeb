//! Manifests that are pushed: what they name of converted images is given to the upstream first.
//!
//! `HEAD` of a converted blob says that it is there, although only the proxy has it, so a client
//! that copies or tags a converted image within its repository does not upload the blob. The
//! upstream then refuses the manifest. So each part is pushed before its manifest, with the same
//! credentials: whoever may not push gets the upstream's refusal.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, Response};

use crate::oci::{Descriptor, Digest, Manifest, RepoName, Selector};
use crate::registry::stall::Stalling;
use crate::registry::{BlobSource, body};
use crate::server::context::RequestContext;
use crate::server::context::belongs::Belongs;
use crate::server::context::finding::Found;
use crate::server::error::ApiError;
use crate::server::handlers::{forward, pushed_list};
use crate::server::http::body::ResponseBody;

/// Longest manifest that is looked into, in bytes: longer ones are refused by registries anyway.
const MAX_MANIFEST: usize = 4 << 20;
/// Most parts of one manifest, with all manifests that it names, that are looked up.
const MAX_PARTS: usize = 4096;

/// `PUT` of a manifest.
///
/// # Errors
/// The error response.
pub(in crate::server) async fn manifest(
    mut context: RequestContext<'_>,
    repo: &RepoName,
    selector: &Selector,
) -> Result<Response<ResponseBody>, ApiError> {
    let state = context.state;
    let permit = manifest_length(&context.parts.headers)
        .and_then(|length| state.manifest_bytes.try_acquire_many(length).ok());
    let (Some(_permit), Some(incoming)) = (permit, context.body.take()) else {
        return forward::pass(context).await;
    };
    let stall = state.config.limits.stall;
    let incoming = Stalling::new(incoming, stall);
    let has_stalled = incoming.has_stalled();
    let bytes = body::read(incoming, MAX_MANIFEST).await.map_err(|error| {
        if has_stalled.load(Ordering::Relaxed) {
            return ApiError::stalled(stall);
        }
        ApiError::incomplete_body(&error)
    })?;
    let media_type = context.parts.headers.get(CONTENT_TYPE);
    let media_type = media_type.and_then(|value| value.to_str().ok());
    if let Selector::Tag(tag) = selector
        && let Some(list) = pushed_list::find(&context, repo, tag, &bytes).await?
    {
        return pushed_list::push(context, repo, list).await;
    }
    // What is no manifest is the upstream's to refuse.
    if let Ok(parsed) = Manifest::parse(media_type.unwrap_or_default(), &bytes) {
        supply(&context, repo, &parsed).await?;
    }
    forward::pass_bytes(context, bytes).await
}

/// The length of a body, if it has one that a manifest may have.
fn manifest_length(headers: &HeaderMap) -> Option<u32> {
    let length: usize = headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()?;
    u32::try_from(length)
        .ok()
        .filter(|_| length <= MAX_MANIFEST)
}

fn blobs_of(manifest: &Manifest) -> Vec<&Descriptor> {
    match manifest {
        Manifest::Image(image) => image.layers.iter().chain([&image.config]).collect(),
        Manifest::Index(_) => Vec::new(),
    }
}

/// Gives the upstream each part of a manifest that is a converted image's, those of the manifests
/// in an index too.
async fn supply(
    context: &RequestContext<'_>,
    repo: &RepoName,
    manifest: &Manifest,
) -> Result<(), ApiError> {
    let mut seen: HashSet<Digest> = HashSet::new();
    for blob in blobs_of(manifest) {
        supply_blob(context, repo, &blob.digest, &mut seen).await?;
    }
    if let Manifest::Index(index) = manifest {
        for entry in &index.manifests {
            supply_manifest(context, repo, &entry.digest, &mut seen).await?;
        }
    }
    Ok(())
}

/// The source of a part that is a converted image's and that this client may have. No part is
/// looked up twice, and not more than [`MAX_PARTS`] are.
async fn source_of(
    context: &RequestContext<'_>,
    repo: &RepoName,
    digest: &Digest,
    seen: &mut HashSet<Digest>,
) -> Result<Option<Digest>, ApiError> {
    if seen.len() >= MAX_PARTS || !seen.insert(digest.clone()) {
        return Ok(None);
    }
    Ok(match context.belongs(repo, digest).await? {
        Belongs::Here { source, .. } => Some(source),
        Belongs::Upstream | Belongs::Undecided(_) => None,
    })
}

/// Pushes a converted image manifest with its blobs. An index in an index is not followed.
async fn supply_manifest(
    context: &RequestContext<'_>,
    repo: &RepoName,
    digest: &Digest,
    seen: &mut HashSet<Digest>,
) -> Result<(), ApiError> {
    let Some(source) = source_of(context, repo, digest, seen).await? else {
        return Ok(());
    };
    let document = context.document(repo, digest, &source).await?;
    let (media_type, bytes) = document.content();
    let Ok(parsed @ Manifest::Image(_)) = Manifest::parse(&media_type, &bytes) else {
        return Ok(());
    };
    for blob in blobs_of(&parsed) {
        supply_blob(context, repo, &blob.digest, seen).await?;
    }
    let upstream = context.chosen.upstream;
    let selector = Selector::Digest(digest.clone());
    upstream
        .push_manifest(repo, &selector, &media_type, bytes, &context.authorization)
        .await
        .map_err(|error| ApiError::upstream(&error, context.state.is_own()))?;
    Ok(())
}

async fn supply_blob(
    context: &RequestContext<'_>,
    repo: &RepoName,
    digest: &Digest,
    seen: &mut HashSet<Digest>,
) -> Result<(), ApiError> {
    let Some(source) = source_of(context, repo, digest, seen).await? else {
        return Ok(());
    };
    // What was pushed is at an upstream already: if not at this one, it answers so.
    let Found::File(blob) = context.find(repo, digest, &source).await? else {
        return Ok(());
    };
    let file = BlobSource::File(blob.file.path());
    let (upstream, size) = (context.chosen.upstream, blob.file.size());
    upstream
        .push_blob(repo, digest, size, &file, &context.authorization)
        .await
        .map_err(|error| ApiError::upstream(&error, context.state.is_own()))?;
    tracing::info!(%repo, %digest, size, "a converted blob was pushed, because a manifest that names it is");
    Ok(())
}
