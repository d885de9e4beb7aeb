//! The store: the index, the blob directory, and the object storage that replicas share.
//!
//! A blob is durable before a row names it. A row may outlive its blob, because an evicted blob is
//! rebuilt or fetched again with the same bytes. Several processes may share one data directory:
//! they exclude each other by `flock`, which ends with the process.

pub mod blobs;
mod directory_lock;
mod error;
pub mod index;
pub mod objects;
mod shortage;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use parking_lot::Mutex;

pub use blobs::{
    Aside, BlobCounters, BlobEntry, BlobFile, BlobInfo, BlobPin, BlobStore, Damage, Examined, Pin,
    PinnedUse, Reservation, Scrubber, SharedBlob, Survey, SurveyCounts, TempBlob, finding,
};
pub use error::{BlobError, IndexError, StoreError};
pub use index::{
    Acquired, BuiltManifest, Dsn, ImageFilter, ImageOrder, ImagePosition, ImageRecord, ImageRows,
    Index, LayerRow, Lease, LeaseKeeper, ManifestKey, ManifestRow, MysqlConfig, Origin, PartsOf,
    RecordedImage, SharedLayer,
};
pub use objects::{
    BucketAddress, BucketSurvey, ObjectCounters, ObjectError, ObjectInfo, Objects, ObjectsConfig,
    SeenObject,
};
pub use shortage::Shortage;

use crate::oci::Digest;
use directory_lock::DirectoryLock;
use index::MAX_IMAGES;

/// How long a process that ends waits for the index.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes that the index needs for the rows of a conversion, generously.
const INDEX_ROOM: u64 = 256 << 10;

/// Most blobs that the object storage is asked for at one time.
const QUESTIONS_AT_A_TIME: usize = 8;
/// Most blobs that the object storage is asked for in one sweep.
const MAX_SWEPT: usize = 256;

/// Where the index lives.
#[derive(Debug, Clone)]
pub enum IndexConfig {
    /// `index.sqlite` in the data directory.
    Sqlite,
    /// A `MySQL` or `MariaDB` server.
    Mysql(Box<MysqlConfig>),
}

/// The bound of the blob cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheSize {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the file system that holds the data directory.
    Percent(u8),
    /// No bound.
    Unbounded,
}

/// The settings of a store.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The directory of everything that is kept; created when it is missing.
    pub data_dir: PathBuf,
    /// Where the index lives.
    pub index: IndexConfig,
    /// The bound of the blob cache.
    pub cache_size: CacheSize,
    /// How long after its last use a blob is safe from eviction.
    pub keep: Duration,
    /// The object storage that has all converted blobs, if there is one.
    pub objects: Option<ObjectsConfig>,
}

impl CacheSize {
    /// The bound in bytes, for a data directory that is there.
    fn bytes(self, data_dir: &Path) -> Result<Option<u64>, BlobError> {
        Ok(match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Percent(percent) => {
                let whole = blobs::disk_space(data_dir)?.size;
                let bytes = (whole / 100).saturating_mul(percent.into());
                tracing::info!(
                    bytes,
                    percent,
                    "the blob cache takes at most this part of its file system (--cache-size)"
                );
                Some(bytes)
            }
            Self::Unbounded => None,
        })
    }
}

/// The index and the blobs. Cheap to clone; the clones are one store.
#[derive(Debug, Clone)]
pub struct Store {
    blobs: BlobStore,
    objects: Option<Objects>,
    index: Index,
    lock: Arc<DirectoryLock>,
}

/// Digests picked at random, so that each has its turn: at most [`MAX_SWEPT`].
#[derive(Debug, Default)]
struct Sample {
    digests: Vec<Digest>,
    seen: usize,
}

impl Sample {
    fn add(&mut self, digest: &Digest) {
        self.seen += 1;
        if self.digests.len() < MAX_SWEPT {
            self.digests.push(digest.clone());
        } else if let Some(place) = self.digests.get_mut(rand::random_range(0..self.seen)) {
            digest.clone_into(place);
        }
    }
}

