//! A blob of a registry as a block device.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::ahead::Streams;
use super::flight::PieceError;
use super::pieces::{Blob, Pieces};
use super::read_error::ReadError;
use crate::format::block::{BlockDevice, check_range};

/// Most bytes that are fetched because they are said to be read soon.
const MAX_PREPARED: u64 = 16 << 20;

/// A blob that is read by pieces. To be read from threads that may block, never from a task.
#[derive(Debug)]
pub(super) struct LazyBlob {
    blob: Arc<Blob>,
    pieces: Pieces,
    streams: Mutex<Streams>,
    /// Reads that failed.
    failures: AtomicU64,
}

impl LazyBlob {
    pub(super) fn new(blob: Blob, pieces: Pieces) -> Self {
        Self {
            blob: Arc::new(blob),
            pieces,
            streams: Mutex::default(),
            failures: AtomicU64::new(0),
        }
    }

    /// How many reads failed.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Drops all that is kept of the blob.
    pub(super) fn forget(&self) {
        self.pieces.forget_all(&self.blob);
    }

    /// The pieces that a range lies in, which is not empty.
    fn numbers(&self, offset: u64, len: u64) -> Range<u64> {
        let piece = self.pieces.len();
        offset / piece..(offset + len).div_ceil(piece)
    }

    fn fetch_ahead(&self, read: &Range<u64>) {
        let reading = self.pieces.reading();
        if reading.node_like || reading.ahead == 0 {
            return;
        }
        let piece = self.pieces.len();
        let most = reading.ahead.min(reading.memory / 4) / piece;
        let count = self.blob.size.div_ceil(piece);
        let ahead = self.streams.lock().read(read, most, count);
        self.pieces.prepare(&self.blob, ahead);
    }

    fn error(&self, error: Arc<PieceError>) -> io::Error {
        self.failures.fetch_add(1, Ordering::Relaxed);
        ReadError::new(&self.blob.digest, error).into()
    }
}

impl BlockDevice for LazyBlob {
    fn size(&self) -> u64 {
        self.blob.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.blob.size, offset, buf.len() as u64)?;
        if buf.is_empty() {
            return Ok(());
        }
        let piece_len = self.pieces.len();
        let mut rest = self.numbers(offset, buf.len() as u64);
        let read = rest.clone();
        let mut done = 0;
        while !rest.is_empty() {
            let end = rest.end.min(rest.start + self.pieces.per_request());
            let asked = self.pieces.ask(&self.blob, rest.start..end);
            if rest.start == read.start {
                self.fetch_ahead(&read);
            }
            for piece in asked {
                let piece = self.pieces.wait(piece).map_err(|error| self.error(error))?;
                let within = (offset + done as u64) % piece_len;
                let within = usize::try_from(within).map_err(io::Error::other)?;
                let (found, target) = (piece.get(within..).unwrap_or_default(), &mut buf[done..]);
                let count = found.len().min(target.len());
                target[..count].copy_from_slice(&found[..count]);
                done += count;
            }
            rest.start = end;
        }
        if done == buf.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn read_anew(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.blob.size, offset, buf.len() as u64)?;
        if !buf.is_empty() {
            tracing::warn!(
                digest = %self.blob.digest, offset, bytes = buf.len(),
                "a part of a blob is damaged: it is fetched anew"
            );
            let numbers = self.numbers(offset, buf.len() as u64);
            self.pieces.forget(&self.blob, numbers);
        }
        self.read_at(offset, buf)
    }

    fn will_read(&self, offset: u64, len: u64) {
        let len = len
            .min(self.blob.size.saturating_sub(offset))
            .min(MAX_PREPARED);
        if len == 0 {
            return;
        }
        let numbers = self.numbers(offset, len);
        // A node asks for a piece when it reads it.
        if !self.pieces.reading().node_like {
            self.pieces.prepare(&self.blob, numbers);
        }
    }

    fn name(&self) -> Option<String> {
        Some(format!("blob {}", self.blob.digest))
    }
}
