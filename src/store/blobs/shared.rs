//! Blobs that are read now and then for a long time, such as the lower layers of a chain: their
//! files are opened when they are read, and a bounded number of them stays open.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit};
use parking_lot::Mutex;

use super::file::BlobFile;
use super::pins::BlobPin;
use super::{BlobStore, off_task};
use crate::oci::Digest;
use crate::store::{BlobError, Shortage};

/// Most files that stay open, however many this process may open.
const MOST: u64 = 256;
/// What part of the files that this process may open these are.
const SHARE: u64 = 8;

/// A blob that stays where it is and can be read whenever, and is open only while it is read
/// often. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SharedBlob(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    blobs: BlobStore,
    digest: Digest,
    size: u64,
    pin: BlobPin,
}

/// The files that are open for [`SharedBlob`]s.
#[derive(Debug, Default)]
pub(super) struct Files(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    files: HashMap<Digest, (Arc<BlobFile>, u64)>,
    /// Counts uses: what has the lowest number was not used for the longest time.
    uses: u64,
}

impl Files {
    fn get(&self, digest: &Digest) -> Option<Arc<BlobFile>> {
        let mut open = self.0.lock();
        open.uses += 1;
        let now = open.uses;
        let (file, used) = open.files.get_mut(digest)?;
        // Opening it again tells what is wrong with it.
        if file.is_suspect() {
            return None;
        }
        *used = now;
        Some(Arc::clone(file))
    }

    /// Keeps a file open; gives what is to be closed for it, where no lock is held.
    fn put(&self, file: &Arc<BlobFile>) -> Vec<Arc<BlobFile>> {
        let most = most();
        let mut open = self.0.lock();
        open.uses += 1;
        let entry = (Arc::clone(file), open.uses);
        let replaced = open.files.insert(file.digest().clone(), entry);
        let mut closed: Vec<_> = replaced.into_iter().map(|(file, _)| file).collect();
        while open.files.len() > most {
            let oldest = open.files.iter().min_by_key(|(_, (_, used))| *used);
            let Some(oldest) = oldest.map(|(digest, _)| digest.clone()) else {
                break;
            };
            closed.extend(open.files.remove(&oldest).map(|(file, _)| file));
        }
        closed
    }

    fn take(&self, digest: &Digest) -> Option<Arc<BlobFile>> {
        self.0.lock().files.remove(digest).map(|(file, _)| file)
    }

    fn take_all(&self) -> Vec<Arc<BlobFile>> {
        let files = std::mem::take(&mut self.0.lock().files);
        files.into_values().map(|(file, _)| file).collect()
    }
}

/// Most files that stay open: the limit may have been raised or lowered since it was asked for.
fn most() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(MOST, |(soft, _)| soft);
    usize::try_from((limit / SHARE).clamp(8, MOST)).unwrap_or(8)
}

impl SharedBlob {
    /// Shares a blob whose file is open.
    pub(super) fn new(blobs: BlobStore, file: BlobFile) -> Result<Self, BlobError> {
        let shared = Inner {
            digest: file.digest().clone(),
            size: file.size(),
            pin: file.pin()?,
            blobs,
        };
        drop(shared.blobs.files.put(&Arc::new(file)));
        Ok(Self(Arc::new(shared)))
    }

    /// The blob's digest.
    pub fn digest(&self) -> &Digest {
        &self.0.digest
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// What keeps it in the store, for whoever needs only that.
    pub fn pin(&self) -> BlobPin {
        self.0.pin.clone()
    }

    /// Fills `buf` from byte `offset`. Must not be called from a task.
    ///
    /// # Errors
    /// When the range leaves the blob, the disk refuses, no file can be opened, or the blob was
    /// found damaged meanwhile.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file()
            .map_err(io::Error::other)?
            .read_exact_at(buf, offset)
    }

    fn file(&self) -> Result<Arc<BlobFile>, BlobError> {
        let Inner { blobs, digest, .. } = &*self.0;
        if let Some(file) = blobs.files.get(digest) {
            return Ok(file);
        }
        let opened = match blobs.open(digest) {
            Err(error) if Shortage::among(&error) == Some(Shortage::Files) => {
                drop(blobs.files.take_all());
                blobs.open(digest)?
            }
            opened => opened?,
        };
        let Some(file) = opened else {
            let cause = "its file was damaged or removed; it is made again when it is asked for";
            let path = blobs.path(digest);
            return Err(BlobError::io("reading", &path)(io::Error::other(cause)));
        };
        let file = Arc::new(file);
        drop(blobs.files.put(&file));
        Ok(file)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Whoever else shares the blob opens it again.
        if let Some(file) = self.blobs.files.take(&self.digest) {
            off_task(file);
        }
    }
}
