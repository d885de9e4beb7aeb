//! Answers on an HTTP/2 connection: each its own stream, whose client takes it or does not.
//!
//! The HTTP/2 library takes pieces of an answer before it can send them, and an answer that it has
//! taken whole is over for it, although nothing may have been sent: the client's window may be
//! closed. So each piece says when it has gone. Until then, the request keeps its place among the
//! others, and who takes nothing for too long is given up.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use hyper::body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use parking_lot::Mutex;

use crate::registry::BoxError;
use crate::server::http::body::ResponseBody;
use crate::server::observe::access_log::AccessLogEntry;

/// One answer.
pub(in crate::server) struct Stream {
    epoch: Instant,
    /// When bytes of it went out last, or began to wait: milliseconds since `epoch`.
    moved: AtomicU64,
    /// Pieces that wait to be sent.
    waiting: AtomicUsize,
    is_cut: AtomicBool,
    /// Whether the client may still be sending when the answer is over.
    lingers: AtomicBool,
    /// Whether its task is there.
    has_task: AtomicBool,
    task: AtomicWaker,
    /// Bytes that were taken of it and never sent.
    lost: AtomicU64,
    /// Kept until all is sent.
    entry: Mutex<Option<AccessLogEntry>>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let lost = *self.lost.get_mut();
        if let Some(entry) = self.entry.get_mut().as_mut().filter(|_| lost > 0) {
            entry.lost(lost);
        }
    }
}

impl Stream {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            epoch: Instant::now(),
            moved: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            is_cut: AtomicBool::new(false),
            lingers: AtomicBool::new(false),
            has_task: AtomicBool::new(false),
            task: AtomicWaker::new(),
            lost: AtomicU64::new(0),
            entry: Mutex::new(None),
        })
    }

    /// The answer is there, and the client may not have sent all of its request.
    pub fn linger(&self) {
        self.lingers.store(true, Ordering::Relaxed);
    }

    fn moved(&self) {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
    }

    /// Whether the client has taken nothing of what waits for so long.
    fn has_stalled(&self, stall: Duration) -> bool {
        let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
        self.waiting.load(Ordering::Relaxed) > 0
            && self.epoch.elapsed().saturating_sub(moved) >= stall
    }
}

/// What is sent of an answer, which says when it has gone.
pub(in crate::server) struct Piece {
    bytes: Bytes,
    stream: Arc<Stream>,
}

impl Piece {
    fn new(bytes: Bytes, stream: &Arc<Stream>) -> Self {
        if stream.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            stream.moved();
        }
        Self {
            bytes,
            stream: Arc::clone(stream),
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let lost = u64::try_from(self.bytes.len()).unwrap_or(u64::MAX);
        self.stream.lost.fetch_add(lost, Ordering::Relaxed);
        self.stream.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.stream.moved();
    }
}

/// The body of an answer on a stream.
pub(in crate::server) struct StreamBody {
    body: Option<ResponseBody>,
    stream: Arc<Stream>,
}