impl Store {
    /// Opens the data directory and the index, creating what is missing, and removes the temporary
    /// files and leases of processes that ended. Where a disk is full or read-only, what is there
    /// is opened for reading.
    ///
    /// # Errors
    /// When the directory cannot be used, was written by a later version, or the index
    /// cannot be opened.
    pub async fn open(config: StoreConfig) -> Result<Self, StoreError> {
        let StoreConfig {
            data_dir,
            index,
            cache_size,
            keep,
            objects,
        } = config;
        let directory = data_dir.clone();
        let (blobs, lock, stale) = tokio::task::spawn_blocking(move || {
            blobs::create_directory(&directory)?;
            let cache_size = cache_size.bytes(&directory)?;
            let blobs = BlobStore::at(&directory, cache_size, keep)?;
            let lock = DirectoryLock::acquire(&directory)?;
            let stale = DirectoryLock::stale(&directory)?;
            Ok::<_, BlobError>((blobs, lock, stale))
        })
        .await
        .map_err(|panic| StoreError::Interrupted(panic.to_string()))??;
        let index = match index {
            IndexConfig::Sqlite => Index::sqlite(data_dir.join("index.sqlite")).await?,
            IndexConfig::Mysql(config) => Index::mysql(*config).await?,
        };
        let shrinking = index.clone();
        blobs.on_shortage(move || shrinking.shrink());
        for dead in stale {
            match index.release_all(dead.name()).await {
                Ok(0) => {}
                Ok(leases) => tracing::info!(
                    holder = dead.name(),
                    leases,
                    "a dead process's leases are free"
                ),
                // They expire, and the next process to start cleans up.
                Err(error) if error.is_no_space() => {
                    tracing::warn!(%error, "a dead process's leases stay");
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            dead.remove();
        }
        let objects = objects.map(|config| Objects::open(&config, blobs.clone()));
        Ok(Self {
            objects: objects.transpose()?,
            blobs,
            index,
            lock: Arc::new(lock),
        })
    }

    /// The blob directory.
    pub fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    /// The object storage, if there is one.
    pub fn objects(&self) -> Option<&Objects> {
        self.objects.as_ref()
    }

    /// Has these blobs of the blob directory in the object storage, if there is one, before rows
    /// name them; see [`Objects::publish`].
    pub async fn publish(&self, digests: &[Digest]) {
        if let Some(objects) = &self.objects {
            objects.publish(digests).await;
        }
    }

    /// Brings a blob that is not in the blob directory there, if the object storage has it: whether
    /// it is there now.
    pub async fn fetch(&self, digest: &Digest) -> bool {
        match &self.objects {
            Some(objects) => objects.fetch(digest).await,
            None => false,
        }
    }

    /// Whether the object storage has a blob that is not in the blob directory.
    pub async fn is_in_bucket(&self, digest: &Digest) -> bool {
        match &self.objects {
            Some(objects) => objects.has(digest).await,
            None => false,
        }
    }

    /// Those of some blobs that are not in the blob directory which the object storage has not
    /// either.
    pub async fn missing_in_bucket(&self, digests: Vec<Digest>) -> Vec<Digest> {
        let Some(objects) = &self.objects else {
            return digests;
        };
        let asked = digests.into_iter().map(|digest| async move {
            let is_there = objects.has(&digest).await;
            (!is_there).then_some(digest)
        });
        let asked = futures_util::stream::iter(asked).buffered(QUESTIONS_AT_A_TIME);
        asked.filter_map(std::future::ready).collect().await
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The name under which this process holds leases. It is unique.
    pub fn holder(&self) -> &str {
        self.lock.name()
    }

    /// Tries to acquire the lease of `name` (a chain-id and the settings), until it is released or
    /// `ttl` after the last heartbeat. On a full disk, blobs are evicted for it.
    ///
    /// # Errors
    /// As [`Index::acquire`].
    pub async fn acquire(&self, name: &str, ttl: Duration) -> Result<Acquired, IndexError> {
        let acquired = self.index.acquire(name, self.holder(), ttl).await;
        if !acquired.as_ref().is_err_and(IndexError::is_no_space) {
            return acquired;
        }
        let blobs = self.blobs.clone();
        let room = tokio::task::spawn_blocking(move || blobs.reserve(INDEX_ROOM));
        match room.await {
            Ok(Ok(room)) => drop(room),
            _ => return acquired,
        }
        self.index.acquire(name, self.holder(), ttl).await
    }

    /// Deletes the rows of the index about blobs that were evicted, which are of no use without
    /// them. Returns the number of rows. With an object storage, where evicted blobs are, those are
    /// deleted whose blob is not there either; it is asked for some at a time, picked at random.
    ///
    /// # Errors
    /// When the index does not answer.
    pub async fn sweep(&self) -> Result<u64, IndexError> {
        let blobs = self.blobs.clone();
        // On an error, the blob may be there.
        let is_there = move |digest: &Digest| blobs.contains(digest).unwrap_or(true);
        let Some(objects) = &self.objects else {
            return self.index.sweep(is_there).await;
        };
        let evicted: Arc<Mutex<Sample>> = Arc::default();
        let (found, is_here) = (Arc::clone(&evicted), is_there.clone());
        let note = move |digest: &Digest| {
            if !is_here(digest) {
                found.lock().add(digest);
            }
            // Nothing is deleted yet.
            true
        };
        self.index.sweep(note).await?;
        let evicted = std::mem::take(&mut *evicted.lock()).digests;
        let absent: HashSet<Digest> = objects.absent(evicted).await.into_iter().collect();
        if absent.is_empty() {
            return Ok(0);
        }
        let absent = Arc::new(absent);
        let is_kept = move |digest: &Digest| !absent.contains(digest) || is_there(digest);
        self.index.sweep(is_kept).await
    }

    /// Forgets of the images that were converted those that are too many, the oldest first: for
    /// operators, who are shown them. Returns their number.
    ///
    /// # Errors
    /// When the index does not answer.
    pub async fn trim_images(&self) -> Result<u64, IndexError> {
        self.index.trim_images(MAX_IMAGES).await
    }

    /// Leaves nothing of what this process, which is ending, was in the middle of: neither temporary
    /// files nor leases.
    pub async fn abandon_unfinished(&self) {
        // Not on another thread: all of those may be busy, with what is given up here.
        self.blobs.abandon_temporary_files();
        self.release_leases().await;
    }

    /// Releases the leases of this process, which ends, so that other processes need not wait for
    /// them to expire. A failure is logged.
    pub async fn release_leases(&self) {
        let released = self.index.release_all(self.holder());
        match tokio::time::timeout(RELEASE_TIMEOUT, released).await {
            Ok(Ok(0)) => {}
            Ok(Ok(leases)) => tracing::info!(leases, "gave back the leases of what was cut off"),
            Ok(Err(error)) => tracing::warn!(%error, "the leases run out by themselves"),
            Err(_) => tracing::warn!("the index does not answer: the leases run out by themselves"),
        }
    }
}
