//! A blob that is open for reading.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::damage::Damage;
use super::directory::BlobDirectory;
use super::pin::BlobPin;
use super::stamp::Stamp;
use super::verified::{Change, SuspectFlag};
use crate::oci::Digest;
use crate::store::error::BlobError;

/// A whole blob, open for reading and pinned: no process evicts it while this, or a clone of
/// its file, is open.
#[derive(Debug)]
pub struct BlobFile {
    file: File,
    size: u64,
    digest: Digest,
    flag: SuspectFlag,
    directory: Arc<BlobDirectory>,
}

impl BlobFile {
    /// A locked file that was verified.
    pub(super) fn new(
        directory: &Arc<BlobDirectory>,
        digest: Digest,
        file: File,
        metadata: &Metadata,
        flag: SuspectFlag,
    ) -> Self {
        directory.record_use(&digest, &file, Some(metadata));
        Self {
            size: metadata.len(),
            file,
            digest,
            flag,
            directory: Arc::clone(directory),
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

    /// Pins the blob, without keeping its file open.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn pin(&self) -> Result<BlobPin, BlobError> {
        BlobPin::new(&self.directory, &self.digest)
    }

    /// Whether the file was found or suspected to be damaged after it was opened: it must not be
    /// used any more, but opened again, which verifies it. Cheap.
    pub fn is_suspect(&self) -> bool {
        self.flag.is_set()
    }

    /// Marks the file as suspect: it is verified again before it is opened the next time.
    pub fn suspect(&self) {
        self.flag.set();
        if let Ok(metadata) = self.file.metadata() {
            let stamp = Stamp::of(&metadata);
            self.directory.verified.suspect(&self.digest, &stamp);
        }
    }

    /// Whether the file is still the blob's, as far as its times and its path show. One that was
    /// written to is suspect from then on.
    pub fn look_again(&self) -> bool {
        let Ok(metadata) = self.file.metadata() else {
            return false;
        };
        let stamp = Stamp::of(&metadata);
        match self.directory.verified.change(&self.digest, &stamp) {
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

    /// Its path. It stays there while this is open, unless it is found damaged.
    pub fn path(&self) -> PathBuf {
        self.directory.path(&self.digest)
    }

    /// Fills `buf` from byte `offset`.
    ///
    /// # Errors
    /// When the range leaves the blob or the disk refuses.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    /// All of a small blob, compared with its digest once more; `None` if it is damaged, and was
    /// set aside.
    ///
    /// # Errors
    /// When a damaged file cannot be set aside.
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
        self.directory.set_aside(&self.digest, &stamp, &damage)?;
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
        self.directory
            .record_use(&self.digest, &self.file, metadata.as_ref());
    }
}
