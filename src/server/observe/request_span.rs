//! The spans of requests: what OpenTelemetry's conventions for HTTP servers say, and what we know.

use std::net::SocketAddr;

use http::header::{HOST, USER_AGENT};
use http::{Method, Request, StatusCode};

use crate::server::observe::client::agent;
use crate::server::route::Kind;
use crate::telemetry::{self, ActiveSpan, KeyValue, method_attributes, method_name};

/// Begins the span of a request, with its id; none without a tracer.
pub(in crate::server) fn begin<B>(
    client: SocketAddr,
    request: &Request<B>,
    id: &str,
) -> ActiveSpan {
    let method = method_name(request.method()).unwrap_or("HTTP");
    let span = telemetry::server(method, request.headers(), || {
        let mut known = method_attributes(request.method());
        known.extend([
            KeyValue::new("client.address", client.ip().to_string()),
            KeyValue::new("client.port", i64::from(client.port())),
            KeyValue::new("overlaybd.request.id", id.to_owned()),
        ]);
        known
    });
    if !span.is_recording() {
        return span;
    }
    // Never with the query: it may hold a signature or an upload's secret.
    span.set_text("url.path", request.uri().path());
    if let Some(found) = repository(request.uri().path()) {
        span.set_text("overlaybd.repository", found);
    }
    if let Some(value) = request.headers().get(USER_AGENT) {
        span.set("user_agent.original", agent(value));
    }
    if let Some((host, port)) = named(request) {
        span.set_text("server.address", &host);
        if let Some(port) = port {
            span.set("server.port", i64::from(port));
        }
    }
    span
}

/// Begins the span of an operator's or a registry's request that changes something, whose path
/// looks like `route`; none of those that only look, which come every few seconds.
pub(in crate::server) fn begin_admin<B>(
    client: SocketAddr,
    request: &Request<B>,
    route: Option<&'static str>,
) -> ActiveSpan {
    let (method, Some(route)) = (request.method(), route) else {
        return ActiveSpan::none();
    };
    if matches!(*method, Method::GET | Method::HEAD) {
        return ActiveSpan::none();
    }
    let known = method_name(method).unwrap_or("HTTP");
    let span = telemetry::server(known, request.headers(), || {
        let mut known = method_attributes(method);
        known.extend([
            KeyValue::new("client.address", client.ip().to_string()),
            KeyValue::new("client.port", i64::from(client.port())),
            KeyValue::new("http.route", route),
        ]);
        known
    });
    if span.is_recording() {
        span.rename(format!("{known} {route}"));
        // Never with the query: registries that send no header have the secret there.
        span.set_text("url.path", request.uri().path());
    }
    span
}

/// Sets what was answered to it.
pub(in crate::server) fn end_admin(span: &ActiveSpan, status: StatusCode) {
    if span.is_recording() {
        span.set("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            span.fail(status.as_str().to_owned(), "");
        }
    }
}

/// What came of a request.
pub(in crate::server) struct Ended<'a> {
    pub route: Kind,
    pub upstream: Option<&'a str>,
    /// `None` where the client left before its answer.
    pub status: Option<StatusCode>,
    pub outcome: &'static str,
    /// Bytes of the answer's body.
    pub sent: u64,
    pub is_complete: bool,
    pub method: &'a Method,
}

/// Sets what is known at a request's end.
pub(in crate::server) fn end(span: &ActiveSpan, ended: &Ended<'_>) {
    if let Some(route) = template(ended.route) {
        let method = method_name(ended.method).unwrap_or("HTTP");
        span.rename(format!("{method} {route}"));
        span.set("http.route", route);
    }
    if let Some(upstream) = ended.upstream {
        span.set_text("overlaybd.upstream", upstream);
    }
    span.set("overlaybd.outcome", ended.outcome);
    span.set(
        "http.response.body.size",
        i64::try_from(ended.sent).unwrap_or(i64::MAX),
    );
    match ended.status {
        Some(status) => {
            span.set("http.response.status_code", i64::from(status.as_u16()));
            if status.is_server_error() {
                span.fail(status.as_str().to_owned(), "");
            } else if !ended.is_complete {
                span.fail("incomplete", "the answer did not come to its end");
            }
        }
        None => span.fail("left", "the client left before its answer"),
    }
}

/// The path of a route, with names in place of what differs.
fn template(route: Kind) -> Option<&'static str> {
    Some(match route {
        Kind::Ping => "/v2/",
        Kind::Manifest => "/v2/{name}/manifests/{reference}",
        Kind::Blob => "/v2/{name}/blobs/{digest}",
        Kind::Upload => "/v2/{name}/blobs/uploads/{reference}",
        Kind::Tags => "/v2/{name}/tags/list",
        Kind::Catalog => "/v2/_catalog",
        Kind::Referrers => "/v2/{name}/referrers/{digest}",
        Kind::Token => "/v2/_token",
        Kind::Other | Kind::Outside => return None,
    })
}

/// The repository that a path is about, as it is written there.
fn repository(path: &str) -> Option<&str> {
    let (_, below) = path.split_once("/v2/")?;
    let ends = ["/manifests/", "/blobs/", "/tags/", "/referrers/"];
    let end = ends.iter().filter_map(|end| below.rfind(end)).max()?;
    below.get(..end).filter(|name| !name.is_empty())
}

/// The host and port that a request names.
fn named<B>(request: &Request<B>) -> Option<(String, Option<u16>)> {
    let written = request.headers().get(HOST);
    let authority: http::uri::Authority = match written {
        Some(host) => host.to_str().ok()?.parse().ok()?,
        None => request.uri().authority()?.clone(),
    };
    Some((authority.host().to_owned(), authority.port_u16()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_what_stands_before_the_last_resource() {
        for (path, wanted) in [
            ("/v2/a/b/manifests/c", Some("a/b")),
            ("/v2/a/manifests/manifests/c", Some("a/manifests")),
            ("/overlaybd/v2/a/blobs/sha256:0", Some("a")),
            ("/p2p/https://r.io/v2/a/blobs/sha256:0", Some("a")),
            ("/v2/a/blobs/uploads/x", Some("a")),
            ("/v2/", None),
            ("/v2/_catalog", None),
            ("/x", None),
        ] {
            assert_eq!(repository(path), wanted, "{path}");
        }
    }
}
