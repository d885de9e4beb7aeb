//! Blobs whose files are open: whole, in part, in several parts.
//! Source: RFC 9110 § 13 to 15.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue,
    IF_RANGE, RANGE,
};
use http::{HeaderMap, Response, StatusCode};

use crate::registry::content_headers::{ContentHeaders, value};
use crate::registry::ranges::{self, Wanted};
use crate::server::cache::open_files::OpenBlob;
use crate::server::error::ApiError;
use crate::server::http::body::ResponseBody;
use crate::server::http::buffers::Buffers;
use crate::server::http::file_body::{self, FileBody};
use crate::server::observe::outcome::Outcome;

/// The media type of blobs.
pub(in crate::server) const OCTETS: HeaderValue =
    HeaderValue::from_static("application/octet-stream");
/// What a digest names never changes, but who may have it does: no shared cache keeps it.
pub(in crate::server) const FOREVER: HeaderValue =
    HeaderValue::from_static("private, max-age=31536000, immutable");

/// The answer to a request for a blob whose file is open.
///
/// # Errors
/// When the request's conditions or ranges cannot be met.
pub(in crate::server) fn answer(
    blob: Arc<OpenBlob>,
    buffers: &Buffers,
    asked: &HeaderMap,
    is_head: bool,
) -> Result<Response<ResponseBody>, ApiError> {
    let size = blob.file.size();
    if blob.content_headers.is_unwanted(asked) {
        return Err(ApiError::precondition());
    }
    let mut response = Response::new(ResponseBody::empty().noted(Outcome::Hit));
    let headers = response.headers_mut();
    headers.reserve(10);
    blob.content_headers.put(headers);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CACHE_CONTROL, FOREVER);
    if blob.content_headers.is_known(asked) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    headers.insert(CONTENT_TYPE, OCTETS);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
    // A range is of a GET only (RFC 9110 § 14.2).
    if is_head {
        return Ok(response);
    }
    let body = match wanted(asked, &blob.content_headers, size) {
        Wanted::Nothing => return Err(ApiError::not_satisfiable(size)),
        Wanted::Whole => {
            *response.body_mut() = one(blob, buffers, 0..size);
            return Ok(response);
        }
        Wanted::One(range) => {
            headers.insert(CONTENT_RANGE, value(&ranges::content_range(&range, size)));
            let length = range.end.saturating_sub(range.start);
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            one(blob, buffers, range)
        }
        Wanted::Several(ranges) => {
            let boundary = format!("{:032x}", rand::random::<u128>());
            let content_type = format!("multipart/byteranges; boundary={boundary}");
            headers.insert(CONTENT_TYPE, value(&content_type));
            let file_body = FileBody::new(blob, buffers.clone());
            let file_body = parts(file_body, &ranges, size, &boundary);
            headers.insert(CONTENT_LENGTH, HeaderValue::from(file_body.left()));
            ResponseBody::file(file_body)
        }
    };
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    *response.body_mut() = body;
    Ok(response)
}

/// The body of one range.
fn one(blob: Arc<OpenBlob>, buffers: &Buffers, range: Range<u64>) -> ResponseBody {
    if let Some(bytes) = file_body::small(&blob.file, buffers, &range) {
        return ResponseBody::bytes(bytes).noted(Outcome::Hit);
    }
    let mut file_body = FileBody::new(blob, buffers.clone());
    file_body.push_range(range);
    ResponseBody::file(file_body)
}

fn wanted(asked: &HeaderMap, content_headers: &ContentHeaders, size: u64) -> Wanted {
    match asked.get(RANGE).and_then(|range| range.to_str().ok()) {
        Some(range) if content_headers.is_current(asked.get(IF_RANGE)) => {
            ranges::parse(range, size)
        }
        _ => Wanted::Whole,
    }
}

/// The body of a `multipart/byteranges` (RFC 9110 § 14.6).
fn parts(mut file_body: FileBody, ranges: &[Range<u64>], size: u64, boundary: &str) -> FileBody {
    for (place, range) in ranges.iter().enumerate() {
        let line_end = if place == 0 { "" } else { "\r\n" };
        let content_range = ranges::content_range(range, size);
        file_body.push_bytes(Bytes::from(format!(
            "{line_end}--{boundary}\r\nContent-Type: application/octet-stream\r\n\
             Content-Range: {content_range}\r\n\r\n"
        )));
        file_body.push_range(range.clone());
    }
    file_body.push_bytes(Bytes::from(format!("\r\n--{boundary}--\r\n")));
    file_body
}
