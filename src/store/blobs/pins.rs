//! Pins blobs, so that they are not evicted, without an open file for each.
//!
//! A pin is a shared lock on one byte of `DATA/pins`, at an offset that the digest decides: one
//! descriptor is enough for all of them, other processes see them, and they end with the process.
//! They are open file description locks (`fcntl(2)`), which is why a process's own are counted
//! here. A blob is pinned while its file is open and locked, and evicted under the exclusive lock of
//! its file: so an eviction does not miss a pin.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;

use nix::fcntl::{FcntlArg, fcntl};
use parking_lot::Mutex;

use super::filesystem::open_or_create;
use crate::oci::Digest;
use crate::store::error::BlobError;

/// The pins of this process.
#[derive(Debug)]
pub(super) struct Pins {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The file with a byte for each blob; `None` if it cannot be created.
    file: Option<File>,
    /// How often each byte is pinned by this process.
    counts: HashMap<i64, usize>,
}

/// A lock of one byte. Its offset has 60 bits, so that it is not negative.
fn byte_lock(kind: libc::c_int, offset: i64) -> Option<libc::flock> {
    Some(libc::flock {
        l_type: libc::c_short::try_from(kind).ok()?,
        l_whence: libc::c_short::try_from(libc::SEEK_SET).ok()?,
        l_start: offset,
        l_len: 1,
        l_pid: 0,
    })
}

fn offset_of(digest: &Digest) -> i64 {
    let head = digest.hex().get(..15).unwrap_or_default();
    i64::from_str_radix(head, 16).unwrap_or_default()
}

impl Pins {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            state: Mutex::default(),
        }
    }

    pub(super) fn pin(&self, digest: &Digest) -> Result<(), BlobError> {
        let offset = offset_of(digest);
        let mut state = self.state.lock();
        if let Some(count) = state.counts.get_mut(&offset) {
            *count += 1;
            return Ok(());
        }
        if state.file.is_none() {
            match open_or_create(&self.path) {
                Ok(file) => state.file = Some(file),
                // Nothing is removed from a read-only disk, and on a full one the pin holds at
                // least within this process.
                Err(error) if error.is_no_space() => {}
                Err(error) => return Err(error),
            }
        }
        if let (Some(file), Some(lock)) = (&state.file, byte_lock(libc::F_RDLCK, offset)) {
            fcntl(file, FcntlArg::F_OFD_SETLK(&lock))
                .map_err(|error| BlobError::io("locking", &self.path)(error.into()))?;
        }
        state.counts.insert(offset, 1);
        Ok(())
    }

    pub(super) fn unpin(&self, digest: &Digest) {
        let offset = offset_of(digest);
        let mut state = self.state.lock();
        let Some(count) = state.counts.get_mut(&offset) else {
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        state.counts.remove(&offset);
        if let (Some(file), Some(lock)) = (&state.file, byte_lock(libc::F_UNLCK, offset))
            && let Err(error) = fcntl(file, FcntlArg::F_OFD_SETLK(&lock))
        {
            tracing::warn!(%digest, %error, "a blob stays pinned until this process ends");
        }
    }

    /// Whether any process has pinned a blob, or another one with the same offset.
    pub(super) fn is_pinned(&self, digest: &Digest) -> bool {
        let offset = offset_of(digest);
        let state = self.state.lock();
        if state.counts.contains_key(&offset) {
            return true;
        }
        if let Some(file) = &state.file {
            return is_locked(file, offset);
        }
        // This process has pinned nothing yet; others may have.
        match File::open(&self.path) {
            Ok(file) => is_locked(&file, offset),
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        }
    }
}

/// Whether another process has a lock on a byte; true if that cannot be determined.
fn is_locked(file: &File, offset: i64) -> bool {
    let Some(mut lock) = byte_lock(libc::F_WRLCK, offset) else {
        return true;
    };
    let read = fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock));
    read.is_err() || libc::c_int::from(lock.l_type) != libc::F_UNLCK
}
