//! One answer on an HTTP/2 connection, whose client takes it or does not.
//!
//! The HTTP/2 library takes pieces of an answer before it can send them, and an answer that it has
//! taken whole is over for it, although nothing may have been sent: the client's window may be
//! closed. So each piece says when it has gone. Until then, the request keeps its place among the
//! others.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use hyper::body::{Body, Frame, SizeHint};
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
    pub fn new() -> Arc<Self> {
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

    /// Whether the client may still be sending.
    pub fn lingers(&self) -> bool {
        self.lingers.load(Ordering::Relaxed)
    }

    fn moved(&self) {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
    }

    /// Whether pieces of it wait to be sent.
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Whether the client has taken nothing of what waits for so long.
    pub fn has_stalled(&self, stall: Duration) -> bool {
        let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
        self.is_waiting() && self.epoch.elapsed().saturating_sub(moved) >= stall
    }

    /// Gives it up; whether its task is there to do so.
    pub fn cut(&self) -> bool {
        self.is_cut.store(true, Ordering::Relaxed);
        self.task.wake();
        self.has_task.load(Ordering::Relaxed)
    }

    /// Whether it is given up. If it is later, the task is woken.
    pub fn is_cut(&self, context: &Context<'_>) -> bool {
        self.task.register(context.waker());
        self.is_cut.load(Ordering::Relaxed)
    }

    /// Says whether its task is there.
    pub fn set_has_task(&self, is_there: bool) {
        self.has_task.store(is_there, Ordering::Relaxed);
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

/// The body of an answer on its stream.
pub(in crate::server) fn body(body: ResponseBody, stream: Arc<Stream>) -> StreamBody {
    StreamBody {
        body: Some(body),
        stream,
    }
}
