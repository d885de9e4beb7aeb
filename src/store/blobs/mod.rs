//! The blob directory: content-addressed, bounded, shared by the processes of one machine.
//!
//! ```text
//! DATA/layout                  what wrote this directory; its lock orders commits and evictions
//! DATA/blobs/sha256/ab/<hex>   whole blobs; the time of modification is the time of last use
//! DATA/tmp/<number>            blobs in the making
//! DATA/damaged/…               files that were found damaged, the last few of them
//! DATA/pins                    a lock on a byte of it keeps a blob that is not open
//! DATA/scrub                   when the scrubber last read all blobs; its lock is the scrubber's
//! ```
//!
//! A file is opened only after this process made it, or read all of it and found what its digest
//! names: once, unless it is replaced or written to.
//!
//! Whoever reads or writes a file holds a shared lock (`flock`) on it; whoever wants to remove
//! one must get the exclusive lock. So a pin ends with its process, however that ends. What has
//! to stay for long without being read is pinned without an open file ([`BlobPin`]).

mod counters;
mod damage;
mod directory;
mod examine;
mod file;
mod gate;
mod held;
mod known;
mod pins;
mod place;
mod scrub;
mod shared;
mod shelf;
mod stamp;
mod temp;
mod verify;

use std::fs::{self, File};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

pub use counters::BlobCounters;
pub use damage::{Aside, Damage};
pub use examine::{BlobEntry, Examined};
pub use file::BlobFile;
pub use pins::BlobPin;
pub use scrub::Scrubber;
pub use shared::SharedBlob;
pub use shelf::Reservation;
pub use temp::TempBlob;

pub(super) use directory::{create_directory, disk_space, is_linked};

use super::BlobError;
use crate::oci::Digest;
use gate::Gate;
use shelf::Shelf;
use verify::{CHUNK, Looked};

/// Most verifications at one time: each takes a core, and requests need some too.
const MOST_VERIFICATIONS: usize = 4;

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
    gate: Arc<Gate>,
    /// The files that are open for [`SharedBlob`]s.
    files: Arc<shared::Files>,
}

/// Drops what blocks on the disk when it is dropped: elsewhere, if this is a task.
pub(super) fn off_task<T: Send + 'static>(value: T) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(value))),
        Err(_) => drop(value),
    }
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
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            shelf,
            tmp,
            gate: Gate::new((cores / 2).clamp(1, MOST_VERIFICATIONS)),
            files: Arc::default(),
        })
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
    /// `size` bytes must be in it, and the caller has hashed them. Whatever was in its place is
    /// replaced; those who have that open keep it.
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

    /// Keeps a blob for reading now and then: pinned, and open only while it is read often.
    ///
    /// # Errors
    /// When the disk refuses to pin it.
    pub fn share(&self, file: BlobFile) -> Result<SharedBlob, BlobError> {
        SharedBlob::new(self.clone(), file)
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
        if let Some(there) = self.open(digest)?
            && there.read_all()?.is_some()
        {
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
    /// For the first time after a start, all of it is read and compared with its digest before;
    /// whoever else asks for it waits for that. A damaged file is moved aside: then the blob is
    /// not there.
    ///
    /// # Errors
    /// When the disk refuses: never for a blob that is merely absent.
    pub fn open(&self, digest: &Digest) -> Result<Option<BlobFile>, BlobError> {
        match self.shelf.look(digest)? {
            Looked::Absent => Ok(None),
            Looked::Sound(file) => Ok(Some(file)),
            Looked::Unverified => {
                let _pass = self.gate.enter(digest);
                self.shelf.open_verified(digest)
            }
        }
    }

    /// As [`open`](Self::open), from a task: nothing blocks it, and no thread waits for its turn.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_async(&self, digest: &Digest) -> Result<Option<BlobFile>, BlobError> {
        let (shelf, wanted) = (Arc::clone(&self.shelf), digest.clone());
        match self.blocking(digest, move || shelf.look(&wanted)).await? {
            Looked::Absent => Ok(None),
            Looked::Sound(file) => Ok(Some(file)),
            Looked::Unverified => {
                let pass = self.gate.enter_async(digest).await;
                let (shelf, wanted) = (Arc::clone(&self.shelf), digest.clone());
                let verified = move || {
                    // It goes on, and counts, even if the caller leaves.
                    let _pass = pass;
                    shelf.open_verified(&wanted)
                };
                self.blocking(digest, verified).await
            }
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        digest: &Digest,
        work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        let path = || self.shelf.path(digest);
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|panic| Err(BlobError::io("opening", &path())(io::Error::other(panic))))
    }

    /// Has a blob verified again when it is opened the next time: something that needs it went
    /// wrong, and it may be the cause. Those who have it open go on.
    pub fn doubt(&self, digest: &Digest) {
        self.shelf.known.doubt(digest);
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

    /// Where a blob's file is, if it is there.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.shelf.path(digest)
    }

    /// Everything in the place of a blob, by digest, whether it is one or not.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn entries(&self) -> Result<Vec<BlobEntry>, BlobError> {
        self.shelf.entries()
    }

    /// Reads a blob and compares it with its digest, without using or pinning it. A damaged one
    /// is moved aside if `is_moving`. `go_on` is told of the bytes that were read, again and
    /// again, and may end it.
    ///
    /// # Errors
    /// When the disk refuses, or a damaged file cannot be moved.
    pub fn examine(
        &self,
        digest: &Digest,
        is_moving: bool,
        go_on: impl FnMut(u64) -> bool,
    ) -> Result<Examined, BlobError> {
        self.shelf.examine(digest, is_moving, CHUNK, go_on)
    }

    /// Starts to read all blobs again, over and over, at so many bytes a second, until the
    /// answer is dropped. Of several processes one does it.
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub fn scrub(&self, rate: NonZeroU64) -> Result<Scrubber, BlobError> {
        scrub::start(Arc::clone(&self.shelf), rate)
    }

    /// How many blobs this process has evicted since its start.
    pub fn evicted(&self) -> u64 {
        self.shelf.evicted.load(Ordering::Relaxed)
    }

    /// What was verified and found since the start.
    pub fn counters(&self) -> BlobCounters {
        self.shelf.counters.read()
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
