//! Connections that speak HTTP/1.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Request;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::registry::error::chain;
use crate::server::http::accept::{Connection, Handler};
use crate::server::http::activity::{Activity, Overdue, TrackedStream};
use crate::server::http::lingering_close;

impl<H: Handler> Connection<H> {
    /// Answers the requests of a connection, one after the other.
    pub(super) async fn serve_http1<S>(mut self, stream: S)
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
        let mut is_shutting_down = false;
        let end = loop {
            tokio::select! {
                result = &mut connection => break End::Came(result),
                overdue = activity.overdue(&self.limits) => break End::Overdue(overdue),
                _ = self.closing.wait_for(|closing| *closing), if !is_shutting_down => {
                    std::pin::Pin::new(&mut connection).graceful_shutdown();
                    is_shutting_down = true;
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
