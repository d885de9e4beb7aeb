//! A blob that is being read.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::damage::Damage;
use super::known::{Change, Flag};
use super::pins::BlobPin;
use super::shelf::Shelf;
use super::stamp::Stamp;
use crate::oci::Digest;
use crate::store::BlobError;

/// A whole blob, open for reading and pinned: no process evicts it while this, or a clone of
/// its file, is open.
#[derive(Debug)]
pub struct BlobFile {
    file: File,
    size: u64,
    digest: Digest,
    flag: Flag,
    shelf: Arc<Shelf>,
}

impl BlobFile {
    /// A pinned file whose bytes are known to be the blob's.
    pub(super) fn new(
        shelf: &Arc<Shelf>,
        digest: Digest,
        file: File,
        metadata: &Metadata,
        flag: Flag,
    ) -> Self {
        shelf.used(&digest, &file, Some(metadata));
        Self {
            size: metadata.len(),
            file,
            digest,
            flag,
            shelf: Arc::clone(shelf),
        }
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

    /// Pins the blob for as long as the answer is there, without its file.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn pin(&self) -> Result<BlobPin, BlobError> {
        BlobPin::new(&self.shelf, &self.digest)
    }

    /// Whether the file was found damaged, or suspected of it, after it was opened: it must not
    /// be used any more, and opening it again tells. Costs nothing to ask.
    pub fn is_suspect(&self) -> bool {
        self.flag.is_set()
    }

    /// Has the file verified again before it is opened the next time: something was wrong with
    /// it.
    pub fn suspect(&self) {
        self.flag.set();
        if let Ok(metadata) = self.file.metadata() {
            let stamp = Stamp::of(&metadata);
            self.shelf.known.suspect(&self.digest, &stamp);
        }
    }

    /// Whether the file is still the blob's, as far as its times and its place tell. One that was
    /// written to is suspect from then on.
    pub fn look_again(&self) -> bool {
        let Ok(metadata) = self.file.metadata() else {
            return false;
        };
        let stamp = Stamp::of(&metadata);
        match self.shelf.known.change(&self.digest, &stamp) {
            Change::None => true,
            Change::Written => {
                self.suspect();
                false
            }
            // It may have been moved, by another process.
            Change::Other => {
                let named = fs::symlink_metadata(self.path());
                named.is_ok_and(|named| Stamp::of(&named).is_same_file(&stamp))
            }
        }
    }

    /// Where it is. It stays there while this is open, unless it proves to be damaged.
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

    /// All of a small blob, compared with its digest once more; `None` if it was damaged, and
    /// taken away for that.
    ///
    /// # Errors
    /// When a damaged file cannot be taken away.
    pub fn read_all(&self) -> Result<Option<Vec<u8>>, BlobError> {
        let path = self.path();
        let too_large = |_| BlobError::io("reading", &path)(io::ErrorKind::FileTooLarge.into());
        let mut bytes = vec![0; usize::try_from(self.size).map_err(too_large)?];
        let damage = match self.read_exact_at(&mut bytes, 0) {
            Ok(()) => {
                let found = self.digest.of_same_kind(&bytes);
                if found == self.digest {
                    return Ok(Some(bytes));
                }
                Damage::Digest { found }
            }
            Err(error) => Damage::Unreadable(error.to_string()),
        };
        let metadata = self.file.metadata();
        let stamp = Stamp::of(&metadata.map_err(BlobError::io("examining", &path))?);
        self.shelf.set_aside(&self.digest, &stamp, &damage)?;
        Ok(None)
    }
}

impl Drop for BlobFile {
    fn drop(&mut self) {
        if self.flag.is_set() {
            return;
        }
        // `keep` counts from the end of the last use.
        let metadata = self.file.metadata().ok();
        self.shelf.used(&self.digest, &self.file, metadata.as_ref());
    }
}
