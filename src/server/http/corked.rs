//! A connection whose small writes become few large ones.
//!
//! The HTTP/2 library writes and flushes each frame by itself. With TLS each would be a record of
//! its own or two, and a call of the system. So what it writes is gathered, and goes out when it
//! has nothing more to say for now.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are gathered at most: four frames of the usual size and what is between them.
const GATHERED: usize = 68 << 10;

struct Inner<T> {
    stream: T,
    gathered: Vec<u8>,
    /// Bytes of `gathered` that have been sent.
    sent: usize,
}

impl<T: AsyncWrite + Unpin> Inner<T> {
    /// Sends what is gathered.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(left) = self
            .gathered
            .get(self.sent..)
            .filter(|left| !left.is_empty())
        {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, left))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        self.gathered.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Makes room, at least for one byte.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.gathered.len() >= GATHERED {
            ready!(self.poll_send(context))?;
        }
        if self.gathered.capacity() == 0 {
            self.gathered.reserve_exact(GATHERED);
        }
        Poll::Ready(Ok(GATHERED.saturating_sub(self.gathered.len())))
    }
}

/// The connection as the library has it.
pub(in crate::server) struct Corked<T>(Arc<Mutex<Inner<T>>>);

/// Sends what was gathered. One task has both, so neither waits for the other.
pub(in crate::server) struct Uncork<T>(Arc<Mutex<Inner<T>>>);

/// Gathers what is written to `stream` until it is sent with the [`Uncork`].
pub(in crate::server) fn cork<T>(stream: T) -> (Corked<T>, Uncork<T>) {
    let inner = Arc::new(Mutex::new(Inner {
        stream,
        gathered: Vec::new(),
        sent: 0,
    }));
    (Corked(Arc::clone(&inner)), Uncork(inner))
}

impl<T: AsyncWrite + Unpin> Uncork<T> {
    /// Sends what is gathered; with `is_idle`, gives its memory back.
    pub fn poll_send(&self, context: &mut Context<'_>, is_idle: bool) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        if !inner.gathered.is_empty() {
            ready!(inner.poll_send(context))?;
            ready!(Pin::new(&mut inner.stream).poll_flush(context))?;
        }
        if is_idle && inner.gathered.capacity() > 0 {
            inner.gathered = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Whether nothing is gathered.
    pub fn is_empty(&self) -> bool {
        self.0.lock().gathered.is_empty()
    }

    /// Looks at the connection.
    pub fn look<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.0.lock().stream)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Corked<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().stream).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Corked<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        let room = ready!(inner.poll_room(context))?;
        let taken = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        inner.gathered.extend_from_slice(taken);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        let mut room = ready!(inner.poll_room(context))?;
        let before = room;
        for slice in slices {
            let taken = slice.get(..room.min(slice.len())).unwrap_or_default();
            inner.gathered.extend_from_slice(taken);
            room -= taken.len();
            if room == 0 {
                break;
            }
        }
        Poll::Ready(Ok(before - room))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Whoever drives the connection sends what is gathered.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        ready!(inner.poll_send(context))?;
        ready!(Pin::new(&mut inner.stream).poll_flush(context))?;
        Pin::new(&mut inner.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_gathered_is_sent_whole_and_in_order() {
        let (client, mut server) = tokio::io::duplex(1000);
        let (mut corked, uncork) = cork(client);
        let wanted: Vec<u8> = (0..GATHERED * 3)
            .map(|n| u8::try_from(n % 251).unwrap())
            .collect();
        let reading = tokio::spawn(async move {
            let mut came = Vec::new();
            server.read_to_end(&mut came).await.unwrap();
            came
        });
        for (n, piece) in wanted.chunks(777).enumerate() {
            corked.write_all(piece).await.unwrap();
            corked.flush().await.unwrap();
            if n % 50 == 0 {
                poll_fn(|context| uncork.poll_send(context, n % 100 == 0))
                    .await
                    .unwrap();
            }
        }
        corked.shutdown().await.unwrap();
        drop((corked, uncork));
        assert!(reading.await.unwrap() == wanted);
    }

    #[tokio::test]
    async fn no_more_is_gathered_than_the_bound() {
        let (client, _server) = tokio::io::duplex(10);
        let (mut corked, _uncork) = cork(client);
        let bytes = vec![0; GATHERED * 2];
        let written = corked.write(&bytes).await.unwrap();
        assert_eq!(written, GATHERED);
        let mut more = Box::pin(corked.write(&bytes));
        assert!(futures_util::poll!(&mut more).is_pending());
    }
}
