//! The operations on the blob directory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::counters::BlobCounters;
use super::directory::BlobDirectory;
use super::examine::{BlobEntry, Examined};
use super::file::BlobFile;
use super::filesystem::{create_directory, create_within};
use super::kind;
use super::locked::BlobInfo;
use super::open_files::OpenFiles;
use super::permits::VerificationPermits;
use super::persist::Finished;
use super::reservation::Reservation;
use super::scrub::{self, Scrubber};
use super::temp::{self, TempBlob, Temporaries};
use super::verify::{Lookup, VERIFY_CHUNK_BYTES};
use crate::oci::Digest;
use crate::store::error::BlobError;

/// Most verifications at one time: each takes a core, and requests need some too.
const MAX_VERIFICATIONS: usize = 4;

/// The blob directory. Cheap to clone. All calls block on the disk.
#[derive(Debug, Clone)]
pub struct BlobStore {
    directory: Arc<BlobDirectory>,
    pub(super) temporaries: Arc<Temporaries>,
    permits: Arc<VerificationPermits>,
    /// The files that are kept open for shared blobs.
    pub(super) open_files: Arc<OpenFiles>,
}

/// Drops a value that blocks on the disk when it is dropped; if this is a task, on a blocking thread.
pub(super) fn off_task<T: Send + 'static>(value: T) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(value))),
        Err(_) => drop(value),
    }
}

/// The file of the only blob that was placed.
fn only(mut placed: Vec<BlobFile>, path: &Path) -> Result<BlobFile, BlobError> {
    let not_found = || BlobError::io("placing", path)(io::ErrorKind::NotFound.into());
    placed.pop().ok_or_else(not_found)
}

impl BlobStore {
    pub(super) fn directory(&self) -> &BlobDirectory {
        &self.directory
    }

