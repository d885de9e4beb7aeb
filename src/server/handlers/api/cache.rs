//! The blobs that are kept.

use http::{HeaderMap, StatusCode};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::json;

use super::{Answer, MAX_BODY_BYTES, bad, is_json, parse, read_bytes};
use crate::oci::Digest;
use crate::server::cache::open_files::off_thread;
use crate::server::error::ApiError;
use crate::server::state::AppState;
use crate::store::{BlobError, BlobInfo};

/// How many blobs are listed where the request does not say it, and at most.
const DEFAULT_LIMIT: usize = 1000;
const MAX_LIMIT: usize = 10_000;

/// What is to be evicted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Eviction {
    /// The most bytes that stay.
    to: u64,
    /// Whether nothing is evicted, but what would be is told.
    #[serde(default)]
    dry_run: bool,
}

/// What the disk refused, or what an operator has to do first.
pub(super) fn of_disk(error: BlobError) -> ApiError {
    match error {
        BlobError::Pinned { .. }
        | BlobError::TooManyPins { .. }
        | BlobError::TooManyParts { .. } => {
            ApiError::new(StatusCode::CONFLICT, "DENIED", error.to_string())
        }
        error => ApiError::internal(error),
    }
}

/// The digest of a path.
pub(super) fn digest_of(text: &str) -> Result<Digest, ApiError> {
    let decoded = percent_decode_str(text).decode_utf8_lossy();
    decoded.parse().map_err(|_| bad("this is no digest"))
}

/// `GET /cache`: how much is kept.
pub(super) async fn summary(state: &AppState) -> Result<Answer, ApiError> {
    let blobs = state.converted.store().blobs().clone();
    let (evicted, cache_size) = (blobs.evicted(), blobs.cache_size());
    let counted = off_thread(move || Ok((blobs.list()?, blobs.bytes_free()?)));
    let (list, free) = counted.await.map_err(of_disk)?;
    let kept = |is_of_kind: fn(&BlobInfo) -> bool| {
        let of_kind = list.iter().filter(|blob| is_of_kind(blob));
        let (count, bytes) = of_kind.fold((0_u64, 0_u64), |(count, bytes), blob| {
            (count.saturating_add(1), bytes.saturating_add(blob.size))
        });
        json!({ "blobs": count, "bytes": bytes })
    };
    Ok(Answer::Found(json!({
        "converted": kept(|blob| !blob.is_copy),
        "copies": kept(|blob| blob.is_copy),
        "pinned": kept(|blob| blob.is_pinned),
        "cache_size": cache_size,
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
    let digest = digest_of(digest)?;
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

/// `POST /cache/evictions`: evicts what is over the bound, or what the body says.
pub(super) async fn evict(
    state: &AppState,
    headers: &HeaderMap,
    content: Incoming,
) -> Result<Answer, ApiError> {
    let store = state.converted.store().blobs().clone();
    let body = read_bytes(content, MAX_BODY_BYTES).await?;
    if body.is_empty() {
        let freed = off_thread(move || store.evict()).await.map_err(of_disk)?;
        return Ok(Answer::Found(json!({ "bytes_freed": freed })));
    }
    is_json(headers)?;
    let wanted: Eviction =
        serde_json::from_value(parse(&body)?).map_err(|error| bad(error.to_string()))?;
    let Eviction { to, dry_run } = wanted;
    let evict = move || {
        if dry_run {
            store.planned_evictions(to)
        } else {
            store.evict_to(to)
        }
    };
    let evicted = off_thread(evict).await.map_err(of_disk)?;
    let sizes = evicted.iter().map(|blob| blob.size);
    let freed = sizes.fold(0, u64::saturating_add);
    if !dry_run {
        tracing::info!(
            to,
            blobs = evicted.len(),
            bytes = freed,
            "an operator had blobs evicted"
        );
    }
    let shown: Vec<_> = evicted
        .iter()
        .take(MAX_LIMIT)
        .map(BlobInfo::to_json)
        .collect();
    Ok(Answer::Found(json!({
        "dry_run": dry_run,
        "blobs": evicted.len(),
        "bytes_freed": freed,
        "evicted": shown,
    })))
}
