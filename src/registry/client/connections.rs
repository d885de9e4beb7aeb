//! Over which connections a request goes: with others at a time, or alone.
//!
//! HTTP/2 has one connection for all requests to a host, which saves handshakes: what is small and is
//! read here at once goes there. What is large, or goes on to someone who may be slow, has a
//! connection of its own, of HTTP/1.1: several parts of a blob come over several, as fast as each
//! may be, and who does not read what it asked for holds up nobody else.

use std::time::Duration;

use http::{Method, Request};
use hyper_util::client::legacy::Builder;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::payload::Payload;
use crate::registry::{Body, Timeouts, body};

/// Bytes of a request's body that are sent beside other requests.
const MAX_SHARED: u64 = 1 << 20;
/// Requests that are under way over HTTP/2 at a time, about as many as hosts let one connection
/// have. More go alone, instead of waiting for each other.
pub(super) const MAX_UNDER_WAY: usize = 100;
/// Bytes of heads that are taken of an answer, the bound of HTTP/1 here.
const MAX_HEAD: u32 = 400 << 10;
/// Bytes of an answer that may come before they are read: of one, and of all of a connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Bytes of a request's body that wait to be sent.
const SEND_BUFFER: usize = 256 << 10;
/// A connection that is silent for so long while requests are open is asked whether it is there.
const PING_AFTER: Duration = Duration::from_secs(15);

/// Over which connections a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connections {
    /// Over HTTP/2 with others, where the host speaks it.
    Multiplexed,
    /// Over HTTP/1.1.
    Dedicated,
}

impl Connections {
    /// Of a request whose answer is read here.
    pub(super) fn of(method: &Method, path: &str, payload: &Payload) -> Self {
        let is_large = match payload {
            Payload::File { .. } => true,
            payload => payload.length() > MAX_SHARED,
        };
        if is_large || (*method == Method::GET && path.contains("/blobs/")) {
            Self::Dedicated
        } else {
            Self::Multiplexed
        }
    }

    /// Of a request that is passed on, whose answer goes to whoever asked.
    pub(super) fn of_passed(method: &Method) -> Self {
        if *method == Method::HEAD {
            Self::Multiplexed
        } else {
            Self::Dedicated
        }
    }
}

/// Sets what an HTTP/2 host may do.
pub(super) fn bound(builder: &mut Builder, timeouts: &Timeouts) {
    builder
        .timer(TokioTimer::new())
        .http2_max_header_list_size(MAX_HEAD)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_send_buf_size(SEND_BUFFER)
        .http2_keep_alive_interval(PING_AFTER)
        .http2_keep_alive_timeout(timeouts.connect);
}

/// A client's settings that all connections have.
pub(super) fn builder(timeouts: &Timeouts, max_idle: usize) -> Builder {
    let mut builder = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(timeouts.idle)
        .pool_max_idle_per_host(max_idle);
    builder
}

/// The same request again, where it has no body.
pub(super) fn copy(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(body::empty());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy
}

/// Whether a host says that it did nothing of a request, so that it may be sent again: it refused
/// its stream (RFC 9113 § 8.7) or wants it over HTTP/1.1, or closed the connection before it, which
/// is only sure enough for what changes nothing.
pub(super) fn is_unprocessed(error: &h2::Error, method: &Method) -> bool {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    let is_refused = error.reason() == Some(h2::Reason::REFUSED_STREAM)
        || (error.is_reset() && needs_http1(error));
    error.is_remote() && (is_refused || (is_read && error.is_go_away()))
}

/// Whether a host says that it takes requests over HTTP/1.1 only (RFC 9113 § 7,
/// `HTTP_1_1_REQUIRED`), as where it asks for a client certificate by renegotiation (§ 9.2.1).
pub(super) fn needs_http1(error: &h2::Error) -> bool {
    error.is_remote() && error.reason() == Some(h2::Reason::HTTP_1_1_REQUIRED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_large_goes_alone() {
        let file = Payload::File {
            path: "f".into(),
            offset: 0,
            length: 1,
        };
        let bytes = |length| Payload::Bytes(vec![0; length].into());
        for (method, path, payload, wanted) in [
            (
                Method::GET,
                "manifests/b",
                Payload::Empty,
                Connections::Multiplexed,
            ),
            (
                Method::HEAD,
                "blobs/b",
                Payload::Empty,
                Connections::Multiplexed,
            ),
            (
                Method::GET,
                "blobs/b",
                Payload::Empty,
                Connections::Dedicated,
            ),
            (
                Method::POST,
                "blobs/uploads/",
                Payload::Empty,
                Connections::Multiplexed,
            ),
            (
                Method::PUT,
                "manifests/b",
                bytes(9),
                Connections::Multiplexed,
            ),
            (Method::PUT, "blobs/uploads/1", file, Connections::Dedicated),
            (
                Method::PUT,
                "blobs/uploads/1",
                bytes(2 << 20),
                Connections::Dedicated,
            ),
        ] {
            let path = format!("/v2/a/{path}");
            assert_eq!(
                Connections::of(&method, &path, &payload),
                wanted,
                "{method} {path}"
            );
        }
    }
}
