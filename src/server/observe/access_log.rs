//! One request from its head to its answer's last byte: what the log and the metrics tell.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use tracing::{Level, Span};

use crate::registry::BoxError;
use crate::server::http::activity::ActiveRequest;
use crate::server::http::client_address::Shown;
use crate::server::http::header_names::REQUEST_ID;
use crate::server::limits::request_slot::RequestSlot;
use crate::server::observe::client as said;
use crate::server::observe::metrics::Metrics;
use crate::server::observe::refusals::RefusedBy;
use crate::server::observe::request_span::{self, Ended};
use crate::server::route::Kind;
use crate::telemetry::ActiveSpan;

/// The id of a request: the client's, if it is one, or a new one.
pub(in crate::server) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(REQUEST_ID).filter(|id| {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        (1..=128).contains(&id.len()) && id.as_bytes().iter().all(is_plain)
    });
    given.cloned().unwrap_or_else(|| {
        let id = format!("{:016x}", rand::random::<u64>());
        HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("none"))
    })
}

/// What a client says of itself.
pub(in crate::server) struct ClientInfo {
    pub agent: Option<HeaderValue>,
    pub authorization: Option<HeaderValue>,
}

/// Lives as long as the request does; logs and counts it when dropped.
pub(in crate::server) struct AccessLogEntry {
    metrics: Arc<Metrics>,
    span: Span,
    /// Its span in a trace, if there is one.
    pub trace: ActiveSpan,
    started: Instant,
    client: SocketAddr,
    said: ClientInfo,
    method: Method,
    uri: Uri,
    version: Version,
    /// What it is about.
    pub route: Kind,
    /// What the log calls the upstream that it is for.
    pub upstream: Option<Arc<str>>,
    outcome: &'static str,
    first_byte: Option<Duration>,
    status: StatusCode,
    sent: u64,
    is_complete: bool,
    broken: Option<String>,
    /// Its place among the others.
    pub slot: RequestSlot,
    _busy: ActiveRequest,
}

impl AccessLogEntry {
    pub fn new(
        metrics: Arc<Metrics>,
        span: Span,
        (client, said): (SocketAddr, ClientInfo),
        (method, uri, version): (Method, Uri, Version),
        busy: ActiveRequest,
        slot: RequestSlot,
    ) -> Self {
        metrics.requests_open.inc();
        metrics.version(version);
        Self {
            metrics,
            span,
            trace: ActiveSpan::none(),
            started: Instant::now(),
            client,
            said,
            method,
            uri,
            version,
            route: Kind::Outside,
            upstream: None,
            outcome: "left",
            first_byte: None,
            // What a client that leaves before its answer is counted as, after nginx.
            status: StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            sent: 0,
            is_complete: false,
            broken: None,
            slot,
            _busy: busy,
        }
    }

    /// The answer begins.
    pub fn answered(&mut self, status: StatusCode, outcome: &'static str, has_body: bool) {
        self.status = status;
        self.outcome = outcome;
        self.first_byte = Some(self.started.elapsed());
        self.is_complete = !has_body;
    }

    /// It was refused because of a limit.
    pub fn refused(&self, by: RefusedBy) {
        self.metrics.refusals.refused(by);
    }

    /// Bytes of the body went out.
    pub fn sent(&mut self, bytes: usize) {
        self.sent = self
            .sent
            .saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Bytes that were counted as sent never went out.
    pub fn lost(&mut self, bytes: u64) {
        self.sent = self.sent.saturating_sub(bytes);
        self.is_complete = false;
    }

    /// The body came to its end.
    pub fn complete(&mut self) {
        self.is_complete = true;
    }

    /// The body broke off.
    pub fn broke(&mut self, error: &BoxError) {
        self.broken = Some(error.to_string());
    }
}

impl Drop for AccessLogEntry {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        self.metrics.requests_open.dec();
        let status = self.status.as_u16();
        self.metrics
            .request(self.route, &self.method, status, took, self.sent);
        if self.trace.is_recording() {
            let ended = Ended {
                route: self.route,
                upstream: self.upstream.as_deref(),
                status: self.first_byte.map(|_| self.status),
                outcome: self.outcome,
                sent: self.sent,
                is_complete: self.is_complete,
                method: &self.method,
            };
            request_span::end(&self.trace, &ended);
        }
        let _entered = self.span.enter();
        if let Some(error) = &self.broken {
            tracing::warn!(error, "the answer broke off");
        }
        if !tracing::enabled!(target: "overlaybd_proxy::access", Level::INFO) {
            return;
        }
        // A name that was refused may be a password in the wrong place.
        let user = self.said.authorization.as_ref();
        let user = user.filter(|_| self.status != StatusCode::UNAUTHORIZED);
        // Without the query: it may hold a signature or an upload's secret.
        tracing::info!(
            target: "overlaybd_proxy::access",
            client = %Shown(self.client),
            user = user.and_then(said::user),
            method = %self.method,
            path = self.uri.path(),
            protocol = ?self.version,
            route = self.route.name(),
            upstream = self.upstream.as_deref(),
            ns = said::namespace(&self.uri),
            status,
            outcome = self.outcome,
            bytes = self.sent,
            first_byte_ms = self.first_byte.map(milliseconds),
            ms = milliseconds(took),
            complete = self.is_complete,
            agent = self.said.agent.as_ref().map(said::agent),
            "answered"
        );
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_request_id_is_kept_and_an_invalid_one_is_replaced() {
        let id_for = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(value).unwrap());
            request_id(&headers)
        };
        assert_eq!(id_for("abc-1.2_X"), "abc-1.2_X");
        let long = "x".repeat(129);
        for bad in ["", "a b", "a\"b", &long] {
            let id = id_for(bad);
            assert!(id != bad && id.len() == 16, "{bad}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
