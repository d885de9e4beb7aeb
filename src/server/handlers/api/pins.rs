//! What is kept until it is unpinned.

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::cache::{digest_of, of_disk};
use super::{Answer, bad, conversions};
use crate::convert::Asker;
use crate::oci::{Digest, RepoName, Tag};
use crate::server::cache::open_files::off_thread;
use crate::server::error::ApiError;
use crate::server::explain::ImageQuestion;
use crate::server::state::AppState;
use crate::store::Pin;

/// How deep manifests in indexes are fetched from the object storage, so that their layers are known.
const DEPTH: usize = 4;
/// Most manifests that are fetched for one pin.
const MAX_FETCHED: usize = 256;

/// What is to be pinned.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Wanted {
    Digest(ByDigest),
    Image(ByName),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ByDigest {
    digest: Digest,
}

/// What an image is converted to now.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ByName {
    /// The registry in the image's name, if it is not the first upstream's.
    registry: Option<String>,
    repository: RepoName,
    tag: Tag,
}

/// `GET /cache/pins`: all of them, by digest.
pub(super) async fn list(state: &AppState) -> Result<Answer, ApiError> {
    let store = state.converted.store().blobs().clone();
    let pins = off_thread(move || store.pins()).await.map_err(of_disk)?;
    let pins: Vec<Value> = pins.iter().map(Pin::to_json).collect();
    Ok(Answer::Found(json!({ "pins": pins })))
}

/// `POST /cache/pins`: pins a blob, a manifest with its blobs, or what an image is converted to.
pub(super) async fn add(state: &AppState, wanted: Value) -> Result<Answer, ApiError> {
    let wanted: Wanted = serde_json::from_value(wanted).map_err(|_| {
        bad("the body is {\"digest\": …}, or {\"repository\": …, \"tag\": …} with or without \"registry\"")
    })?;
    let digest = match wanted {
        Wanted::Digest(ByDigest { digest }) => digest,
        Wanted::Image(name) => converted(state, name).await?,
    };
    fetch_manifests(state, &digest).await?;
    let (store, of) = (state.converted.store().blobs().clone(), digest.clone());
    let pinned = off_thread(move || store.pin(&of)).await.map_err(of_disk)?;
    let Some(pin) = pinned else {
        let text = "there is no such blob";
        return Err(ApiError::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", text));
    };
    tracing::info!(%digest, blobs = pin.blobs, bytes = pin.bytes, missing = pin.missing,
        "an operator pinned blobs");
    Ok(Answer::Found(pin.to_json()))
}

/// The manifest or index that an image is converted to now.
async fn converted(state: &AppState, name: ByName) -> Result<Digest, ApiError> {
    let question = ImageQuestion {
        host: name.registry,
        repository: name.repository,
        tag: name.tag,
    };
    let request = conversions::resolve(state, &question, Asker::Operator).await?;
    request.known().await.ok_or_else(|| {
        let text =
            "this image is not converted: have that done first (`overlaybd-proxy jobs start`)";
        ApiError::new(StatusCode::CONFLICT, "MANIFEST_UNKNOWN", text)
    })
}

/// Brings manifests that only the object storage has.
async fn fetch_manifests(state: &AppState, digest: &Digest) -> Result<(), ApiError> {
    let store = state.converted.store();
    if store.objects().is_none() {
        return Ok(());
    }
    let mut left = MAX_FETCHED;
    for _ in 0..DEPTH {
        let (blobs, of) = (store.blobs().clone(), digest.clone());
        let absent = off_thread(move || blobs.absent_manifests(&of));
        let mut is_more = false;
        for manifest in absent.await.map_err(of_disk)?.iter().take(left) {
            left = left.saturating_sub(1);
            is_more |= store.fetch(manifest).await;
        }
        if !is_more {
            break;
        }
    }
    Ok(())
}

/// `DELETE /cache/pins/{digest}`: what it kept may be evicted again.
pub(super) async fn remove(state: &AppState, digest: &str) -> Result<Answer, ApiError> {
    let digest = digest_of(digest)?;
    let (store, of) = (state.converted.store().blobs().clone(), digest.clone());
    let removed = off_thread(move || store.unpin(&of));
    if !removed.await.map_err(of_disk)? {
        let text = "this was not pinned itself: GET /api/v1/cache/pins lists what was";
        return Err(ApiError::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", text));
    }
    tracing::info!(%digest, "an operator unpinned blobs");
    Ok(Answer::Found(json!({ "digest": digest.as_str() })))
}