    /// Opens or makes the blob directory in `data_dir` and removes the temporary files of
    /// processes that are gone.
    ///
    /// # Errors
    /// When the directory cannot be used, does not support locks, or has another layout.
    pub fn at(data_dir: &Path, cache_size: Option<u64>, keep: Duration) -> Result<Self, BlobError> {
        create_directory(data_dir)?;
        let directory = Arc::new(BlobDirectory::open(data_dir, cache_size, keep)?);
        let tmp = data_dir.join("tmp");
        create_within(&tmp)?;
        temp::remove_leftovers(&tmp)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            directory,
            temporaries: Arc::new(Temporaries::new(tmp)),
            permits: VerificationPermits::new((cores / 2).clamp(1, MAX_VERIFICATIONS)),
            open_files: Arc::default(),
        })
    }

    /// Creates a temporary file for a blob, open for reading and writing. It is removed when dropped
    /// before [`commit`](Self::commit).
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn begin(&self) -> Result<TempBlob, BlobError> {
        self.temporaries.begin()
    }

    /// An empty file for reading and writing, which has no name and goes when it is closed.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn unnamed(&self) -> Result<File, BlobError> {
        let temp = self.begin()?;
        temp.file().try_clone().map_err(|source| BlobError::Io {
            what: "opening",
            path: self.temporaries.directory().to_owned(),
            source,
        })
    }

    /// Makes a finished file durable and visible as `digest`, evicting what must go for it.
    /// It must have `size` bytes, whose digest the caller has computed. A file that the blob had is
    /// replaced; those that have it open keep it.
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
        let (digest, path) = (digest.clone(), self.path(digest));
        let placed = self
            .directory
            .persist(vec![Finished { temp, digest, size }])?;
        only(placed, &path)
    }

    /// As [`commit`](Self::commit), of a file that was synced since it was last written: that is not
    /// done again.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn commit_synced(
        &self,
        mut temp: TempBlob,
        digest: &Digest,
        size: u64,
    ) -> Result<BlobFile, BlobError> {
        temp.set_synced();
        self.commit(temp, digest, size)
    }

    /// As [`commit`](Self::commit), of a copy of what an upstream has: it is evicted before all
    /// that was made here, however short ago its last use was.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn commit_copy(
        &self,
        temp: TempBlob,
        digest: &Digest,
        size: u64,
    ) -> Result<BlobFile, BlobError> {
        kind::mark_copy(temp.file()).map_err(BlobError::io("marking", temp.path()))?;
        self.commit(temp, digest, size)
    }

    /// Whether a blob of so many bytes is within the bound of all blobs together.
    pub fn has_room_for(&self, size: u64) -> bool {
        self.directory.cache_size.is_none_or(|bound| size <= bound)
    }

    /// Stores bytes that are in memory, such as a manifest.
    ///
    /// # Errors
    /// When they are not the digest's, or the disk refuses.
    pub fn put_bytes(&self, digest: &Digest, bytes: &[u8]) -> Result<BlobFile, BlobError> {
        self.put(&[(digest, bytes)], false)
            .and_then(|placed| only(placed, &self.path(digest)))
    }

    /// As [`put_bytes`](Self::put_bytes), of several that belong together: they are synced at one
    /// time. They are in the order in which they were given.
    ///
    /// # Errors
    /// As [`put_bytes`](Self::put_bytes). Some of them may be there then.
    pub fn put_together(&self, blobs: &[(&Digest, &[u8])]) -> Result<Vec<BlobFile>, BlobError> {
        self.put(blobs, false)
    }

    /// As [`put_bytes`](Self::put_bytes), of a copy: see [`commit_copy`](Self::commit_copy).
    ///
    /// # Errors
    /// As [`put_bytes`](Self::put_bytes).
    pub fn put_copy(&self, digest: &Digest, bytes: &[u8]) -> Result<BlobFile, BlobError> {
        self.put(&[(digest, bytes)], true)
            .and_then(|placed| only(placed, &self.path(digest)))
    }

    fn put(
        &self,
        blobs: &[(&Digest, &[u8])],
        are_copies: bool,
    ) -> Result<Vec<BlobFile>, BlobError> {
        let mut there = Vec::with_capacity(blobs.len());
        let mut finished = Vec::new();
        for (digest, bytes) in blobs {
            let found = digest.of_same_kind(bytes);
            if found != **digest {
                return Err(BlobError::Digest {
                    expected: (*digest).clone(),
                    found,
                });
            }
            if let Some(file) = self.open(digest)?
                && file.read_all()?.is_some()
            {
                there.push(Some(file));
                continue;
            }
            there.push(None);
            let temp = self.begin()?;
            let mut file: &File = temp.file();
            file.write_all(bytes)
                .map_err(BlobError::io("writing", temp.path()))?;
            if are_copies {
                kind::mark_copy(temp.file()).map_err(BlobError::io("marking", temp.path()))?;
            }
            finished.push(Finished {
                temp,
                digest: (*digest).clone(),
                size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            });
        }
        let mut placed = self.directory.persist(finished)?.into_iter();
        let all = there.into_iter().map(|file| file.or_else(|| placed.next()));
        Ok(all.flatten().collect())
    }

    /// Opens a blob: it is not evicted until the file is closed. `None` if it is not there.
    ///
    /// The first time after the start of the process, all of it is read and compared with its
    /// digest; concurrent calls wait for that. A damaged file is set aside: then the blob is not
    /// there.
    ///
    /// # Errors
    /// When the disk refuses: never for a blob that is merely absent.
    pub fn open(&self, digest: &Digest) -> Result<Option<BlobFile>, BlobError> {
        match self.directory.lookup(digest)? {
            Lookup::Absent => Ok(None),
            Lookup::Sound(file) => Ok(Some(file)),
            Lookup::Unverified => {
                let _permit = self.permits.acquire(digest);
                self.directory.open_verified(digest)
            }
        }
    }

    /// As [`open`](Self::open), from a task: nothing blocks it, and no thread waits for a permit.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_async(&self, digest: &Digest) -> Result<Option<BlobFile>, BlobError> {
        let (directory, wanted) = (Arc::clone(&self.directory), digest.clone());
        match self
            .blocking(digest, move || directory.lookup(&wanted))
            .await?
        {
            Lookup::Absent => Ok(None),
            Lookup::Sound(file) => Ok(Some(file)),
            Lookup::Unverified => {
                let permit = self.permits.acquire_async(digest).await;
                let (directory, wanted) = (Arc::clone(&self.directory), digest.clone());
                let verified = move || {
                    // It continues, and its result is recorded, even if the caller is dropped.
                    let _permit = permit;
                    directory.open_verified(&wanted)
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
        let path = || self.directory.path(digest);
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|panic| Err(BlobError::io("opening", &path())(io::Error::other(panic))))
    }

    /// Makes a blob be verified again when it is opened the next time, after an error that it may
    /// have caused. Those that have it open continue.
    pub fn doubt(&self, digest: &Digest) {
        self.directory.verified.doubt(digest);
    }

    /// Whether a blob is there now. Does not count as a use.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn contains(&self, digest: &Digest) -> Result<bool, BlobError> {
        let path = self.directory.path(digest);
        match fs::metadata(&path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(BlobError::io("examining", &path)(error)),
        }
    }

    /// Removes a blob, even if a process uses it: readers that have it open keep it. Returns whether
    /// it was there.
    ///
    /// # Errors
    /// [`BlobError::Pinned`], or when the disk refuses.
    pub fn remove(&self, digest: &Digest) -> Result<bool, BlobError> {
        self.directory.remove(digest)
    }

    /// All blobs, by digest.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn list(&self) -> Result<Vec<BlobInfo>, BlobError> {
        self.directory.list()
    }

    /// The bytes of all blobs together, without temporary files.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn bytes_used(&self) -> Result<u64, BlobError> {
        self.directory.bytes_used()
    }

    /// The most bytes that the blobs may take, if there is a bound.
    #[must_use]
    pub fn cache_size(&self) -> Option<u64> {
        self.directory.cache_size
    }

    /// Bytes that this process may still write to the file system.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn bytes_free(&self) -> Result<u64, BlobError> {
        self.directory.bytes_free()
    }

    /// Where a blob's file is, if it is there.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.path(digest)
    }

    /// Everything at the path of a blob, by digest, whether it is one or not.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn entries(&self) -> Result<Vec<BlobEntry>, BlobError> {
        self.directory.entries()
    }

    /// Reads a blob and compares it with its digest, without using or pinning it. A damaged one
    /// is set aside if `is_moving`. `go_on` is called with the number of bytes of each chunk, and
    /// may stop it.
    ///
    /// # Errors
    /// When the disk refuses, or a damaged file cannot be moved.
    pub fn examine(
        &self,
        digest: &Digest,
        is_moving: bool,
        go_on: impl FnMut(u64) -> bool,
    ) -> Result<Examined, BlobError> {
        self.directory
            .examine(digest, is_moving, VERIFY_CHUNK_BYTES, go_on)
    }

    /// Starts to verify all blobs again and again, at so many bytes a second, until the scrubber is
    /// dropped. Of several processes one does it.
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub fn scrub(&self, rate: NonZeroU64) -> Result<Scrubber, BlobError> {
        scrub::start(Arc::clone(&self.directory), rate)
    }

    /// How many blobs this process has evicted since its start.
    pub fn evicted(&self) -> u64 {
        self.directory.evicted.load(Ordering::Relaxed)
    }

    /// What was verified and found since the start.
    pub fn counters(&self) -> BlobCounters {
        self.directory.counters.read()
    }

    /// Has `reclaim` called whenever the disk is short of room, before blobs are evicted for it: it
    /// gives back what it can do without, such as files that are open and not read. It may block on
    /// the disk for a second or so, and must not reserve anything.
    pub fn on_shortage(&self, reclaim: impl Fn() + Send + Sync + 'static) {
        self.directory.reclaimers.add(reclaim);
    }

    /// Reserves `bytes` of the disk that will be written, evicting blobs if it is too full. The
    /// reservation holds within this process, until dropped.
    ///
    /// # Errors
    /// [`BlobError::TooLittleSpace`].
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, BlobError> {
        self.directory.reserve(bytes)
    }
}
