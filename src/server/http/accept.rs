//! Connections: accepted within bounds, answered, drained.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::server::config::Limits;
use crate::server::http::activity::{Activity, Overdue, TrackedStream};
use crate::server::http::body::ResponseBody;
use crate::server::http::lingering_close;
use crate::server::http::tls::Tls;
use crate::server::limits::slots::{Slots, client_of};

/// How often it is logged that connections are closed.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

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
    pub limits: Limits,
    pub connections: Gauge,
    /// Of which one client address has a share.
    pub slots: Slots,
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
        let mut logged: Option<Instant> = None;
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
            let Ok(slot) = self.slots.take(client_of(client.ip())) else {
                // One line in a while: they may come in thousands.
                if logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
                    logged = Some(Instant::now());
                    tracing::warn!(
                        client = %client.ip(),
                        "a connection is closed: its address has its share of them \
                         (--address-share, --max-connections)"
                    );
                }
                continue;
            };
            let connection = Connection {
                client,
                limits: self.limits.clone(),
                handler: handler.clone(),
                closing: is_closing.clone(),
            };
            let tls = self.tls.clone();
            let open = Open::new(&self.connections);
            tasks.spawn(async move {
                let _held = (permit, slot, open);
                connection.handshake(stream, tls).await;
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

struct Connection<H> {
    client: SocketAddr,
    limits: Limits,
    handler: H,
    closing: watch::Receiver<bool>,
}

impl<H: Handler> Connection<H> {
    async fn handshake(mut self, stream: TcpStream, tls: Option<Arc<Tls>>) {
        // Ranges are small, and each is a whole answer.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else {
            return self.serve(stream).await;
        };
        let handshake = timeout(self.limits.head_timeout, tls.acceptor().accept(stream));
        let stream = tokio::select! {
            stream = handshake => stream,
            _ = self.closing.wait_for(|closing| *closing) => return,
        };
        match stream {
            Ok(Ok(stream)) => self.serve(stream).await,
            Ok(Err(error)) => {
                tracing::debug!(client = %self.client, %error, "the TLS handshake failed");
            }
            Err(_) => {
                tracing::debug!(client = %self.client, "the TLS handshake took too long");
            }
        }
    }

    async fn serve<S>(mut self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Activity::new();
        let stream = TokioIo::new(TrackedStream::new(stream, Arc::clone(&activity)));
        // Of the last request: it may not have been read to its end.
        let has_body = AtomicBool::new(false);
        let service = service_fn(|request: Request<Incoming>| {
            has_body.store(!request.body().is_end_stream(), Ordering::Relaxed);
            let answer = self.handler.answer(self.client, &activity, request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        // hyper's own time limit for heads covers idle connections too: ours tells them apart.
        let mut connection = http1::Builder::new()
            .header_read_timeout(None)
            .max_buf_size(self.limits.head_bytes.max(8192))
            .serve_connection(stream, service);
        let mut is_told = false;
        let end = loop {
            tokio::select! {
                result = &mut connection => break End::Came(result),
                overdue = activity.overdue(&self.limits) => break End::Overdue(overdue),
                _ = self.closing.wait_for(|closing| *closing), if !is_told => {
                    std::pin::Pin::new(&mut connection).graceful_shutdown();
                    is_told = true;
                }
            }
        };
        let stream = connection.into_parts().io.into_inner().into_inner();
        match end {
            End::Came(Ok(())) => {
                if has_body.load(Ordering::Relaxed) {
                    lingering_close::close(stream, b"", self.closing).await;
                }
            }
            End::Came(Err(error)) => {
                tracing::debug!(client = %self.client, error = %chain(&error), "the connection ended");
                if error.is_parse() {
                    lingering_close::close(stream, b"", self.closing).await;
                }
            }
            End::Overdue(overdue) => {
                tracing::debug!(client = %self.client, ?overdue, "hung up");
                if overdue == Overdue::Head {
                    lingering_close::close(stream, REQUEST_TIMEOUT, self.closing).await;
                }
            }
        }
    }
}

enum End {
    Came(hyper::Result<()>),
    Overdue(Overdue),
}

const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    crate::registry::error::chain(error)
}
