//! What is sent as an answer.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::registry::stall::Stalling;
use crate::registry::{Body, BoxError};
use crate::server::http::file_body::FileBody;
use crate::server::observe::access_log::AccessLogEntry;
use crate::server::observe::outcome::Outcome;

/// The body of an answer.
pub(in crate::server) struct ResponseBody {
    content: Content,
    /// What the answer is, for the log, where its head does not say it.
    pub outcome: Option<Outcome>,
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
        Self::of(Content::File(Box::new(file_body))).noted(Outcome::Hit)
    }

    /// What comes from an upstream, unless it stands still for `stall`.
    pub fn stream(body: Body, stall: Duration) -> Self {
        Self::of(Content::Stream(Stalling::new(body, stall)))
    }

    fn of(content: Content) -> Self {
        Self {
            content,
            outcome: None,
            log_entry: None,
        }
    }

    /// Says what the answer is.
    pub fn noted(mut self, outcome: Outcome) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// Tells the access log what is sent; the entry ends with the body.
    pub fn logged(mut self, log_entry: AccessLogEntry) -> Self {
        self.log_entry = Some(log_entry);
        self
    }

    /// The entry of the access log, for whoever sends the rest.
    pub fn into_log_entry(self) -> Option<AccessLogEntry> {
        self.log_entry
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
