//! Connections: accepted within bounds, answered, drained.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::server::config::Limits;
use crate::server::http::activity::Activity;
use crate::server::http::admission::Admission;
use crate::server::http::body::ResponseBody;
use crate::server::http::tls::{self, Tls};

/// Answers requests.
pub(in crate::server) trait Handler: Clone + Send + Sync + 'static {
    /// Answers one request; has no other way to fail.
    fn answer(
        &self,
        client: SocketAddr,
        activity: &Arc<Activity>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<ResponseBody>> + Send + 'static;
}

/// Listeners that share limits, and the handler of each.
pub(in crate::server) struct HttpListener<H> {
    pub listeners: Vec<(TcpListener, H)>,
    pub tls: Option<Arc<Tls>>,
    /// Whether clients may begin with HTTP/2 where there is no TLS.
    pub h2c: bool,
    pub limits: Limits,
    pub connections: Gauge,
    pub admission: Admission,
}

/// The connections that are open when no more are accepted.
pub(in crate::server) struct OpenConnections {
    tasks: JoinSet<()>,
    closing: watch::Sender<bool>,
    limit: Duration,
}

impl<H: Handler> HttpListener<H> {
    /// Accepts connections until `shutdown` comes.
    pub async fn accept_until(self, shutdown: impl Future<Output = ()>) -> OpenConnections {
        let permits = Arc::new(Semaphore::new(self.limits.connections.max(1)));
        let (closing, is_closing) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        let mut first = 0;
        loop {
            // The permit comes first: what is not accepted waits in the kernel, and costs nothing.
            let accepted = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (permit, self.accept(first).await)
            };
            let (permit, accepted) = tokio::select! {
                biased;
                () = &mut shutdown => break,
                accepted = accepted => accepted,
            };
            while tasks.try_join_next().is_some() {}
            let (place, (stream, client)) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: a loop would only make it worse.
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            // The others' turn is before this one's.
            first = place + 1;
            let Some((_, handler)) = self.listeners.get(place) else {
                continue;
            };
            let Some(place) = self.admission.place(client) else {
                continue;
            };
            let mut connection = Connection {
                client,
                is_shared: false,
                limits: self.limits.clone(),
                handler: handler.clone(),
                closing: is_closing.clone(),
            };
            let (tls, h2c, admission) = (self.tls.clone(), self.h2c, self.admission.clone());
            let (open, mut stream) = (Open::new(&self.connections), stream);
            tasks.spawn(async move {
                let _held = (permit, open);
                let entered = tokio::select! {
                    entered = admission.enter(&mut stream, client, place) => entered,
                    _ = connection.closing.wait_for(|closing| *closing) => return,
                };
                let Some((client, _slot)) = entered else {
                    return;
                };
                connection.client = client;
                connection.is_shared = admission.is_shared(client);
                connection.handshake(stream, tls, h2c).await;
            });
        }
        OpenConnections {
            tasks,
            closing,
            limit: self.limits.drain,
        }
    }

    /// The next connection, and at which listener; those from `first` on are looked at first.
    async fn accept(&self, first: usize) -> std::io::Result<(usize, (TcpStream, SocketAddr))> {
        poll_fn(|context| {
            let listeners = self.listeners.iter().enumerate();
            let count = listeners.len();
            for (place, (listener, _)) in listeners.cycle().skip(first % count.max(1)).take(count) {
                if let Poll::Ready(accepted) = listener.poll_accept(context) {
                    return Poll::Ready(accepted.map(|accepted| (place, accepted)));
                }
            }
            Poll::Pending
        })
        .await
    }
}

impl OpenConnections {
    /// Lets open requests come to their end; whether all did in time.
    pub async fn close(mut self) -> bool {
        let _ = self.closing.send(true);
        let tasks = &mut self.tasks;
        let all = async { while tasks.join_next().await.is_some() {} };
        if timeout(self.limit, all).await.is_ok() {
            return true;
        }
        tracing::warn!(
            connections = self.tasks.len(),
            "connections are cut: their requests did not end in time"
        );
        self.tasks.shutdown().await;
        false
    }
}

/// Counts a connection for as long as it lives.
struct Open(Gauge);

impl Open {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

pub(super) struct Connection<H> {
    pub client: SocketAddr,
    /// Whether it is a proxy, which sends the requests of many clients.
    pub is_shared: bool,
    pub limits: Limits,
    pub handler: H,
    pub closing: watch::Receiver<bool>,
}

impl<H: Handler> Connection<H> {
    async fn handshake(mut self, stream: TcpStream, tls: Option<Arc<Tls>>, h2c: bool) {
        // Ranges are small, and each is a whole answer.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else {
            return self.serve_clear(stream, h2c).await;
        };
        let handshake = timeout(self.limits.head_timeout, tls.acceptor().accept(stream));
        let stream = tokio::select! {
            stream = handshake => stream,
            _ = self.closing.wait_for(|closing| *closing) => return,
        };
        match stream {
            Ok(Ok(stream)) => match stream.get_ref().1.alpn_protocol() {
                Some(tls::H2) => self.serve_http2(stream).await,
                _ => self.serve_http1(stream).await,
            },
            Ok(Err(error)) => {
                tracing::debug!(client = %self.client, %error, "the TLS handshake failed");
            }
            Err(_) => {
                tracing::debug!(client = %self.client, "the TLS handshake took too long");
            }
        }
    }
}
