//! Blobs that are read now and then for a long time, such as the lower layers of a chain: their
//! files are opened when they are read, and a bounded number of them stays open.

use std::io;
use std::sync::Arc;

use super::file::BlobFile;
use super::pin::BlobPin;
use super::store::{BlobStore, off_task};
use crate::oci::Digest;
use crate::store::error::BlobError;
use crate::store::shortage::Shortage;

/// A pinned blob that can be read at any time; its file is open only while it is read often. Cheap
/// to clone.
#[derive(Debug, Clone)]
pub struct SharedBlob(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    blobs: BlobStore,
    digest: Digest,
    size: u64,
    pin: BlobPin,
}

impl BlobStore {
    /// Keeps a blob for reading now and then: pinned, and open only while it is read often.
    ///
    /// # Errors
    /// When the disk refuses to pin it.
    pub fn share(&self, file: BlobFile) -> Result<SharedBlob, BlobError> {
        SharedBlob::new(self.clone(), file)
    }
}

impl SharedBlob {
    /// Shares a blob whose file is open.
    fn new(blobs: BlobStore, file: BlobFile) -> Result<Self, BlobError> {
        let shared = Inner {
            digest: file.digest().clone(),
            size: file.size(),
            pin: file.pin()?,
            blobs,
        };
        drop(shared.blobs.open_files.put(&Arc::new(file)));
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

    /// The pin that keeps it in the store.
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
        if let Some(file) = blobs.open_files.get(digest) {
            return Ok(file);
        }
        let opened = match blobs.open(digest) {
            Err(error) if Shortage::among(&error) == Some(Shortage::Files) => {
                drop(blobs.open_files.take_all());
                blobs.open(digest)?
            }
            opened => opened?,
        };
        let Some(file) = opened else {
            let cause = "its file was damaged or removed; it is made again when it is requested";
            let path = blobs.path(digest);
            return Err(BlobError::io("reading", &path)(io::Error::other(cause)));
        };
        let file = Arc::new(file);
        drop(blobs.open_files.put(&file));
        Ok(file)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Other shared instances of the blob open it again.
        if let Some(file) = self.blobs.open_files.take(&self.digest) {
            off_task(file);
        }
    }
}
