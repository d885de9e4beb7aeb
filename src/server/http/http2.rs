//! Connections that speak HTTP/2 (RFC 9113): many requests at a time, within bounds.
//!
//! | a client may | bound |
//! |---|---|
//! | have requests open at a time | [`MAX_STREAMS`], and its share of `--max-requests` |
//! | send a long head, in however many frames | `--max-head-size`; 431, or the connection ends |
//! | have its heads remembered (HPACK) | [`HEADER_TABLE`] |
//! | begin a head, or any frame, and not end it | `--head-timeout` |
//! | take requests back before or after they are begun | [`MAX_UNSEEN_RESETS`]; `frames` |
//! | send malformed requests | [`MAX_REFUSED`] |
//! | send `PING`, `SETTINGS`, `WINDOW_UPDATE`, … | `frames`; each is answered before the next is read |
//! | send content that is not read yet | [`STREAM_WINDOW`], [`CONNECTION_WINDOW`]; how many pieces, by the library |
//! | send content in pieces of nothing | `frames` |
//! | not take an answer, or one of many | `--stall-timeout`; [`SEND_BUFFER`] and `--max-requests` |
//! | do nothing, or only send PINGs | `--idle-timeout` |
//! | have no request open, and not answer the PING of a shutdown | [`GOAWAY_LIMIT`] |
//!
//! Proxies that connect for many clients (`--trusted-proxy`) are not bounded by what one client may:
//! neither by `--client-requests` nor in what they take back.
//!
//! Clients are sent no PINGs: a slow one has them behind all that is on its way to it, and would
//! seem dead.

use std::convert::Infallible;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::Request;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{MissedTickBehavior, interval};

use crate::registry::error::chain;
use crate::server::config::Limits;
use crate::server::http::accept::{Connection, Handler};
use crate::server::http::activity::{Activity, Overdue};
use crate::server::http::corked::cork;
use crate::server::http::frames::FramedStream;
use crate::server::http::stream;
use crate::server::http::streams::Streams;

/// Requests that a connection may have open at a time, if its address may have as many: as many as
/// other servers allow (nginx: 128), which no registry client reaches.
const MAX_STREAMS: u32 = 128;
/// Bytes of heads that a client may have remembered, to send them shorter: the protocol's own
/// default (RFC 7541 § 4.2, RFC 9113 § 6.5.2).
const HEADER_TABLE: u32 = 4096;
/// Requests that may be taken back before they were looked at (CVE-2023-44487).
const MAX_UNSEEN_RESETS: usize = 20;
/// Requests that break the protocol, each of which is answered by a reset.
const MAX_REFUSED: usize = 64;
/// Bytes of one request's content that may come before they are read.
const STREAM_WINDOW: u32 = 512 << 10;
/// The same of all of a connection's requests together.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// An answer's next piece is taken when less than so many bytes of it wait to be sent; a piece is
/// at most 64 KiB, or 256 KiB where it comes from the disk, and then one more is read ahead.
const SEND_BUFFER: usize = 64 << 10;
/// How long a connection without open requests is kept after GOAWAY when the server stops: its
/// client may have sent one before it read that, and answers a PING (RFC 9113 § 6.8).
const GOAWAY_LIMIT: Duration = Duration::from_secs(2);
/// How often answers are looked at that are not taken, in each time that one may stand still.
const LOOKS: u32 = 4;

enum End {
    Came(hyper::Result<()>),
    Overdue(Overdue),
    Broken(io::Error),
    Stopped,
}

