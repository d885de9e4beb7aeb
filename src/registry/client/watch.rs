//! Tracks the progress of requests, and limits how long they stall.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::registry::stall::later;
use crate::registry::{Body, BoxError, Timeouts};

/// The progress of sending a request.
#[derive(Debug)]
pub(super) struct Progress {
    state: Mutex<State>,
    /// Notified of each change of the state, which may bring the deadline nearer.
    step: Notify,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// There is no connection yet.
    Waiting(Instant),
    /// The body is being sent; its last progress was then.
    Sending(Instant),
    /// All is sent since then.
    Sent(Instant),
}

impl Progress {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::Waiting(Instant::now())),
            step: Notify::new(),
        })
    }

    fn state(&self) -> parking_lot::MutexGuard<'_, State> {
        self.state.lock()
    }

    fn set(&self, state: State) {
        let before = std::mem::replace(&mut *self.state(), state);
        if std::mem::discriminant(&before) != std::mem::discriminant(&state) {
            self.step.notify_one();
        }
    }

    /// Waits until the state changes.
    pub(super) async fn stepped(&self) {
        self.step.notified().await;
    }

    /// The deadline, what must happen until then, and its time limit.
    pub(super) fn deadline(&self, timeouts: &Timeouts) -> (Instant, &'static str, Duration) {
        let state = *self.state();
        let (since, what, after) = match state {
            // The connecting has its own limit; this one is for what goes wrong beside it.
            State::Waiting(since) => {
                let after = timeouts.connect.saturating_add(timeouts.response);
                (since, "connection", after)
            }
            State::Sending(since) => (since, "progress of the request's body", timeouts.stall),
            State::Sent(since) => (since, "response", timeouts.response),
        };
        (later(since, after), what, after)
    }
}

/// A request's body that records its progress.
pub(super) struct Watched {
    inner: Body,
    progress: Arc<Progress>,
}

impl Watched {
    pub(super) fn new(inner: Body, progress: Arc<Progress>) -> Self {
        Self { inner, progress }
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        let state = *self.progress.state();
        if polled.is_ready() || !matches!(state, State::Sending(_)) {
            self.progress.set(State::Sending(Instant::now()));
        }
        // Trailers do not pass: nobody has checked them, as headers are.
        polled.map(|frame| match frame {
            Some(Ok(frame)) if frame.is_trailers() => None,
            frame => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Watched {
    // The connection lets go of a body when it has been sent, which may be without
    // asking for its end where its length is known.
    fn drop(&mut self) {
        self.progress.set(State::Sent(Instant::now()));
    }
}
