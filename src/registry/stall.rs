//! How long a body may stand still.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::BoxError;

/// A body stood still for too long.
#[derive(Debug, thiserror::Error)]
#[error("nothing came for {0:?}")]
pub(crate) struct Stalled(pub(crate) Duration);

/// A body that fails, with [`Stalled`], when nothing comes for too long. Only waiting counts: a
/// reader that takes its time stops no body.
pub(crate) struct Stalling<B> {
    body: B,
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    is_armed: bool,
    has_stalled: Arc<AtomicBool>,
}

impl<B> Stalling<B> {
    pub(crate) fn new(body: B, limit: Duration) -> Self {
        Self {
            body,
            limit,
            timer: None,
            is_armed: false,
            has_stalled: Arc::default(),
        }
    }

    /// Tells, later and elsewhere, whether the body stood still.
    pub(crate) fn has_stalled(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.has_stalled)
    }

    fn poll_stalled(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_armed {
            let deadline = later(Instant::now(), self.limit);
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(deadline),
                None => self.timer = Some(Box::pin(tokio::time::sleep_until(deadline))),
            }
            self.is_armed = true;
        }
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

impl<B> HttpBody for Stalling<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(frame) => {
                this.is_armed = false;
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => {
                ready!(this.poll_stalled(context));
                this.has_stalled.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(Stalled(this.limit).into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The instant after a limit; if that is beyond the clock's range, far in the future.
pub(super) fn later(since: Instant, limit: Duration) -> Instant {
    let never = Duration::from_hours(30 * 365 * 24);
    since.checked_add(limit).unwrap_or(since + never)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::registry::body;

    #[tokio::test(start_paused = true)]
    async fn only_a_body_that_is_waited_for_stalls() {
        let pauses = [5, 9, 11].map(Duration::from_secs);
        let stream = futures_util::stream::unfold(0, move |place| async move {
            let pause = *pauses.get(place)?;
            tokio::time::sleep(pause).await;
            Some((Ok::<_, BoxError>(Bytes::from_static(b"x")), place + 1))
        });
        let mut body = Stalling::new(body::stream(stream), Duration::from_secs(10));
        let has_stalled = body.has_stalled();
        assert!(body.frame().await.unwrap().is_ok());
        // The reader's own pause is nobody's fault.
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(body.frame().await.unwrap().is_ok());
        assert!(!has_stalled.load(Ordering::Relaxed));
        assert!(body.frame().await.unwrap().is_err());
        assert!(has_stalled.load(Ordering::Relaxed));
    }
}