impl<H: Handler> Connection<H> {
    /// Answers the requests of a connection, many at a time.
    pub(super) async fn serve_http2<S>(mut self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Activity::new();
        let (corked, uncork) = cork(FramedStream::new(
            stream,
            Arc::clone(&activity),
            self.is_shared,
        ));
        let streams = Streams::default();
        let service = service_fn(|request: Request<Incoming>| {
            let begun = streams.begin();
            let has_content = !request.body().is_end_stream();
            let answer = self.handler.answer(self.client, &activity, request);
            async move {
                let answer = answer.await;
                let status = answer.status();
                if has_content && (status.is_client_error() || status.is_server_error()) {
                    begun.linger();
                }
                Ok::<_, Infallible>(answer.map(|body| stream::body(body, begun)))
            }
        });
        let builder = builder(&self.limits, self.is_shared, streams.clone());
        let mut connection = pin!(builder.serve_connection(TokioIo::new(corked), service));
        let mut looks = interval(look_interval(&self.limits));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut is_closing, mut is_shutting_down) = (false, false);
        let end = loop {
            let driven = poll_fn(|context| {
                if let Poll::Ready(result) = connection.as_mut().poll(context) {
                    return Poll::Ready(End::Came(result));
                }
                match uncork.poll_send(context, activity.is_idle()) {
                    Poll::Ready(Err(error)) => Poll::Ready(End::Broken(error)),
                    _ => Poll::Pending,
                }
            });
            tokio::select! {
                end = driven => break end,
                overdue = activity.overdue(&self.limits) => {
                    // A request may be on its way: the client is told which were taken.
                    if overdue != Overdue::Idle || is_shutting_down {
                        break End::Overdue(overdue);
                    }
                    begin_graceful_shutdown(connection.as_mut(), &mut is_shutting_down);
                    activity.rest();
                }
                _ = self.closing.wait_for(|closing| *closing), if !is_closing => {
                    if !uncork.look(FramedStream::has_begun) {
                        break End::Stopped;
                    }
                    is_closing = true;
                    begin_graceful_shutdown(connection.as_mut(), &mut is_shutting_down);
                    activity.rest();
                }
                () = activity.idle_for(GOAWAY_LIMIT), if is_closing => {
                    if uncork.is_empty() {
                        break End::Stopped;
                    }
                    activity.rest();
                }
                _ = looks.tick() => {
                    let stuck = streams.cut_stalled(self.limits.stall);
                    if stuck > 0 {
                        // It ends with them, and the others come to their end before.
                        if activity.requests() <= stuck {
                            break End::Overdue(Overdue::Write);
                        }
                        begin_graceful_shutdown(connection.as_mut(), &mut is_shutting_down);
                    }
                }
            }
        };
        match end {
            End::Came(Ok(())) | End::Stopped => {}
            End::Came(Err(error)) => {
                tracing::debug!(client = %self.client, error = %chain(&error), "the connection ended");
            }
            End::Broken(error) => {
                tracing::debug!(client = %self.client, %error, "the connection ended");
            }
            End::Overdue(overdue) => {
                tracing::debug!(client = %self.client, ?overdue, "hung up");
            }
        }
    }
}

/// Takes no more requests, and lets those that were taken come to their end.
fn begin_graceful_shutdown<I, S, B>(
    connection: Pin<&mut http2::Connection<I, S, Streams>>,
    is_shutting_down: &mut bool,
) where
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: hyper::body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    Streams: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    if !std::mem::replace(is_shutting_down, true) {
        connection.graceful_shutdown();
    }
}

fn builder(limits: &Limits, is_shared: bool, streams: Streams) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .max_concurrent_streams(max_streams(limits, is_shared))
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .header_table_size(HEADER_TABLE)
        .max_pending_accept_reset_streams(MAX_UNSEEN_RESETS)
        .max_local_error_reset_streams(MAX_REFUSED)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER);
    builder
}

/// No more than are answered in any case: the rest would be refused one by one.
fn max_streams(limits: &Limits, is_shared: bool) -> u32 {
    let share = limits.requests.saturating_mul(limits.address_share.into()) / 100;
    let most = limits.client_requests.filter(|_| !is_shared);
    u32::try_from(most.map_or(share, |most| most.min(share)))
        .unwrap_or(u32::MAX)
        .clamp(1, MAX_STREAMS)
}

fn look_interval(limits: &Limits) -> Duration {
    (limits.stall / LOOKS).max(Duration::from_millis(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_has_no_more_streams_than_its_address_has_requests() {
        let limits = |requests, address_share, client_requests| Limits {
            requests,
            address_share,
            client_requests,
            ..Limits::default()
        };
        let streams = |requests, share| max_streams(&limits(requests, share, None), false);
        assert_eq!(streams(4096, 75), MAX_STREAMS);
        assert_eq!(streams(100, 50), 50);
        assert_eq!(streams(1, 1), 1);
        let limits = limits(100, 50, Some(7));
        assert_eq!(max_streams(&limits, false), 7);
        assert_eq!(max_streams(&limits, true), 50);
    }
}
