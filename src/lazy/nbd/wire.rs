//! Reading and writing of a connection, never without a bound of time.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// How long a client may take to send the rest of what it began, or to take a message.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The connection.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The client takes too long.
    #[error("nothing came or went for {0:?}")]
    Slow(Duration),
    /// The client sends what the protocol does not have.
    #[error("the client breaks the protocol: {0}")]
    Protocol(&'static str),
}

/// Fills `buf`.
pub async fn read_exact(
    stream: &mut (impl AsyncRead + Unpin),
    buf: &mut [u8],
) -> Result<(), ConnectionError> {
    let read = timeout(PATIENCE, stream.read_exact(buf)).await;
    read.map_err(|_| ConnectionError::Slow(PATIENCE))??;
    Ok(())
}

/// Fills `buf`, however long it takes until it begins to come; whether it came, or the client
/// left before.
pub async fn read_when_it_comes(
    stream: &mut (impl AsyncRead + Unpin),
    buf: &mut [u8],
) -> Result<bool, ConnectionError> {
    let Some((first, rest)) = buf.split_first_mut() else {
        return Ok(true);
    };
    if stream.read(std::slice::from_mut(first)).await? == 0 {
        return Ok(false);
    }
    read_exact(stream, rest).await?;
    Ok(true)
}

/// Reads `length` bytes that nobody wants.
pub async fn skip(
    stream: &mut (impl AsyncRead + Unpin),
    length: u32,
) -> Result<(), ConnectionError> {
    let mut buffer = vec![0; 16 << 10];
    let mut left = usize::try_from(length).map_err(io::Error::other)?;
    while left > 0 {
        let part = left.min(buffer.len());
        read_exact(stream, &mut buffer[..part]).await?;
        left -= part;
    }
    Ok(())
}

/// Writes all of a message. The bound of time is for each part that the client takes.
pub async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    mut message: &[u8],
) -> Result<(), ConnectionError> {
    while !message.is_empty() {
        let written = timeout(PATIENCE, stream.write(message)).await;
        let written = written.map_err(|_| ConnectionError::Slow(PATIENCE))??;
        if written == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        message = message.get(written..).unwrap_or_default();
    }
    Ok(())
}
