//! Bodies of requests and responses, and reading them within bounds.

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, TryStreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;

/// Any error, where nothing more is known of it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body that may be streamed, of a request or a response, in or out.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body of no bytes.
#[must_use]
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of these bytes.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body of the bytes of a stream.
pub fn stream<S, E>(stream: S) -> Body
where
    S: Stream<Item = Result<Bytes, E>> + Send + 'static,
    E: Into<BoxError> + 'static,
{
    StreamBody::new(stream.map_ok(Frame::data).map_err(Into::into)).boxed_unsync()
}

/// Why a body could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The peer sends more than is taken.
    #[error("more than {0} bytes")]
    TooLong(usize),
    /// The transfer failed.
    #[error(transparent)]
    Transfer(BoxError),
}

/// Reads a body of at most `limit` bytes into memory.
///
/// # Errors
/// If it is longer, or the transfer fails.
pub async fn read<B>(body: B, limit: usize) -> Result<Bytes, ReadError>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = std::pin::pin!(body);
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ReadError::Transfer(error.into()))?;
        if let Ok(data) = frame.into_data() {
            if data.len() > limit.saturating_sub(whole.len()) {
                return Err(ReadError::TooLong(limit));
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

/// Reads the first bytes of a body, at most `limit`; a failing transfer ends it.
pub async fn read_start<B>(body: B, limit: usize) -> Bytes
where
    B: hyper::body::Body<Data = Bytes>,
{
    let mut body = std::pin::pin!(body);
    let mut start = BytesMut::new();
    while start.len() < limit
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Ok(data) = frame.into_data() {
            let wanted = data.len().min(limit - start.len());
            start.extend_from_slice(data.get(..wanted).unwrap_or_default());
        }
    }
    start.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_over_the_limit_is_an_error() {
        assert_eq!(read(full("abc"), 3).await.unwrap(), "abc");
        assert!(matches!(
            read(full("abcd"), 3).await,
            Err(ReadError::TooLong(3))
        ));
        assert_eq!(read_start(full("abcd"), 3).await, "abc");
    }
}
