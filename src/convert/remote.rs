//! A blob in a registry as a disk, read by range.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::types::Source;
use crate::format::block::{BlockDevice, check_range};
use crate::oci::Digest;

/// Bytes fetched at once, and their place a multiple of it.
const PIECE: u64 = 128 << 10;
/// Pieces kept of one blob: 8 MiB.
const KEPT: usize = 64;

/// A blob of an upstream. Its methods must not be called from a task.
pub(super) struct RemoteBlob {
    source: Source,
    digest: Digest,
    size: u64,
    runtime: Handle,
    pieces: Mutex<VecDeque<(u64, Bytes)>>,
}

impl RemoteBlob {
    pub(super) fn new(source: Source, digest: Digest, size: u64) -> Self {
        Self {
            source,
            digest,
            size,
            runtime: Handle::current(),
            pieces: Mutex::default(),
        }
    }

    fn piece(&self, number: u64) -> io::Result<Bytes> {
        {
            let mut pieces = self.pieces.lock();
            if let Some(place) = pieces.iter().position(|(kept, _)| *kept == number)
                && let Some(found) = pieces.remove(place)
            {
                let bytes = found.1.clone();
                pieces.push_back(found);
                return Ok(bytes);
            }
        }
        let start = number.saturating_mul(PIECE);
        let range = start..start.saturating_add(PIECE).min(self.size);
        let Source {
            upstream,
            repo,
            authorization,
        } = &self.source;
        let fetched = upstream.blob_range(repo, &self.digest, range.clone(), authorization);
        let bytes = self.runtime.block_on(fetched).map_err(io::Error::other)?;
        if bytes.len() as u64 != range.end.saturating_sub(range.start) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut pieces = self.pieces.lock();
        if pieces.len() >= KEPT {
            pieces.pop_front();
        }
        pieces.push_back((number, bytes.clone()));
        Ok(bytes)
    }
}

impl BlockDevice for RemoteBlob {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset + done as u64;
            let bytes = self.piece(at / PIECE)?;
            let within = usize::try_from(at % PIECE).map_err(io::Error::other)?;
            let found = bytes.get(within..).unwrap_or_default();
            let count = found.len().min(rest.len());
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            rest[..count].copy_from_slice(&found[..count]);
            done += count;
        }
        Ok(())
    }
}

/// The blob as a shared disk.
pub(super) fn device(source: Source, digest: Digest, size: u64) -> Arc<RemoteBlob> {
    Arc::new(RemoteBlob::new(source, digest, size))
}
