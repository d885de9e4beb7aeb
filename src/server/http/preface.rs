//! Whether a client that begins to speak without TLS speaks HTTP/2: it says so with its first
//! bytes ("prior knowledge", RFC 9113 § 3.3), which no request of HTTP/1 begins with.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::server::config::Limits;
use crate::server::http::accept::{Connection, Handler};
use crate::server::http::frames::PREFACE;

/// What a client begins with.
struct FirstBytes {
    bytes: [u8; PREFACE.len()],
    length: usize,
}

impl FirstBytes {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn is_http2(&self) -> bool {
        self.bytes() == PREFACE
    }

    /// Reads until it is known what it is.
    async fn read(stream: &mut TcpStream, limits: &Limits) -> io::Result<Self> {
        let mut first = Self {
            bytes: [0; PREFACE.len()],
            length: 0,
        };
        let mut limit = limits.idle;
        while first.length < PREFACE.len() && PREFACE.starts_with(first.bytes()) {
            let rest = first.bytes.get_mut(first.length..).unwrap_or_default();
            let read = within(limit, stream.read(rest)).await?;
            if read == 0 {
                break;
            }
            first.length += read;
            limit = limits.head_timeout;
        }
        Ok(first)
    }
}

async fn within<T>(limit: Duration, reading: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(limit, reading).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

impl<H: Handler> Connection<H> {
    /// Answers a client that does not speak TLS; with `h2c`, also one that speaks HTTP/2.
    pub(super) async fn serve_clear(mut self, mut stream: TcpStream, h2c: bool) {
        if !h2c {
            return self.serve_http1(stream).await;
        }
        let first = tokio::select! {
            first = FirstBytes::read(&mut stream, &self.limits) => first,
            _ = self.closing.wait_for(|closing| *closing) => return,
        };
        match first {
            Ok(first) => {
                let is_http2 = first.is_http2();
                let stream = Rewound {
                    first,
                    stream,
                    read: 0,
                };
                if is_http2 {
                    self.serve_http2(stream).await;
                } else {
                    self.serve_http1(stream).await;
                }
            }
            Err(error) => tracing::debug!(client = %self.client, %error, "the connection ended"),
        }
    }
}

/// A connection of which the first bytes were read.
struct Rewound {
    first: FirstBytes,
    stream: TcpStream,
    /// Bytes of `first` that were read again.
    read: usize,
}

impl AsyncRead for Rewound {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let left = this.first.bytes().get(this.read..).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let length = left.len().min(buffer.remaining());
        buffer.put_slice(left.get(..length).unwrap_or_default());
        this.read += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
