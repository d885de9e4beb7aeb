//! One exchange of a request and a response's head, within time limits.

use std::pin::pin;
use std::sync::Arc;

use http::uri::Scheme;
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::InvalidMessage;

use super::cause::cause;
use super::connector::{ConnectTimedOut, Connector, Tls};
use super::dial::{Guard, NotPublic};
use super::dump;
use super::egress::{EgressError, Routes};
use super::retry::Failure;
use super::watch::{Progress, Watched};
use crate::registry::{Body, Error, Timeouts};

/// Most connections to a host that are kept for the next request.
const MAX_IDLE: usize = 256;

/// The error of a server that answers a TLS handshake with something else.
const NO_TLS: &str = "the server does not speak TLS; where plain HTTP is meant, write http:// \
                      before the host";

/// Connections with one set of TLS settings, kept for the next request.
#[derive(Clone)]
pub(super) struct Transport {
    client: Client<Connector, Watched>,
    routes: Arc<Routes>,
    timeouts: Timeouts,
}

impl Transport {
    pub(super) fn new(
        tls: Tls,
        guard: Arc<Guard>,
        routes: Arc<Routes>,
        timeouts: Timeouts,
    ) -> Self {
        let connector = Connector::new(tls, guard, Arc::clone(&routes), timeouts.connect);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(timeouts.idle)
            .pool_max_idle_per_host(MAX_IDLE)
            .build(connector);
        Self {
            client,
            routes,
            timeouts,
        }
    }

    /// Sends a request and waits for the response's head.
    pub(super) async fn exchange(
        &self,
        place: &str,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, Failure> {
        dump::request(place, &request);
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
        let mut response = pin!(self.client.request(request));
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
                            return Err(hop.unauthorized().failure(place));
                        }
                    }
                    return response.map_err(|error| explain(place, &error));
                }
                () = progress.stepped() => {}
                () = tokio::time::sleep_until(deadline) => {
                    // There may have been progress meanwhile, which moves it.
                    if progress.deadline(&self.timeouts).0 <= tokio::time::Instant::now() {
                        let place = place.to_owned();
                        return Err(Failure::passing(Error::TimedOut { place, what, after }));
                    }
                }
            }
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
