//! The blob directory: content-addressed, bounded, shared by the processes of one machine.
//!
//! ```text
//! DATA/layout                  what wrote this directory; its lock orders commits and evictions
//! DATA/blobs/sha256/ab/<hex>   whole blobs; the time of modification is the time of last use
//! DATA/tmp/<number>            blobs in the making
//! ```
//!
//! Whoever reads or writes a file holds a shared lock (`flock`) on it; whoever wants to remove
//! one must get the exclusive lock. So a pin ends with its process, however that ends.

mod directory;
mod file;
mod shelf;
mod temp;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use file::BlobFile;
pub use shelf::Reservation;
pub use temp::TempBlob;

pub(super) use directory::{create_directory, is_linked};

use super::BlobError;
use crate::oci::Digest;
use directory::sync_directory;
use shelf::Shelf;

/// A blob that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last used; other processes' uses may be known a minute late.
    pub last_use: SystemTime,
}

/// The blob directory. Cheap to clone. All calls block on the disk.
#[derive(Debug, Clone)]
pub struct BlobStore {
    shelf: Arc<Shelf>,
    tmp: PathBuf,
}

impl BlobStore {
    /// Opens or makes the blob directory in `data_dir` and removes the temporary files of
    /// processes that are gone.
    ///
    /// # Errors
    /// When the directory cannot be used, does not support locks, or has another layout.
    pub fn at(data_dir: &Path, cache_size: Option<u64>, keep: Duration) -> Result<Self, BlobError> {
        create_directory(data_dir)?;
        let shelf = Arc::new(Shelf::open(data_dir, cache_size, keep)?);
        let tmp = data_dir.join("tmp");
        create_directory(&tmp)?;
        temp::remove_leftovers(&tmp)?;
        Ok(Self { shelf, tmp })
    }

    /// Begins a blob: an empty file, open for reading and writing, that is removed when
    /// dropped before [`commit`](Self::commit).
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn begin(&self) -> Result<TempBlob, BlobError> {
        TempBlob::create(&self.tmp)
    }

    /// Makes a finished file durable and visible as `digest`, evicting what must go for it.
    /// `size` bytes must be in it, and the caller has hashed them. A blob that is there
    /// already stays.
    ///
    /// # Errors
    /// When the size is another, or the disk refuses. The file is removed then.
    pub fn commit(
        &self,
        temp: TempBlob,
        digest: &Digest,
        size: u64,
    ) -> Result<BlobFile, BlobError> {
        let metadata = temp.file().metadata();
        let found = metadata
            .map_err(BlobError::io("examining", temp.path()))?
            .len();
        if found != size {
            return Err(BlobError::Size {
                digest: digest.clone(),
                expected: size,
                found,
            });
        }
        // The long part of being durable, before anyone has to wait for the lock.
        temp.file()
            .sync_all()
            .map_err(BlobError::io("writing", temp.path()))?;
        self.shelf.place(temp, digest, size)
    }

    /// Stores bytes that are in memory, such as a manifest.
    ///
    /// # Errors
    /// When they are not the digest's, or the disk refuses.
    pub fn put_bytes(&self, digest: &Digest, bytes: &[u8]) -> Result<BlobFile, BlobError> {
        let found = digest.of_same_kind(bytes);
        if found != *digest {
            return Err(BlobError::Digest {
                expected: digest.clone(),
                found,
            });
        }
        if let Some(there) = self.open(digest)? {
            return Ok(there);
        }
        let temp = self.begin()?;
        let mut file: &File = temp.file();
        file.write_all(bytes)
            .map_err(BlobError::io("writing", temp.path()))?;
        self.commit(temp, digest, u64::try_from(bytes.len()).unwrap_or(u64::MAX))
    }

    /// Opens a blob and pins it: it stays until the answer is dropped. `None` when it is not
    /// there.
    ///
    /// # Errors
    /// When the disk refuses: never for a blob that is merely absent.
    pub fn open(&self, digest: &Digest) -> Result<Option<BlobFile>, BlobError> {
        BlobFile::open(&self.shelf, digest)
    }

    /// Whether a blob is there now. It is not used by that.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn contains(&self, digest: &Digest) -> Result<bool, BlobError> {
        let path = self.shelf.path(digest);
        match fs::metadata(&path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(BlobError::io("examining", &path)(error)),
        }
    }

    /// Removes a blob that proved to be unsound, even if it is pinned: open readers keep what
    /// they have. Says whether it was there.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove(&self, digest: &Digest) -> Result<bool, BlobError> {
        self.shelf.remove(digest)
    }

    /// All blobs, by digest.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn list(&self) -> Result<Vec<BlobInfo>, BlobError> {
        self.shelf.list()
    }

    /// The bytes of all blobs together, without those in the making.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn bytes_used(&self) -> Result<u64, BlobError> {
        self.shelf.bytes_used()
    }

    /// Bytes that the file system would still take from this process.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn bytes_free(&self) -> Result<u64, BlobError> {
        self.shelf.bytes_free()
    }

    /// Claims room for `bytes` that will be written, evicting blobs if the disk is too full.
    /// A claim holds within this process, until dropped.
    ///
    /// # Errors
    /// [`BlobError::TooLittleSpace`].
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, BlobError> {
        Shelf::reserve(&self.shelf, bytes)
    }

    /// Evicts until the bound holds, as each commit does: for a bound that was lowered, or
    /// blobs whose `keep` has passed. Gives the bytes freed.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn evict(&self) -> Result<u64, BlobError> {
        self.shelf.evict()
    }
}

impl Shelf {
    /// Renames a synced file into its place, with a pin on it.
    fn place(
        self: &Arc<Self>,
        mut temp: TempBlob,
        digest: &Digest,
        size: u64,
    ) -> Result<BlobFile, BlobError> {
        let path = self.path(digest);
        let Some(directory) = path.parent() else {
            return Err(BlobError::io("placing", &path)(
                io::ErrorKind::NotFound.into(),
            ));
        };
        create_directory(directory)?;
        let mut held = self.hold()?;
        if let Some(there) = BlobFile::open(self, digest)?
            && there.size() == size
        {
            return Ok(there);
        }
        held.make_room(size)?;
        // Its use begins now, however long ago its last byte was written.
        let _ = temp.file().set_modified(SystemTime::now());
        fs::rename(temp.path(), &path).map_err(BlobError::io("placing", &path))?;
        temp.placed();
        sync_directory(directory)?;
        match BlobFile::open(self, digest)? {
            Some(placed) => Ok(placed),
            None => Err(BlobError::io("opening", &path)(
                io::ErrorKind::NotFound.into(),
            )),
        }
    }
}
