//! A converted manifest as it is served.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

use crate::convert::StoredManifest;
use crate::registry::content_headers::{ContentHeaders, value};
use crate::server::http::body::ResponseBody;
use crate::server::observe::outcome::Outcome;

/// A manifest or index with the headers that describe it.
#[derive(Debug)]
pub(in crate::server) struct Document {
    bytes: Bytes,
    media_type: HeaderValue,
    content_headers: ContentHeaders,
}

impl Document {
    pub fn new(stored: &StoredManifest) -> Self {
        Self {
            bytes: stored.bytes.clone(),
            media_type: value(&stored.media_type),
            content_headers: ContentHeaders::new(&stored.digest),
        }
    }

    /// Its media type and its bytes.
    pub fn content(&self) -> (String, Bytes) {
        let media_type = self.media_type.to_str().unwrap_or_default();
        (media_type.to_owned(), self.bytes.clone())
    }

    /// Its bytes' number.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The answer to a request for it.
    pub fn answer(&self, asked: &HeaderMap, is_head: bool) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::empty().noted(Outcome::Hit));
        let headers = response.headers_mut();
        headers.reserve(8);
        self.content_headers.put(headers);
        if self.content_headers.is_known(asked) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        headers.insert(CONTENT_TYPE, self.media_type.clone());
        headers.insert(CONTENT_LENGTH, HeaderValue::from(self.bytes.len()));
        if !is_head {
            let body = ResponseBody::bytes(self.bytes.clone());
            *response.body_mut() = body.noted(Outcome::Hit);
        }
        response
    }
}
