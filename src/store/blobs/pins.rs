//! Blobs that must stay, without an open file for each.
//!
//! A pin is a shared lock on one byte of `DATA/pins`, at an offset that the digest decides: one
//! descriptor is enough for all of them, other processes see them, and they end with the process.
//! They are open file description locks (`fcntl(2)`), which is why a process's own are counted
//! here. A pin is taken while the blob's file is open and locked, and whoever evicts a blob holds
//! the exclusive lock of its file: so the two do not miss each other.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use nix::fcntl::{FcntlArg, fcntl};
use parking_lot::Mutex;

use super::shelf::Shelf;
use crate::oci::Digest;
use crate::store::BlobError;

/// The pins of this process.
#[derive(Debug)]
pub(super) struct Pins {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The file with a byte for each blob; not there where the disk does not take it.
    file: Option<File>,
    /// How often each byte is pinned by this process.
    counts: HashMap<i64, usize>,
}

/// A blob that no process evicts until the last clone of this is dropped.
#[derive(Debug, Clone)]
pub struct BlobPin(#[allow(dead_code)] Arc<Held>);

#[derive(Debug)]
struct Held {
    shelf: Arc<Shelf>,
    digest: Digest,
}

/// A lock of one byte. Its place is of 60 bits, so that it is no negative offset.
fn of_byte(kind: libc::c_int, place: i64) -> Option<libc::flock> {
    Some(libc::flock {
        l_type: libc::c_short::try_from(kind).ok()?,
        l_whence: libc::c_short::try_from(libc::SEEK_SET).ok()?,
        l_start: place,
        l_len: 1,
        l_pid: 0,
    })
}

fn place_of(digest: &Digest) -> i64 {
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

    fn hold(&self, digest: &Digest) -> Result<(), BlobError> {
        let place = place_of(digest);
        let mut state = self.state.lock();
        if let Some(count) = state.counts.get_mut(&place) {
            *count += 1;
            return Ok(());
        }
        if state.file.is_none() {
            let opened = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&self.path);
            match opened.map_err(BlobError::io("opening", &self.path)) {
                Ok(file) => state.file = Some(file),
                // Nobody removes anything from a disk that cannot be written, and on a full one
                // this process at least knows.
                Err(error) if error.is_no_space() => {}
                Err(error) => return Err(error),
            }
        }
        if let (Some(file), Some(lock)) = (&state.file, of_byte(libc::F_RDLCK, place)) {
            fcntl(file, FcntlArg::F_OFD_SETLK(&lock))
                .map_err(|error| BlobError::io("locking", &self.path)(error.into()))?;
        }
        state.counts.insert(place, 1);
        Ok(())
    }

    fn release(&self, digest: &Digest) {
        let place = place_of(digest);
        let mut state = self.state.lock();
        let Some(count) = state.counts.get_mut(&place) else {
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        state.counts.remove(&place);
        if let (Some(file), Some(lock)) = (&state.file, of_byte(libc::F_UNLCK, place))
            && let Err(error) = fcntl(file, FcntlArg::F_OFD_SETLK(&lock))
        {
            tracing::warn!(%digest, %error, "a blob stays pinned until this process ends");
        }
    }

    /// Whether any process has pinned a blob, or another one of the same place.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        let place = place_of(digest);
        let state = self.state.lock();
        if state.counts.contains_key(&place) {
            return true;
        }
        if let Some(file) = &state.file {
            return is_locked(file, place);
        }
        // This process has pinned nothing yet; others may have.
        match File::open(&self.path) {
            Ok(file) => is_locked(&file, place),
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        }
    }
}

/// Whether another process has a lock on a byte; also if it cannot be told.
fn is_locked(file: &File, place: i64) -> bool {
    let Some(mut lock) = of_byte(libc::F_WRLCK, place) else {
        return true;
    };
    let asked = fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock));
    asked.is_err() || libc::c_int::from(lock.l_type) != libc::F_UNLCK
}

impl BlobPin {
    /// Pins a blob whose file is open, and locked for that.
    pub(super) fn new(shelf: &Arc<Shelf>, digest: &Digest) -> Result<Self, BlobError> {
        shelf.pins.hold(digest)?;
        Ok(Self(Arc::new(Held {
            shelf: Arc::clone(shelf),
            digest: digest.clone(),
        })))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // `keep` counts from here.
        self.shelf
            .uses
            .lock()
            .insert(self.digest.clone(), SystemTime::now());
        self.shelf.pins.release(&self.digest);
    }
}
