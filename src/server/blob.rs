//! Converted blobs from the blob directory: whole, in part, in several parts.
//! Source: RFC 9110 § 13 to 15.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue,
    IF_RANGE, RANGE,
};
use http::{HeaderMap, Response, StatusCode};

use super::body::Served;
use super::buffers::Buffers;
use super::converted::{Belongs, Found};
use super::forward;
use super::front::Call;
use super::label::{Label, value};
use super::manifest::pass_undecided;
use super::pieces::{self, Pieces};
use super::ranges::{self, Wanted};
use super::respond::Failure;
use super::shelf::OpenBlob;
use super::warm::Content;
use crate::oci::{Digest, RepoName};

/// `GET` or `HEAD` of a blob.
///
/// # Errors
/// What the client is told instead.
pub(super) async fn serve(
    call: Call<'_>,
    repo: &RepoName,
    digest: &Digest,
) -> Result<Response<Served>, Failure> {
    match call.belongs(repo, digest).await? {
        Belongs::Here { source, until } => {
            let buffers = &call.front.shelf.buffers;
            match call.find(repo, digest, &source).await? {
                Found::File(blob) => {
                    call.keep(Content::Blob(digest.clone()), until);
                    answer(blob, buffers, &call.parts.headers, call.is_head())
                }
                Found::Pushed(upstream, repo) => {
                    let target = format!("/v2/{repo}/blobs/{digest}");
                    forward::fetch(&call, &upstream, &target).await
                }
                Found::Upstream => forward::pass(call).await,
            }
        }
        Belongs::Upstream => forward::pass(call).await,
        Belongs::Undecided(failure) => pass_undecided(call, failure).await,
    }
}

/// The answer to a request for a blob whose file is open.
///
/// # Errors
/// When the request's conditions or ranges cannot be met.
pub(super) fn answer(
    blob: Arc<OpenBlob>,
    buffers: &Buffers,
    asked: &HeaderMap,
    is_head: bool,
) -> Result<Response<Served>, Failure> {
    const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
    // What a digest names never changes, but who may have it does: no shared cache keeps it.
    const FOREVER: HeaderValue = HeaderValue::from_static("private, max-age=31536000, immutable");

    let size = blob.file.size();
    if blob.label.is_unwanted(asked) {
        return Err(Failure::precondition());
    }
    let mut response = Response::new(Served::empty());
    let headers = response.headers_mut();
    headers.reserve(10);
    blob.label.put(headers);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CACHE_CONTROL, FOREVER);
    if blob.label.is_known(asked) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    headers.insert(CONTENT_TYPE, OCTETS);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
    // A range is of a GET only (RFC 9110 § 14.2).
    if is_head {
        return Ok(response);
    }
    let body = match wanted(asked, &blob.label, size) {
        Wanted::Nothing => return Err(Failure::not_satisfiable(size)),
        Wanted::Whole => {
            *response.body_mut() = one(blob, buffers, 0..size);
            return Ok(response);
        }
        Wanted::One(range) => {
            headers.insert(CONTENT_RANGE, value(&content_range(&range, size)));
            let length = range.end.saturating_sub(range.start);
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            one(blob, buffers, range)
        }
        Wanted::Several(ranges) => {
            let boundary = format!("{:032x}", rand::random::<u128>());
            let content_type = format!("multipart/byteranges; boundary={boundary}");
            headers.insert(CONTENT_TYPE, value(&content_type));
            let pieces = Pieces::new(blob, buffers.clone());
            let pieces = parts(pieces, &ranges, size, &boundary);
            headers.insert(CONTENT_LENGTH, HeaderValue::from(pieces.left()));
            Served::pieces(pieces)
        }
    };
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    *response.body_mut() = body;
    Ok(response)
}

/// The body of one range.
fn one(blob: Arc<OpenBlob>, buffers: &Buffers, range: Range<u64>) -> Served {
    if let Some(bytes) = pieces::small(&blob.file, buffers, &range) {
        return Served::bytes(bytes);
    }
    let mut pieces = Pieces::new(blob, buffers.clone());
    pieces.push_range(range);
    Served::pieces(pieces)
}

fn wanted(asked: &HeaderMap, label: &Label, size: u64) -> Wanted {
    match asked.get(RANGE).and_then(|range| range.to_str().ok()) {
        Some(range) if label.is_current(asked.get(IF_RANGE)) => ranges::parse(range, size),
        _ => Wanted::Whole,
    }
}

/// The body of a `multipart/byteranges` (RFC 9110 § 14.6).
fn parts(mut pieces: Pieces, ranges: &[Range<u64>], size: u64, boundary: &str) -> Pieces {
    for (place, range) in ranges.iter().enumerate() {
        let line_end = if place == 0 { "" } else { "\r\n" };
        let content_range = content_range(range, size);
        pieces.push_bytes(Bytes::from(format!(
            "{line_end}--{boundary}\r\nContent-Type: application/octet-stream\r\n\
             Content-Range: {content_range}\r\n\r\n"
        )));
        pieces.push_range(range.clone());
    }
    pieces.push_bytes(Bytes::from(format!("\r\n--{boundary}--\r\n")));
    pieces
}

fn content_range(range: &Range<u64>, size: u64) -> String {
    format!(
        "bytes {}-{}/{size}",
        range.start,
        range.end.saturating_sub(1)
    )
}
