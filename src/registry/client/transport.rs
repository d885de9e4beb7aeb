//! One exchange of a request and a response's head, within time limits.

use std::pin::pin;
use std::sync::Arc;

use http::uri::Scheme;
use http::{Request, Response, StatusCode, header};
use hyper::body::{Body as _, Incoming};
use hyper_util::client::legacy::Client;
use rustls::InvalidMessage;

use super::cause::cause;
use super::connections::{self, Connections, is_unprocessed, needs_http1};
use super::connector::{ConnectTimedOut, Connector, Tls};
use super::dial::{Guard, NotPublic};
use super::dump;
use super::egress::{EgressError, Routes};
use super::http1_hosts::Http1Hosts;
use super::retry::Failure;
use super::tls;
use super::watch::{Progress, Watched};
use crate::registry::{Body, Error, Timeouts};
use crate::telemetry::{self, ActiveSpan, Destination};

/// Most connections to a host that are kept for the next request.
const MAX_IDLE: usize = 256;

/// The error of a server that answers a TLS handshake with something else.
const NO_TLS: &str = "the server does not speak TLS; where plain HTTP is meant, write http:// \
                      before the host";

/// Connections with one set of TLS settings, kept for the next request.
#[derive(Clone)]
pub(super) struct Transport {
    client: Client<Connector, Watched>,
    /// Those that speak HTTP/2 where the host does; `None` where that is switched off.
    shared: Option<Client<Connector, Watched>>,
    /// One handle for each request that is under way there.
    under_way: Arc<()>,
    /// Those that offer HTTP/2 and do not take requests over it.
    http1_hosts: Arc<Http1Hosts>,
    routes: Arc<Routes>,
    timeouts: Timeouts,
}

impl Transport {
    pub(super) fn new(
        tls: Tls,
        guard: &Arc<Guard>,
        routes: Arc<Routes>,
        timeouts: Timeouts,
        http2: bool,
    ) -> Self {
        let mut builder = connections::builder(&timeouts, MAX_IDLE);
        let connector = |tls| {
            Connector::new(
                tls,
                Arc::clone(guard),
                Arc::clone(&routes),
                timeouts.connect,
            )
        };
        let shared = http2.then(|| Tls {
            registry: tls::offering_http2(&tls.registry),
            egress: Arc::clone(&tls.egress),
        });
        let client = builder.build(connector(tls));
        connections::bound(&mut builder, &timeouts);
        let shared = shared.map(|tls| builder.build(connector(tls)));
        Self {
            client,
            shared,
            under_way: Arc::default(),
            http1_hosts: Arc::default(),
            routes,
            timeouts,
        }
    }

    /// Sends a request and waits for the response's head. `whose` is its address, for traces.
    pub(super) async fn exchange(
        &self,
        place: &str,
        whose: Destination,
        mut request: Request<Body>,
        connections: Connections,
    ) -> Result<Response<Incoming>, Failure> {
        let span = telemetry::client(&mut request, whose);
        let exchanged = self.send(place, request, connections).await;
        tell(&span, &exchanged);
        exchanged
    }

    async fn send(
        &self,
        place: &str,
        request: Request<Body>,
        connections: Connections,
    ) -> Result<Response<Incoming>, Failure> {
        let is_plain = request.uri().scheme() == Some(&Scheme::HTTP);
        let host = request.uri().authority().cloned();
        let under_way = Arc::clone(&self.under_way);
        let is_shared = connections == Connections::Multiplexed
            && !is_plain
            && Arc::strong_count(&under_way) <= connections::MAX_UNDER_WAY
            && !host.as_ref().is_some_and(|host| self.http1_hosts.has(host));
        let Some(client) = self.shared.as_ref().filter(|_| is_shared) else {
            drop(under_way);
            let sent = self.exchange_by(&self.client, place, request).await;
            return sent.map_err(|failed| failed.failure);
        };
        let again = request
            .body()
            .is_end_stream()
            .then(|| connections::copy(&request));
        let sent = self.exchange_by(client, place, request).await;
        if let (Err(failed), Some(host)) = (&sent, host)
            && failed.needs_http1
        {
            tracing::info!(%host, "the host takes requests over HTTP/1.1 only");
            self.http1_hosts.remember(host);
        }
        match (sent, again) {
            (Err(failed), Some(again)) if failed.is_unprocessed => {
                let client = if failed.needs_http1 {
                    &self.client
                } else {
                    client
                };
                tracing::debug!(
                    error = %failed.failure.error,
                    over_http1 = failed.needs_http1,
                    "sending it again"
                );
                let sent = self.exchange_by(client, place, again).await;
                sent.map_err(|failed| failed.failure)
            }
            (sent, _) => sent.map_err(|failed| failed.failure),
        }
    }

