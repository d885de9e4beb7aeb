//! A blob in a registry as a block device, read by ranges.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::types::Source;
use crate::format::block::{BlockDevice, check_range};
use crate::oci::Digest;

/// Bytes that a small read fetches, at a multiple of this: headers and indexes lie close together.
const WINDOW_BYTES: u64 = 128 << 10;
/// Windows that are cached of one blob: 8 MiB.
const MAX_CACHED_WINDOWS: usize = 64;

/// A blob of an upstream. To be read from threads that may block, never from a task.
pub struct RemoteBlob {
    source: Source,
    digest: Digest,
    size: u64,
    runtime: Handle,
    /// The cached windows by their number, least recently used first.
    windows: Mutex<VecDeque<(u64, Bytes)>>,
}

impl RemoteBlob {
    /// A blob of `size` bytes. Nothing is fetched yet. To be called in a runtime, which does the
    /// fetching.
    #[must_use]
    pub fn new(source: Source, digest: Digest, size: u64) -> Self {
        Self {
            source,
            digest,
            size,
            runtime: Handle::current(),
            windows: Mutex::default(),
        }
    }

    fn fetch(&self, range: Range<u64>) -> io::Result<Bytes> {
        let wanted = range.end.saturating_sub(range.start);
        let Source {
            upstream,
            repo,
            authorization,
        } = &self.source;
        let fetched = upstream.blob_range(repo, &self.digest, range, authorization);
        let bytes = self.runtime.block_on(fetched).map_err(io::Error::other)?;
        if bytes.len() as u64 != wanted {
            let text = format!("{} bytes came where {wanted} were requested", bytes.len());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        Ok(bytes)
    }

    fn window(&self, number: u64) -> io::Result<Bytes> {
        {
            let mut windows = self.windows.lock();
            if let Some(position) = windows.iter().position(|(cached, _)| *cached == number)
                && let Some(window) = windows.remove(position)
            {
                let bytes = window.1.clone();
                windows.push_back(window);
                return Ok(bytes);
            }
        }
        let start = number.saturating_mul(WINDOW_BYTES);
        let bytes = self.fetch(start..start.saturating_add(WINDOW_BYTES).min(self.size))?;
        let mut windows = self.windows.lock();
        if windows.len() >= MAX_CACHED_WINDOWS {
            windows.pop_front();
        }
        windows.push_back((number, bytes.clone()));
        Ok(bytes)
    }
}

impl BlockDevice for RemoteBlob {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let length = buf.len() as u64;
        check_range(self.size, offset, length)?;
        if length >= WINDOW_BYTES {
            let bytes = self.fetch(offset..offset + length)?;
            buf.copy_from_slice(&bytes);
            return Ok(());
        }
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset + done as u64;
            let window = self.window(at / WINDOW_BYTES)?;
            let within = usize::try_from(at % WINDOW_BYTES).map_err(io::Error::other)?;
            let found = window.get(within..).unwrap_or_default();
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
