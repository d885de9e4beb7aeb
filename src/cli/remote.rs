//! A blob of a registry as a disk: what is read of it is fetched, by range.

use std::io;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::format::block::{BlockDevice, check_range};
use crate::oci::{Digest, RepoName};
use crate::registry::{Authorization, Upstream};

/// What a small read fetches: headers and indexes lie close together.
const WINDOW: u64 = 128 << 10;
/// Windows that are remembered.
const REMEMBERED: usize = 16;

/// A blob of a registry. To be read from a thread that may block.
pub struct RemoteBlob {
    upstream: Upstream,
    repo: RepoName,
    digest: Digest,
    size: u64,
    handle: Handle,
    windows: Mutex<Vec<(u64, Bytes)>>,
}

impl RemoteBlob {
    /// A blob of `size` bytes. Nothing is fetched yet.
    pub fn new(upstream: &Upstream, repo: &RepoName, digest: &Digest, size: u64) -> Self {
        Self {
            upstream: upstream.clone(),
            repo: repo.clone(),
            digest: digest.clone(),
            size,
            handle: Handle::current(),
            windows: Mutex::default(),
        }
    }

    fn fetch(&self, start: u64, end: u64) -> io::Result<Bytes> {
        let answer =
            self.upstream
                .blob_range(&self.repo, &self.digest, start..end, &Authorization::Own);
        let bytes = self.handle.block_on(answer).map_err(io::Error::other)?;
        if bytes.len() as u64 == end - start {
            Ok(bytes)
        } else {
            let text = format!(
                "{} bytes came where {} were asked for",
                bytes.len(),
                end - start
            );
            Err(io::Error::other(text))
        }
    }

    fn window(&self, number: u64) -> io::Result<Bytes> {
        let remembered = || self.windows.lock();
        if let Some((_, bytes)) = remembered().iter().find(|(there, _)| *there == number) {
            return Ok(bytes.clone());
        }
        let start = number * WINDOW;
        let bytes = self.fetch(start, (start + WINDOW).min(self.size))?;
        let mut windows = remembered();
        if windows.len() >= REMEMBERED {
            windows.remove(0);
        }
        windows.push((number, bytes.clone()));
        Ok(bytes)
    }
}

impl BlockDevice for RemoteBlob {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        if buf.len() as u64 >= WINDOW {
            let bytes = self.fetch(offset, offset + buf.len() as u64)?;
            buf.copy_from_slice(&bytes);
            return Ok(());
        }
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let window = self.window(at / WINDOW)?;
            let skip = usize::try_from(at % WINDOW).map_err(io::Error::other)?;
            let there = window.get(skip..).unwrap_or_default();
            let len = there.len().min(rest.len());
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (now, later) = rest.split_at_mut(len);
            now.copy_from_slice(&there[..len]);
            rest = later;
            at += len as u64;
        }
        Ok(())
    }
}
