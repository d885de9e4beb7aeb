//! The answers of one HTTP/2 connection: run, and given up where their client takes nothing for too
//! long.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use hyper::rt::Executor;
use parking_lot::Mutex;

use crate::server::http::stream::Stream;

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
                stuck += u64::from(!stream.cut());
            }
            true
        });
        stuck
    }

    /// Keeps the task of an answer that is over, if there is a reason to.
    fn let_go<F: Send + 'static>(&self, stream: &Stream, future: Pin<Box<F>>) {
        let held = Arc::clone(&self.0.lingering);
        if stream.lingers() && Arc::strong_count(&held) <= MAX_LINGERING {
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
        if !is_done || stream.is_waiting() {
            self.keep(&stream);
        }
        if is_done {
            self.let_go(&stream, future);
        } else {
            stream.set_has_task(true);
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
        if this.stream.is_cut(context) {
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
        self.stream.set_has_task(false);
    }
}
