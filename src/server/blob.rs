//! Converted blobs from the blob directory: whole, in part, in several parts.
//! Source: RFC 9110 § 13 to 15.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue,
    IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use http::{HeaderMap, Response, StatusCode};

use super::body::Served;
use super::buffers::Buffers;
use super::converted::{Belongs, Found};
use super::forward;
use super::front::Call;
use super::manifest::{CONTENT_DIGEST, matches_etag, pass_unsure};
use super::pieces::Pieces;
use super::ranges::{self, Wanted};
use super::respond::{API_VERSION, Failure, REGISTRY_2};
use crate::oci::{Digest, RepoName};
use crate::store::BlobFile;

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
        Belongs::Here(source) => {
            let buffers = &call.front.shelf.buffers;
            match call.find(repo, digest, &source).await? {
                Found::File(file) => answer(file, buffers, &call.parts.headers, call.is_head()),
                Found::Pushed(upstream, repo) => {
                    let target = format!("/v2/{repo}/blobs/{digest}");
                    forward::fetch(&call, &upstream, &target).await
                }
            }
        }
        Belongs::Upstream => forward::pass(call).await,
        Belongs::Unknown(error) => pass_unsure(call, &error).await,
    }
}

fn answer(
    file: Arc<BlobFile>,
    buffers: &Buffers,
    asked: &HeaderMap,
    is_head: bool,
) -> Result<Response<Served>, Failure> {
    const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
    // What a digest names never changes, but who may have it does: no shared cache keeps it.
    const FOREVER: HeaderValue = HeaderValue::from_static("private, max-age=31536000, immutable");

    let size = file.size();
    let etag = format!("\"{}\"", file.digest());
    if asked.contains_key(IF_MATCH) && !matches_etag(asked, &IF_MATCH, &etag) {
        return Err(Failure::precondition());
    }
    let mut response = Response::new(Served::empty());
    let headers = response.headers_mut();
    headers.reserve(9);
    headers.insert(CONTENT_DIGEST, value(file.digest().as_str()));
    headers.insert(ETAG, value(&etag));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CACHE_CONTROL, FOREVER);
    headers.insert(API_VERSION, REGISTRY_2);
    if matches_etag(asked, &IF_NONE_MATCH, &etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let wanted = if is_head {
        // A range is of a GET only (RFC 9110 § 14.2).
        Wanted::Whole
    } else {
        wanted(asked, &etag, size)
    };
    let mut pieces = Pieces::new(file, buffers.clone());
    let content_type = match wanted {
        Wanted::Nothing => return Err(Failure::not_satisfiable(size)),
        Wanted::Whole => {
            pieces.push_range(0..size);
            OCTETS
        }
        Wanted::One(range) => {
            headers.insert(CONTENT_RANGE, value(&content_range(&range, size)));
            pieces.push_range(range);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            OCTETS
        }
        Wanted::Several(ranges) => {
            let boundary = format!("{:032x}", rand::random::<u128>());
            parts(&mut pieces, &ranges, size, &boundary);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            value(&format!("multipart/byteranges; boundary={boundary}"))
        }
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(pieces.left()));
    if !is_head {
        *response.body_mut() = Served::pieces(pieces);
    }
    Ok(response)
}

fn wanted(asked: &HeaderMap, etag: &str, size: u64) -> Wanted {
    let Some(range) = asked.get(RANGE).and_then(|range| range.to_str().ok()) else {
        return Wanted::Whole;
    };
    // Compared strongly; a date never matches, because blobs have none (RFC 9110 § 13.1.5).
    let is_current = asked
        .get(IF_RANGE)
        .is_none_or(|condition| condition.as_bytes() == etag.as_bytes());
    if is_current {
        ranges::parse(range, size)
    } else {
        Wanted::Whole
    }
}

/// The body of a `multipart/byteranges` (RFC 9110 § 14.6).
fn parts(pieces: &mut Pieces, ranges: &[Range<u64>], size: u64, boundary: &str) {
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
}

fn content_range(range: &Range<u64>, size: u64) -> String {
    format!(
        "bytes {}-{}/{size}",
        range.start,
        range.end.saturating_sub(1)
    )
}

/// A header's value of characters that every value may have.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}
