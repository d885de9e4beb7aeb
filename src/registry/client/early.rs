//! Connections whose response is read although the request can no longer be written.
//!
//! A server may answer a request before its body has come, and close the connection: the writing
//! fails then, while the response can be read, which has the cause.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};

/// A connection. Once writing fails because the other side has closed it, nothing more is
/// written, and the reading decides how it ends.
pub(super) struct Readable<T> {
    stream: T,
    /// Why nothing is written any more.
    cut: Option<io::Error>,
    /// Whether anything was read since.
    has_read: bool,
    /// Whether there is nothing more to read either.
    is_over: bool,
}

impl<T> Readable<T> {
    pub(super) fn new(stream: T) -> Self {
        Self {
            stream,
            cut: None,
            has_read: false,
            is_over: false,
        }
    }

    /// What a write gets after `cut`: it waits for the reading to end, and fails then.
    fn stopped(&self, cut: &io::Error) -> Poll<io::Error> {
        if self.is_over {
            Poll::Ready(io::Error::new(cut.kind(), cut.to_string()))
        } else {
            Poll::Pending
        }
    }

    /// The result of a write, or nothing if the other side has closed the connection.
    fn write_result<R>(
        &mut self,
        context: &Context<'_>,
        result: Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        match result {
            Poll::Ready(Err(error)) if is_closed(&error) => {
                self.cut = Some(error);
                // Reading continues until the response or the end of the connection.
                context.waker().wake_by_ref();
                Poll::Pending
            }
            result => result,
        }
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
    )
}

impl<T: Read + Unpin> Read for Readable<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.cut.is_none() {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let mut bytes = [0; 8192];
        let wanted = buffer.remaining().min(bytes.len());
        let mut read = hyper::rt::ReadBuf::new(bytes.get_mut(..wanted).unwrap_or_default());
        let polled = ready!(Pin::new(&mut this.stream).poll_read(context, read.unfilled()));
        if polled.is_ok() && !read.filled().is_empty() {
            this.has_read = true;
            buffer.put_slice(read.filled());
            return Poll::Ready(Ok(()));
        }
        this.is_over = true;
        context.waker().wake_by_ref();
        match &this.cut {
            // The error of the write is the cause.
            Some(cut) if !this.has_read => {
                Poll::Ready(Err(io::Error::new(cut.kind(), cut.to_string())))
            }
            _ => Poll::Ready(polled),
        }
    }
}

impl<T: Write + Unpin> Write for Readable<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(cut) = &this.cut {
            return this.stopped(cut).map(Err);
        }
        let result = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.write_result(context, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(cut) = &this.cut {
            return this.stopped(cut).map(Err);
        }
        let result = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.write_result(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(cut) = &this.cut {
            return this.stopped(cut).map(Err);
        }
        let result = Pin::new(&mut this.stream).poll_flush(context);
        this.write_result(context, result)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.cut.is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

impl<T: Connection> Connection for Readable<T> {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}
