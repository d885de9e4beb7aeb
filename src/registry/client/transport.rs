//! One exchange of a request and a response's head, within time limits.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, InvalidMessage};
use tower_service::Service;

use super::dial::{Guard, NotPublic, Resolver};
use super::dump;
use super::early::Readable;
use super::retry::Failure;
use super::watch::{Progress, Watched};
use crate::registry::{Body, BoxError, Error, Timeouts};

/// Most connections to a host that are kept for the next request.
const MAX_IDLE: usize = 256;

/// The error of a server that answers a TLS handshake with something else.
const NO_TLS: &str = "the server does not speak TLS; where plain HTTP is meant, write http:// \
                      before the host";

/// Connections with one set of TLS settings, kept for the next request.
#[derive(Clone)]
pub(super) struct Transport {
    client: Client<Connector, Watched>,
    timeouts: Timeouts,
}

impl Transport {
    pub(super) fn new(tls: Arc<ClientConfig>, guard: Arc<Guard>, timeouts: Timeouts) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(Resolver(guard));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        // Shared out among a name's addresses, so that one dead one does not use it up.
        tcp.set_connect_timeout(Some(timeouts.connect));
        let connector = Connector {
            inner: HttpsConnector::from((tcp, tls)),
            limit: timeouts.connect,
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(timeouts.idle)
            .pool_max_idle_per_host(MAX_IDLE)
            .build(connector);
        Self { client, timeouts }
    }

    /// Sends a request and waits for the response's head.
    pub(super) async fn exchange(
        &self,
        place: &str,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Failure> {
        dump::request(place, &request);
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

/// The cause of type `T` somewhere in an error.
fn cause<'e, T: std::error::Error + 'static>(
    error: &'e (dyn std::error::Error + 'static),
) -> Option<&'e T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An error inside an `io::Error` is not its source but its content.
        if let Some(inner) = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            && let Some(found) = cause(inner)
        {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn explain(place: &str, error: &hyper_util::client::legacy::Error) -> Failure {
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

#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("no connection within {0:?}")]
struct ConnectTimedOut(Duration);

/// Connects within a time limit, TLS included.
#[derive(Clone)]
struct Connector {
    inner: HttpsConnector<HttpConnector<Resolver>>,
    limit: Duration,
}

impl Service<Uri> for Connector {
    type Response = Readable<<HttpsConnector<HttpConnector<Resolver>> as Service<Uri>>::Response>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let host = address.authority().map(ToString::to_string);
        let connecting = self.inner.call(address);
        let limit = self.limit;
        Box::pin(async move {
            let began = std::time::Instant::now();
            let connected = tokio::time::timeout(limit, connecting)
                .await
                .unwrap_or_else(|_| Err(ConnectTimedOut(limit).into()));
            dump::connected(host.as_deref(), connected.is_ok(), began.elapsed());
            connected.map(Readable::new)
        })
    }
}
