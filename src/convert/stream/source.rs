//! The compressed bytes of a layer, counted as they are read, and hashed in a thread beside.

use std::io::{self, BufRead, Read};
use std::mem;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::{Buf as _, Bytes};
use parking_lot::Mutex;

use crate::convert::error::LayerError;
use crate::convert::input::{Chunks, OnProgress, Progress};
use crate::oci::digest::{Digest, Hasher};

pub(super) type Failure = Arc<Mutex<Option<LayerError>>>;

/// Bytes of chunks that are gathered before they are sent to be hashed.
const GATHERED_BYTES: usize = 128 << 10;
/// Most chunks that are gathered, however small they are.
const GATHERED_CHUNKS: usize = 64;
/// Batches that may wait for the thread that hashes.
const WAITING: usize = 1;

/// Hashes chunks in a thread, which ends when this is dropped.
pub(super) struct ChunkHasher {
    gathered: Vec<Bytes>,
    /// Bytes of `gathered`.
    length: usize,
    to_hash: SyncSender<Vec<Bytes>>,
    thread: JoinHandle<Digest>,
}

impl ChunkHasher {
    /// # Errors
    /// When no thread can be started.
    pub(super) fn new(expected: &Digest) -> Result<Self, LayerError> {
        let (to_hash, waiting) = sync_channel::<Vec<Bytes>>(WAITING);
        let mut hasher = Hasher::like(expected);
        let thread = super::spawn("digest", move || {
            for chunk in waiting.into_iter().flatten() {
                hasher.update(&chunk);
            }
            hasher.finish()
        })?;
        Ok(Self {
            gathered: Vec::new(),
            length: 0,
            to_hash,
            thread,
        })
    }

    fn update(&mut self, chunk: Bytes) -> Result<(), LayerError> {
        self.length = self.length.saturating_add(chunk.len());
        self.gathered.push(chunk);
        if self.length < GATHERED_BYTES && self.gathered.len() < GATHERED_CHUNKS {
            return Ok(());
        }
        self.send()
    }

    fn send(&mut self) -> Result<(), LayerError> {
        self.length = 0;
        let sent = self.to_hash.send(mem::take(&mut self.gathered));
        sent.map_err(|_| LayerError::Panicked("hashing"))
    }

    fn finish(mut self) -> Result<Digest, LayerError> {
        self.send()?;
        drop(self.to_hash);
        self.thread
            .join()
            .map_err(|_| LayerError::Panicked("hashing"))
    }
}

/// The compressed bytes, counted and hashed as they are read. What is wrong with them is stored in
/// `failure`, because decoders pass on only an [`io::Error`].
pub(super) struct Source {
    pub(super) chunks: Chunks,
    pub(super) current: Bytes,
    pub(super) ended: bool,
    /// `None` once the digest is known.
    pub(super) hash: Option<ChunkHasher>,
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
        if let Some(hash) = &mut self.hash {
            let hashed = hash.update(chunk.clone());
            hashed.map_err(|cause| self.fail(cause))?;
        }
        self.current = chunk;
        (self.on_progress)(Progress {
            compressed: self.taken,
            inflated: self.inflated,
        });
        Ok(())
    }

    /// At the end of the chunks, compares them with the manifest.
    fn check(&mut self) -> io::Result<()> {
        let Some(hash) = self.hash.take() else {
            return Ok(());
        };
        let actual = hash.finish().map_err(|cause| self.fail(cause))?;
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
