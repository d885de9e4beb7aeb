//! What a client sends on an HTTP/2 connection, frame by frame (RFC 9113 § 4.1): whether one is
//! begun and does not come to its end, and whether they are of use.
//!
//! The frames are read and understood by the HTTP/2 library. It says nothing of frames that are
//! incomplete, and takes any number of those that ask for nothing.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::server::http::activity::Activity;

/// What a connection begins with (RFC 9113 § 3.4).
pub(in crate::server) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes that carry neither a head nor content (`PING`, `SETTINGS`, `PRIORITY`, `WINDOW_UPDATE`, unknown
/// frames, and what content is framed in) that a connection may send in any case. Beyond it they may
/// be half of what is asked and answered; clients that read slowly and say so after each frame send a
/// thousandth, and those that upload in pieces of 18 bytes as much as they may.
const FREE_OVERHEAD: u64 = 1 << 20;
/// Requests that a client's connection may reset in any case (CVE-2023-44487); beyond it, every
/// other.
const FREE_RESETS: u64 = 200;

const HEAD_LENGTH: usize = 9;
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;

/// Too many frames that are of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::server) enum Flood {
    /// Such as PING.
    #[error("too many frames that carry no request")]
    Overhead,
    /// Requests that are taken back.
    #[error("too many requests that are reset")]
    Resets,
}

/// Where a connection is in the frames that it sends.
#[derive(Debug, Default)]
struct Frames {
    /// Bytes of the preface that have come.
    preface: usize,
    head: [u8; HEAD_LENGTH],
    /// Bytes of `head` that have come.
    head_length: usize,
    kind: u8,
    /// Bytes of the payload that are still to come.
    payload_left: usize,
    /// Whether a head goes on in another frame.
    is_in_head: bool,
    overhead: u64,
    /// Bytes of heads, content and answers.
    work: u64,
    requests: u64,
    resets: u64,
    /// Whether many clients share the connection: how many requests are reset says nothing of one.
    is_shared: bool,
}

impl Frames {
    /// Goes through bytes that have come.
    fn read(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        while !bytes.is_empty() {
            if self.preface < PREFACE.len() {
                let taken = bytes.len().min(PREFACE.len() - self.preface);
                self.preface += taken;
                bytes = bytes.get(taken..).unwrap_or_default();
            } else if self.payload_left > 0 {
                let taken = bytes.len().min(self.payload_left);
                self.payload_left -= taken;
                bytes = bytes.get(taken..).unwrap_or_default();
            } else {
                let taken = bytes.len().min(HEAD_LENGTH - self.head_length);
                let (new, rest) = bytes.split_at_checked(taken).unwrap_or((bytes, &[]));
                let to = self
                    .head
                    .get_mut(self.head_length..self.head_length + taken);
                if let Some(to) = to {
                    to.copy_from_slice(new);
                }
                self.head_length += taken;
                bytes = rest;
                if self.head_length == HEAD_LENGTH {
                    self.head_length = 0;
                    self.begin()?;
                }
            }
        }
        Ok(())
    }

    /// The head of a frame is there.
    fn begin(&mut self) -> Result<(), Flood> {
        let [first, second, third, kind, flags, ..] = self.head;
        let length = u32::from_be_bytes([0, first, second, third]);
        self.kind = kind;
        self.payload_left = usize::try_from(length).unwrap_or(usize::MAX);
        let bytes = u64::from(length).saturating_add(HEAD_LENGTH as u64);
        match kind {
            HEADERS | CONTINUATION => {
                self.is_in_head = flags & END_HEADERS == 0;
                self.requests += u64::from(!self.is_in_head);
            }
            RST_STREAM => self.resets += 1,
            _ => {}
        }
        let (work, overhead) = match kind {
            HEADERS | CONTINUATION => (bytes, 0),
            // Empty ones mean nothing, and the library takes them without end.
            DATA => (u64::from(length), HEAD_LENGTH as u64),
            _ => (0, bytes),
        };
        self.work = self.work.saturating_add(work);
        self.overhead = self.overhead.saturating_add(overhead);
        if self.overhead > FREE_OVERHEAD.saturating_add(self.work / 2) {
            return Err(Flood::Overhead);
        }
        if !self.is_shared && self.resets > FREE_RESETS + self.requests / 2 {
            return Err(Flood::Resets);
        }
        Ok(())
    }

    /// Whether something is begun that a client can send at once: content takes as long as it does,
    /// and has a time limit of its own.
    fn is_within(&self) -> bool {
        (1..PREFACE.len()).contains(&self.preface)
            || self.head_length > 0
            || (self.payload_left > 0 && self.kind != DATA)
            || self.is_in_head
    }
}

