//! The compressed bytes of a layer, counted and hashed as they are read.

use std::io::{self, BufRead, Read};
use std::mem;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use parking_lot::Mutex;

use crate::convert::error::LayerError;
use crate::convert::input::{Chunks, OnProgress, Progress};
use crate::oci::digest::{Digest, Hasher};

pub(super) type Failure = Arc<Mutex<Option<LayerError>>>;

/// The compressed bytes, counted and hashed as they are read. What is wrong with them is stored in
/// `failure`, because decoders pass on only an [`io::Error`].
pub(super) struct Source {
    pub(super) chunks: Chunks,
    pub(super) current: Bytes,
    pub(super) ended: bool,
    pub(super) hash: Hasher,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) taken: u64,
    pub(super) inflated: u64,
    pub(super) on_progress: OnProgress,
    pub(super) failure: Failure,
}

/// Stores the cause of a failure, and returns it as an error for decoders.
pub(super) fn fail(failure: &Failure, cause: LayerError) -> io::Error {
    let message = cause.to_string();
    failure.lock().get_or_insert(cause);
    io::Error::other(message)
}

impl Source {
    fn fail(&self, cause: LayerError) -> io::Error {
        fail(&self.failure, cause)
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        let Some(next) = self.chunks.next() else {
            self.ended = true;
            return self.check();
        };
        let chunk = next.map_err(|error| self.fail(LayerError::Source(error)))?;
        self.taken = self.taken.saturating_add(chunk.len() as u64);
        if self.taken > self.size {
            return Err(self.fail(LayerError::Longer {
                expected: self.size,
                actual: self.taken,
            }));
        }
        self.hash.update(&chunk);
        self.current = chunk;
        (self.on_progress)(Progress {
            compressed: self.taken,
            inflated: self.inflated,
        });
        Ok(())
    }

    /// At the end of the chunks, compares them with the manifest.
    fn check(&mut self) -> io::Result<()> {
        let actual = mem::replace(&mut self.hash, Hasher::like(&self.digest)).finish();
        if actual != self.digest {
            return Err(self.fail(LayerError::Digest {
                expected: self.digest.clone(),
                actual,
            }));
        }
        if self.taken < self.size {
            return Err(self.fail(LayerError::Shorter {
                expected: self.size,
                actual: self.taken,
            }));
        }
        Ok(())
    }

    /// Reads the rest of the chunks; what is wrong with them is stored in `failure`.
    pub(super) fn drain(&mut self) {
        while !self.ended && self.next_chunk().is_ok() {}
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() && !self.ended {
            self.next_chunk()?;
        }
        Ok(&self.current)
    }

    fn consume(&mut self, count: usize) {
        self.current.advance(count.min(self.current.len()));
    }
}

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buf.len());
        buf[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}
