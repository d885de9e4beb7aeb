//! Connections that are closed while the client may still be sending.
//!
//! Closing a connection with unread bytes in it has the system reset it, which takes back what
//! the client has not read yet: an early answer to a request with a body would be lost. So the
//! writing side is closed first, and what comes is read and thrown away for a while
//! (RFC 9112 § 9.6).

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Most bytes that are thrown away.
const MAX_DISCARDED_BYTES: usize = 64 << 20;
/// The longest that it may take.
const MAX_CLOSE_TIME: Duration = Duration::from_secs(30);
/// The longest without any byte.
const STILL: Duration = Duration::from_secs(5);
/// The longest when the server stops.
const AT_THE_END: Duration = Duration::from_secs(1);

/// Says the last word, and waits for the client to hear it; less long when `closing` comes.
pub(in crate::server) async fn close<S>(
    mut stream: S,
    word: &[u8],
    mut closing: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let close = async {
        stream.write_all(word).await?;
        stream.shutdown().await?;
        throw_away(&mut stream).await
    };
    let stopping = async {
        // Without a sender, the server has gone.
        let _ = closing.wait_for(|closing| *closing).await;
        sleep(AT_THE_END).await;
    };
    tokio::select! {
        _ = timeout(MAX_CLOSE_TIME, close) => {}
        () = stopping => {}
    }
}

/// Reads until the client closes its side, stands still, or has sent more than is taken.
async fn throw_away<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<()> {
    let mut ignored = vec![0; 16 << 10];
    let mut left = MAX_DISCARDED_BYTES;
    while left > 0 {
        match timeout(STILL, stream.read(&mut ignored)).await {
            Ok(Ok(0)) | Err(_) => return Ok(()),
            Ok(Ok(read)) => left = left.saturating_sub(read),
            Ok(Err(error)) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_keeps_sending_gets_the_response() {
        let (server, mut client) = tokio::io::duplex(1024);
        let (_stop, closing) = watch::channel(false);
        let closed = tokio::spawn(close(server, b"no", closing));
        client.write_all(&vec![0; 100_000]).await.unwrap();
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "no");
        drop(client);
        closed.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_disconnected() {
        let (server, _client) = tokio::io::duplex(1024);
        let (_stop, closing) = watch::channel(false);
        close(server, b"", closing).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_endlessly_sending_client_is_disconnected() {
        let (server, mut client) = tokio::io::duplex(1 << 20);
        let (_stop, closing) = watch::channel(false);
        let bytes = vec![0; 65_536];
        let endless = async { while client.write_all(&bytes).await.is_ok() {} };
        tokio::join!(close(server, b"", closing), endless);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_stops_does_not_wait_as_long() {
        let (server, _client) = tokio::io::duplex(1024);
        let (stop, closing) = watch::channel(false);
        let begun = tokio::time::Instant::now();
        stop.send_replace(true);
        close(server, b"", closing).await;
        assert_eq!(begun.elapsed(), AT_THE_END);
    }
}