/// A connection that speaks HTTP/2, and notes what it does.
#[derive(Debug)]
pub(in crate::server) struct FramedStream<T> {
    stream: T,
    activity: Arc<Activity>,
    frames: Frames,
}

impl<T> FramedStream<T> {
    /// With `is_shared`, it is that of a proxy, which sends the requests of many clients.
    pub fn new(stream: T, activity: Arc<Activity>, is_shared: bool) -> Self {
        Self {
            stream,
            activity,
            frames: Frames {
                is_shared,
                ..Frames::default()
            },
        }
    }

    /// Whether the client has said that it speaks HTTP/2.
    pub fn has_begun(&self) -> bool {
        self.frames.preface == PREFACE.len()
    }

    fn wrote(&mut self, result: &Poll<io::Result<usize>>) {
        self.activity.wrote(result.is_pending());
        if let Poll::Ready(Ok(written)) = result {
            let written = u64::try_from(*written).unwrap_or(u64::MAX);
            self.frames.work = self.frames.work.saturating_add(written);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for FramedStream<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(context, buffer);
        let new = buffer.filled().get(before..).unwrap_or_default();
        if !new.is_empty() {
            if let Err(flood) = this.frames.read(new) {
                return Poll::Ready(Err(io::Error::other(flood)));
            }
            this.activity.within_head(this.frames.is_within());
        }
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for FramedStream<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.wrote(&result);
        result
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_flush(context);
        this.activity.wrote(result.is_pending());
        result
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        bytes.extend(std::iter::repeat_n(0, usize::from(length)));
        bytes
    }

    fn begun() -> Frames {
        let mut frames = Frames::default();
        frames.read(PREFACE).unwrap();
        frames
    }

    #[test]
    fn what_is_begun_is_known_at_each_byte() {
        let mut frames = Frames::default();
        assert!(!frames.is_within());
        for byte in PREFACE.chunks(1) {
            frames.read(byte).unwrap();
            assert_eq!(frames.is_within(), frames.preface < PREFACE.len());
        }
        // A head in two frames.
        let head = [frame(HEADERS, 0, 3), frame(CONTINUATION, END_HEADERS, 2)].concat();
        for (place, byte) in head.chunks(1).enumerate() {
            frames.read(byte).unwrap();
            assert_eq!(frames.is_within(), place + 1 < head.len(), "{place}");
        }
        assert_eq!(frames.requests, 1);
        // Content may take its time.
        let content = frame(DATA, 0, 5);
        frames.read(&content[..11]).unwrap();
        assert!(!frames.is_within());
        frames.read(&content[11..]).unwrap();
        // Whatever way the bytes are cut.
        frames
            .read(&[head.clone(), content, head].concat())
            .unwrap();
        assert_eq!(frames.requests, 3);
        assert!(!frames.is_within());
    }

    #[test]
    fn frames_of_no_use_come_to_an_end() {
        let mut frames = begun();
        let ping = frame(0x6, 0, 8);
        let sent = (0..1_000_000).find(|_| frames.read(&ping).is_err());
        assert_eq!(sent, Some(usize::try_from(FREE_OVERHEAD).unwrap() / 17));
        // Each that is answered counts half.
        let mut frames = begun();
        frames.work = 1 << 40;
        for _ in 0..1_000_000 {
            frames.read(&ping).unwrap();
        }
    }

    #[test]
    fn content_in_pieces_of_nothing_comes_to_an_end() {
        let mut frames = begun();
        let empty = frame(DATA, 0, 0);
        let sent = (0..1_000_000).find(|_| frames.read(&empty).is_err());
        assert_eq!(sent, Some(usize::try_from(FREE_OVERHEAD).unwrap() / 9));
        let mut frames = begun();
        let small = frame(DATA, 0, 18);
        for _ in 0..1_000_000 {
            frames.read(&small).unwrap();
        }
    }

    #[test]
    fn every_other_request_may_be_reset() {
        let (head, reset) = (frame(HEADERS, END_HEADERS, 1), frame(RST_STREAM, 0, 4));
        let mut frames = begun();
        for _ in 0..10_000 {
            frames.read(&[&head[..], &head, &reset].concat()).unwrap();
        }
        let mut frames = begun();
        let both = [&head[..], &reset].concat();
        let reset = (0..1_000_000).find(|_| frames.read(&both).is_err());
        assert_eq!(reset, Some(400));
        let mut frames = begun();
        frames.is_shared = true;
        for _ in 0..10_000 {
            frames.read(&both).unwrap();
        }
    }
}
