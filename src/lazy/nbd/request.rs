//! Requests of a client, one after the other.

use tokio::io::AsyncRead;
use tokio::sync::mpsc;

use super::protocol::{MAX_PAYLOAD, REQUEST_LEN, REQUEST_MAGIC, command};
use super::wire::{ConnectionError, read_when_it_comes, skip};

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Of `request_flag`.
    pub flags: u16,
    /// Of `command`.
    pub command: u16,
    /// By which the client knows the reply.
    pub cookie: u64,
    /// Byte of the disk.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
}

impl Request {
    fn parse(bytes: &[u8; REQUEST_LEN]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk()?;
        let (flags, rest) = rest.split_first_chunk()?;
        let (command, rest) = rest.split_first_chunk()?;
        let (cookie, rest) = rest.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let (length, _) = rest.split_first_chunk()?;
        (u32::from_be_bytes(*magic) == REQUEST_MAGIC).then_some(Self {
            flags: u16::from_be_bytes(*flags),
            command: u16::from_be_bytes(*command),
            cookie: u64::from_be_bytes(*cookie),
            offset: u64::from_be_bytes(*offset),
            length: u32::from_be_bytes(*length),
        })
    }
}

/// Reads requests until the client wants no more, leaves, or nobody takes them. What comes with a
/// request to write is thrown away.
///
/// # Errors
/// When the client breaks the protocol, takes too long within a request, or leaves there.
pub async fn read_requests(
    mut stream: impl AsyncRead + Unpin,
    requests: mpsc::Sender<Request>,
) -> Result<(), ConnectionError> {
    let mut header = [0; REQUEST_LEN];
    while read_when_it_comes(&mut stream, &mut header).await? {
        let request = Request::parse(&header)
            .ok_or(ConnectionError::Protocol("a request does not begin as one"))?;
        match request.command {
            command::DISC => break,
            command::WRITE if request.length > MAX_PAYLOAD => {
                return Err(ConnectionError::Protocol("a write is too long"));
            }
            command::WRITE => skip(&mut stream, request.length).await?,
            _ => {}
        }
        if requests.send(request).await.is_err() {
            break;
        }
    }
    Ok(())
}