    async fn exchange_by(
        &self,
        client: &Client<Connector, Watched>,
        place: &str,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, Failed> {
        dump::request(place, &request);
        let method = request.method().clone();
        let is_plain = request.uri().scheme() == Some(&Scheme::HTTP);
        let hop = self.routes.of(request.uri()).filter(|_| is_plain);
        // A request in the clear is the proxy's to pass on; of others it sees CONNECT alone.
        if let Some(value) = hop.and_then(|hop| hop.authorization()) {
            let headers = request.headers_mut();
            headers.insert(header::PROXY_AUTHORIZATION, value.clone());
        }
        let began = std::time::Instant::now();
        let progress = Progress::new();
        let request = request.map(|body| Watched::new(body, Arc::clone(&progress)));
        let mut response = pin!(client.request(request));
        loop {
            let (deadline, what, after) = progress.deadline(&self.timeouts);
            tokio::select! {
                response = &mut response => {
                    if let Ok(response) = &response {
                        dump::response(place, response, began.elapsed());
                        let status = response.status();
                        if let Some(hop) = hop
                            && status == StatusCode::PROXY_AUTHENTICATION_REQUIRED
                        {
                            return Err(hop.unauthorized().failure(place).into());
                        }
                    }
                    return response.map_err(|error| Failed {
                        is_unprocessed: cause(&error).is_some_and(|it| is_unprocessed(it, &method)),
                        needs_http1: cause(&error).is_some_and(needs_http1),
                        failure: explain(place, &error),
                    });
                }
                () = progress.stepped() => {}
                () = tokio::time::sleep_until(deadline) => {
                    // There may have been progress meanwhile, which moves it.
                    if progress.deadline(&self.timeouts).0 <= tokio::time::Instant::now() {
                        let place = place.to_owned();
                        return Err(Failure::passing(Error::TimedOut { place, what, after }).into());
                    }
                }
            }
        }
    }
}

/// Sets what came of an exchange.
fn tell(span: &ActiveSpan, exchanged: &Result<Response<Incoming>, Failure>) {
    if !span.is_recording() {
        return;
    }
    match exchanged {
        Ok(response) => {
            let status = response.status();
            span.set("http.response.status_code", i64::from(status.as_u16()));
            if status.is_client_error() || status.is_server_error() {
                span.fail(status.as_str().to_owned(), "");
            }
        }
        // Its text has the whole address.
        Err(failure) => span.fail(failure.error.kind(), ""),
    }
}

/// A failed exchange.
struct Failed {
    failure: Failure,
    /// Whether the host has said that it did nothing.
    is_unprocessed: bool,
    /// Whether the host takes requests over HTTP/1.1 only.
    needs_http1: bool,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            is_unprocessed: false,
            needs_http1: false,
        }
    }
}

fn explain(place: &str, error: &hyper_util::client::legacy::Error) -> Failure {
    if let Some(error) = cause::<EgressError>(error) {
        return error.failure(place);
    }
    let place = place.to_owned();
    if let Some(NotPublic { host, address }) = cause(error) {
        return Failure::from(Error::Refused {
            place,
            target: host.clone(),
            why: format!("its address {address} is no public one"),
        });
    }
    if let Some(ConnectTimedOut(after)) = cause(error) {
        return Failure::passing(Error::TimedOut {
            place,
            what: "connection",
            after: *after,
        });
    }
    // An error of the request's body is the cause of the connection's.
    if let Some(own) = cause::<Error>(error) {
        return Failure::from(own.clone());
    }
    match cause::<rustls::Error>(error) {
        // What the first bytes of an answer in the clear are to TLS.
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType))
            if error.is_connect() =>
        {
            Failure::from(Error::Unreachable {
                place,
                cause: NO_TLS.to_owned(),
            })
        }
        // The same certificate will come again.
        Some(_) if error.is_connect() => Error::unreachable(&place, error).into(),
        _ => Failure::passing(Error::unreachable(&place, error)),
    }
}
