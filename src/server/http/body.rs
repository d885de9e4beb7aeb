//! Bodies: what is sent, and how long either side may stand still.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::registry::{Body, BoxError};
use crate::server::http::file_body::FileBody;
use crate::server::observe::access_log::AccessLogEntry;

/// The body of an answer.
pub(in crate::server) struct ResponseBody {
    content: Content,
    log_entry: Option<AccessLogEntry>,
}

enum Content {
    Bytes(Option<Bytes>),
    File(Box<FileBody>),
    Stream(Stalling<Body>),
}

impl ResponseBody {
    pub fn empty() -> Self {
        Self::of(Content::Bytes(None))
    }

    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::of(Content::Bytes((!bytes.is_empty()).then_some(bytes)))
    }

    /// Ranges of a file.
    pub fn file(file_body: FileBody) -> Self {
        Self::of(Content::File(Box::new(file_body)))
    }

    /// What comes from an upstream, unless it stands still for `stall`.
    pub fn stream(body: Body, stall: Duration) -> Self {
        Self::of(Content::Stream(Stalling::new(body, stall)))
    }

    fn of(content: Content) -> Self {
        Self {
            content,
            log_entry: None,
        }
    }

    /// Tells the access log what is sent; the entry ends with the body.
    pub fn logged(mut self, log_entry: AccessLogEntry) -> Self {
        self.log_entry = Some(log_entry);
        self
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = match &mut this.content {
            Content::Bytes(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Content::File(file_body) => {
                let piece = ready!(file_body.poll_next(context));
                piece.map(|piece| piece.map(Frame::data).map_err(BoxError::from))
            }
            Content::Stream(stream) => ready!(Pin::new(stream).poll_frame(context)),
        };
        let is_end = match &this.content {
            Content::Bytes(_) => true,
            Content::File(file_body) => file_body.left() == 0,
            Content::Stream(stream) => stream.is_end_stream(),
        };
        if let Some(log_entry) = &mut this.log_entry {
            match &frame {
                Some(Ok(frame)) => {
                    log_entry.sent(frame.data_ref().map_or(0, Bytes::len));
                    if is_end {
                        log_entry.complete();
                    }
                }
                Some(Err(error)) => log_entry.broke(error),
                None => log_entry.complete(),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Bytes(bytes) => bytes.is_none(),
            Content::File(file_body) => file_body.left() == 0,
            Content::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Bytes(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Content::File(file_body) => SizeHint::with_exact(file_body.left()),
            Content::Stream(stream) => stream.size_hint(),
        }
    }
}

/// A body stood still for too long.
#[derive(Debug, thiserror::Error)]
#[error("nothing came for {0:?}")]
pub(in crate::server) struct Stalled(Duration);

/// A body that fails when nothing comes for too long. Only waiting counts: a reader that
/// takes its time stops no body.
pub(in crate::server) struct Stalling<B> {
    body: B,
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    is_armed: bool,
    has_stalled: Arc<AtomicBool>,
}

impl<B> Stalling<B> {
    pub fn new(body: B, limit: Duration) -> Self {
        Self {
            body,
            limit,
            timer: None,
            is_armed: false,
            has_stalled: Arc::default(),
        }
    }

    /// Tells, later and elsewhere, whether the body stood still.
    pub fn has_stalled(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.has_stalled)
    }

    fn poll_stalled(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_armed {
            let deadline = Instant::now() + self.limit;
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

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::registry::body;

    #[tokio::test(start_paused = true)]
    async fn the_stall_timeout_runs_only_while_the_body_is_polled() {
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