impl Body for StreamBody {
    type Data = Piece;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, BoxError>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(context));
        Poll::Ready(match frame {
            None => None,
            Some(Err(error)) => Some(Err(error)),
            // Trailers do not pass: nobody has checked them, as headers are.
            Some(Ok(frame)) => frame
                .into_data()
                .ok()
                .map(|bytes| Ok(Frame::data(Piece::new(bytes, &this.stream)))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        let entry = self.body.take().and_then(ResponseBody::into_log_entry);
        *self.stream.entry.lock() = entry;
    }
}

/// The answers of one connection. Cheap to clone.
#[derive(Clone, Default)]
pub(in crate::server) struct Streams(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Of the request that was taken last, until its task begins.
    next: Mutex<Option<Arc<Stream>>>,
    open: Mutex<Vec<Weak<Stream>>>,
    /// One handle for each stream that is over, and not let go of yet.
    lingering: Arc<()>,
}

/// How long a stream is kept whose answer is over while the client still sends. To let go of it is to
/// reset it (RFC 9113 § 8.1), and some clients (curl 7.88) then drop the answer that has come.
const LINGER: Duration = Duration::from_secs(1);
/// The most of a connection.
const MAX_LINGERING: usize = 128;

/// Ended streams are forgotten when there are so many, or twice those that are open.
const FORGOTTEN_FROM: usize = 64;

impl Streams {
    /// For a request whose task is begun next.
    pub fn begin(&self) -> Arc<Stream> {
        let stream = Stream::new();
        *self.0.next.lock() = Some(Arc::clone(&stream));
        stream
    }

    /// Gives up what its client does not take for `stall`. How many answers that cannot be done for
    /// without giving up the connection: all that is left of them waits in the library.
    pub fn cut_stalled(&self, stall: Duration) -> u64 {
        let mut open = self.0.open.lock();
        let mut stuck = 0;
        open.retain(|stream| {
            let Some(stream) = stream.upgrade() else {
                return false;
            };
            if stream.has_stalled(stall) {
                stuck += u64::from(!stream.has_task.load(Ordering::Relaxed));
                stream.is_cut.store(true, Ordering::Relaxed);
                stream.task.wake();
            }
            true
        });
        stuck
    }

    /// Keeps the task of an answer that is over, if there is a reason to.
    fn let_go<F: Send + 'static>(&self, stream: &Stream, future: Pin<Box<F>>) {
        let held = Arc::clone(&self.0.lingering);
        let is_kept = stream.lingers.load(Ordering::Relaxed);
        if is_kept && Arc::strong_count(&held) <= MAX_LINGERING {
            tokio::spawn(async move {
                tokio::time::sleep(LINGER).await;
                drop((future, held));
            });
        }
    }

    fn keep(&self, stream: &Arc<Stream>) {
        let mut open = self.0.open.lock();
        if open.len() >= FORGOTTEN_FROM && open.len() == open.capacity() {
            open.retain(|stream| stream.strong_count() > 0);
            let (length, wanted) = (open.len(), open.len().saturating_mul(2));
            let wanted = wanted.max(FORGOTTEN_FROM);
            open.shrink_to(wanted);
            open.reserve_exact(wanted.saturating_sub(length));
        }
        open.push(Arc::downgrade(stream));
    }
}

/// The body of an answer on its stream.
pub(in crate::server) fn body(body: ResponseBody, stream: Arc<Stream>) -> StreamBody {
    StreamBody {
        body: Some(body),
        stream,
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let stream = self.0.next.lock().take();
        let mut future = Box::pin(future);
        // Most answers are there at once: a task for each would cost more than they do.
        let polled = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        let is_done = polled.is_ready();
        let Some(stream) = stream else {
            if !is_done {
                tokio::spawn(future);
            }
            return;
        };
        if !is_done || stream.waiting.load(Ordering::Relaxed) > 0 {
            self.keep(&stream);
        }
        if is_done {
            self.let_go(&stream, future);
        } else {
            stream.has_task.store(true, Ordering::Relaxed);
            tokio::spawn(StreamTask {
                future: Some(future),
                stream,
                streams: self.clone(),
            });
        }
    }
}

/// What answers a request, until that is done or given up.
struct StreamTask<F: Send + 'static> {
    future: Option<Pin<Box<F>>>,
    stream: Arc<Stream>,
    streams: Streams,
}

impl<F: Future<Output = ()> + Send> Future for StreamTask<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.stream.task.register(context.waker());
        if this.stream.is_cut.load(Ordering::Relaxed) {
            tracing::debug!("an answer is given up: its client does not take it");
            // The stream is reset with it.
            this.future = None;
        }
        if let Some(future) = &mut this.future {
            ready!(future.as_mut().poll(context));
        }
        if let Some(future) = this.future.take() {
            this.streams.let_go(&this.stream, future);
        }
        Poll::Ready(())
    }
}

impl<F: Send + 'static> Drop for StreamTask<F> {
    fn drop(&mut self) {
        self.stream.has_task.store(false, Ordering::Relaxed);
    }
}
