//! A blob that is being read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::is_linked;
use super::shelf::Shelf;
use crate::oci::Digest;
use crate::store::BlobError;

/// A whole blob, open for reading and pinned: no process evicts it while this, or a clone of
/// its file, is open.
#[derive(Debug)]
pub struct BlobFile {
    file: File,
    size: u64,
    digest: Digest,
    shelf: Arc<Shelf>,
}

impl BlobFile {
    pub(super) fn open(shelf: &Arc<Shelf>, digest: &Digest) -> Result<Option<Self>, BlobError> {
        let path = shelf.path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(BlobError::io("opening", &path)(error)),
        };
        file.lock_shared()
            .map_err(BlobError::io("locking", &path))?;
        // It may have been evicted between the two.
        if !is_linked(&file, &path)? {
            return Ok(None);
        }
        let metadata = file.metadata().map_err(BlobError::io("examining", &path))?;
        shelf.used(digest, &file, metadata.modified().ok());
        Ok(Some(Self {
            size: metadata.len(),
            file,
            digest: digest.clone(),
            shelf: Arc::clone(shelf),
        }))
    }

    /// The blob's digest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file. A clone of it (`try_clone`) is pinned too.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it is. It stays there while this is open.
    pub fn path(&self) -> PathBuf {
        self.shelf.path(&self.digest)
    }

    /// Fills `buf` from byte `offset`.
    ///
    /// # Errors
    /// When the range leaves the blob or the disk refuses.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

impl Drop for BlobFile {
    fn drop(&mut self) {
        // `keep` counts from the end of the last use.
        let recorded = self
            .file
            .metadata()
            .and_then(|metadata| metadata.modified());
        self.shelf.used(&self.digest, &self.file, recorded.ok());
    }
}
