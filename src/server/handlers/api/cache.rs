//! The blobs that are kept.

use http::StatusCode;
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::{Answer, bad};
use crate::oci::Digest;
use crate::server::cache::open_files::off_thread;
use crate::server::error::ApiError;
use crate::server::state::AppState;
use crate::store::{BlobError, BlobInfo};

/// How many blobs are listed where the request does not say it, and at most.
const DEFAULT_LIMIT: usize = 1000;
const MAX_LIMIT: usize = 10_000;

fn of_disk(error: BlobError) -> ApiError {
    ApiError::internal(error)
}

/// `GET /cache`: how much is kept.
pub(super) async fn summary(state: &AppState) -> Result<Answer, ApiError> {
    let blobs = state.converted.store().blobs().clone();
    let evicted = blobs.evicted();
    let counted = off_thread(move || Ok((blobs.list()?, blobs.bytes_free()?)));
    let (list, free) = counted.await.map_err(of_disk)?;
    let bytes = |copies: bool| {
        let of_kind = list.iter().filter(|blob| blob.is_copy == copies);
        of_kind.fold((0_u64, 0_u64), |(count, bytes), blob| {
            (count.saturating_add(1), bytes.saturating_add(blob.size))
        })
    };
    let shown = |(count, bytes)| json!({ "blobs": count, "bytes": bytes });
    Ok(Answer::Found(json!({
        "converted": shown(bytes(false)),
        "copies": shown(bytes(true)),
        "bytes_free": free,
        "evicted": evicted,
    })))
}

/// `GET /cache/blobs`: by digest, `limit` of those behind `after`.
pub(super) async fn blobs(state: &AppState, query: &str) -> Result<Answer, ApiError> {
    let (mut limit, mut after) = (None, None);
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "limit" if limit.is_none() => {
                let number: Option<usize> = value.parse().ok();
                let number = number.filter(|number| (1..=MAX_LIMIT).contains(number));
                limit = Some(number.ok_or_else(|| bad("limit is 1 to 10000"))?);
            }
            "after" if after.is_none() => {
                let digest: Result<Digest, _> = value.parse();
                after = Some(digest.map_err(|_| bad("after is a digest"))?);
            }
            _ => return Err(bad("the parameters are limit and after, each once")),
        }
    }
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    let store = state.converted.store().blobs().clone();
    let list = off_thread(move || store.list()).await.map_err(of_disk)?;
    let behind = list
        .iter()
        .skip_while(|blob| after.as_ref().is_some_and(|after| blob.digest <= *after));
    let mut page: Vec<&BlobInfo> = behind.take(limit.saturating_add(1)).collect();
    let is_more = page.len() > limit;
    page.truncate(limit);
    let next = page.last().filter(|_| is_more);
    Ok(Answer::Found(json!({
        "blobs": page.iter().map(|blob| blob.to_json()).collect::<Vec<_>>(),
        "next": next.map(|blob| blob.digest.as_str()),
    })))
}

/// `DELETE /cache/blobs/{digest}`: it is made again when it is asked for.
pub(super) async fn remove(state: &AppState, digest: &str) -> Result<Answer, ApiError> {
    let decoded = percent_decode_str(digest).decode_utf8_lossy();
    let digest: Digest = decoded.parse().map_err(|_| bad("this is no digest"))?;
    let (store, of) = (state.converted.store().blobs().clone(), digest.clone());
    let removed = off_thread(move || store.remove(&of))
        .await
        .map_err(of_disk)?;
    if !removed {
        let text = "there is no such blob";
        return Err(ApiError::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", text));
    }
    tracing::info!(%digest, "an operator removed a blob");
    Ok(Answer::Found(json!({ "digest": digest.as_str() })))
}

/// `POST /cache/evictions`: evicts what is over the bound.
pub(super) async fn evict(state: &AppState) -> Result<Answer, ApiError> {
    let store = state.converted.store().blobs().clone();
    let freed = off_thread(move || store.evict()).await.map_err(of_disk)?;
    Ok(Answer::Found(json!({ "bytes_freed": freed })))
}
