//! Dumps requests and responses for debugging: heads only, and of headers only
//! those that hold no secret.

use std::fmt::Write as _;
use std::time::Duration;

use http::uri::Authority;
use http::{HeaderMap, HeaderName, Request, Response, Uri, header};

use crate::registry::config::{DUMP_TARGET, TRACE_TARGET};
use crate::registry::header_names::{API_VERSION, CONTENT_DIGEST, OCI_FILTERS, OCI_SUBJECT};

/// Headers whose values are shown. Whatever is not here may be a credential, a cookie or
/// a signed address.
const SHOWN: [HeaderName; 24] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_RANGES,
    header::CACHE_CONTROL,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::DATE,
    header::ETAG,
    header::HOST,
    header::IF_RANGE,
    header::LAST_MODIFIED,
    header::RANGE,
    header::RETRY_AFTER,
    header::SERVER,
    header::TRANSFER_ENCODING,
    header::USER_AGENT,
    header::WWW_AUTHENTICATE,
    CONTENT_DIGEST,
    API_VERSION,
    OCI_FILTERS,
    OCI_SUBJECT,
    HeaderName::from_static("ratelimit-remaining"),
];

fn shown(headers: &HeaderMap) -> String {
    let mut text = String::new();
    for (name, value) in headers {
        let value = match value.to_str() {
            Ok(value) if SHOWN.contains(name) => value,
            _ => "***",
        };
        let _ = write!(text, "\n  {name}: {value}");
    }
    text
}

/// A request that is about to be sent; `place` is its method and address without a query.
pub(super) fn request<B>(place: &str, request: &Request<B>) {
    tracing::trace!(target: DUMP_TARGET, "> {place}{}", shown(request.headers()));
}

/// The head of its response, which took so long.
pub(super) fn response<B>(place: &str, response: &Response<B>, after: Duration) {
    let status = response.status();
    tracing::trace!(
        target: DUMP_TARGET,
        "< {status} {place} {:?}{}",
        response.version(),
        shown(response.headers())
    );
    let protocol = response.version();
    tracing::trace!(target: TRACE_TARGET, %place, %status, ?protocol, ?after, "response");
}

/// A connection that was made, or not; `egress` is the proxy that it goes through.
pub(super) fn connected(
    host: Option<&Authority>,
    egress: Option<&Uri>,
    is_made: bool,
    after: Duration,
) {
    let host = host.map(tracing::field::display);
    let egress = egress.map(tracing::field::display);
    tracing::trace!(
        target: TRACE_TARGET,
        host,
        egress,
        is_made,
        ?after,
        "connection, TLS included"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn no_credential_cookie_or_signed_address_is_shown() {
        let mut headers = HeaderMap::new();
        for name in [
            "authorization",
            "cookie",
            "set-cookie",
            "location",
            "x-amz-security-token",
        ] {
            headers.insert(name, HeaderValue::from_static("secret"));
        }
        headers.insert("content-type", HeaderValue::from_static("text/plain"));
        let text = shown(&headers);
        assert!(!text.contains("secret"), "{text}");
        assert!(text.contains("content-type: text/plain"));
        assert_eq!(text.matches("***").count(), 5);
    }
}
