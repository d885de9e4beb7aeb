//! The directory while no other thread or process may change it: sizes, and eviction.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use parking_lot::MutexGuard;

use super::shelf::Shelf;
use super::verify::{Place, open_place};
use super::{BlobInfo, is_linked};
use crate::oci::Digest;
use crate::store::BlobError;

/// Within this long of its change, a directory may change again without its time telling.
const UNSETTLED: Duration = Duration::from_secs(2);

/// What is known of the directories; refreshed from the disk under the lock.
#[derive(Debug)]
pub(super) struct Shards {
    /// Its lock orders the commits and evictions of all processes.
    lock: File,
    known: HashMap<PathBuf, Shard>,
    /// Whether the bound was broken when last looked at: said once, not at every commit.
    is_over: bool,
}

#[derive(Debug)]
struct Shard {
    modified: Option<SystemTime>,
    is_settled: bool,
    sizes: HashMap<Digest, u64>,
}

/// The shelf while no other thread or process may change it.
pub(super) struct Held<'a> {
    pub(super) shelf: &'a Shelf,
    shards: MutexGuard<'a, Shards>,
}

impl Shards {
    /// Nothing is known yet; `lock` is the file whose lock orders all changes.
    pub(super) fn new(lock: File) -> Self {
        Self {
            lock,
            known: HashMap::new(),
            is_over: false,
        }
    }
}

impl Shelf {
    pub(super) fn hold(&self) -> Result<Held<'_>, BlobError> {
        let shards = self.shards.lock();
        shards
            .lock
            .lock()
            .map_err(BlobError::io("locking", &self.data_dir))?;
        let mut held = Held {
            shelf: self,
            shards,
        };
        held.refresh()?;
        Ok(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.shards.lock.unlock() {
            tracing::error!(%error, "the data directory could not be unlocked");
        }
    }
}

impl Held<'_> {
    /// Reads the directories that changed, by whatever process, since they were last read.
    fn refresh(&mut self) -> Result<(), BlobError> {
        let now = SystemTime::now();
        let mut present = HashSet::new();
        for algorithm in ["sha256", "sha512"] {
            let directory = self.shelf.blobs.join(algorithm);
            let entries = fs::read_dir(&directory).map_err(BlobError::io("listing", &directory))?;
            for entry in entries {
                let path = entry.map_err(BlobError::io("listing", &directory))?.path();
                let metadata =
                    fs::symlink_metadata(&path).map_err(BlobError::io("examining", &path))?;
                if !metadata.is_dir() {
                    continue;
                }
                let modified = metadata.modified().ok();
                present.insert(path.clone());
                if let Some(known) = self.shards.known.get(&path)
                    && known.is_settled
                    && known.modified == modified
                {
                    continue;
                }
                let age = modified.and_then(|modified| now.duration_since(modified).ok());
                let sizes = read_shard(&path, algorithm)?;
                let shard = Shard {
                    modified,
                    is_settled: age.is_some_and(|age| age > UNSETTLED),
                    sizes,
                };
                self.shards.known.insert(path, shard);
            }
        }
        self.shards.known.retain(|path, _| present.contains(path));
        Ok(())
    }

    pub(super) fn total(&self) -> u64 {
        let sizes = self.shards.known.values().flat_map(|s| s.sizes.values());
        sizes.fold(0, |sum: u64, size| sum.saturating_add(*size))
    }

    pub(super) fn by_digest(&self) -> Vec<BlobInfo> {
        let uses = self.shelf.uses.lock();
        let all = self.shards.known.values().flat_map(|shard| &shard.sizes);
        all.filter_map(|(digest, &size)| {
            let modified = fs::metadata(self.shelf.path(digest))
                .ok()?
                .modified()
                .ok()?;
            let exact = uses.get(digest).copied();
            Some(BlobInfo {
                digest: digest.clone(),
                size,
                last_use: exact.map_or(modified, |exact| exact.max(modified)),
            })
        })
        .collect()
    }

    /// Evicts until `size` more bytes keep within the bound, as far as that may be; gives the
    /// bytes freed.
    pub(super) fn make_room(&mut self, size: u64) -> Result<u64, BlobError> {
        let Some(cache_size) = self.shelf.cache_size else {
            return Ok(0);
        };
        let total = self.total();
        let excess = total.saturating_add(size).saturating_sub(cache_size);
        let freed = if excess > 0 {
            self.evict_bytes(excess, "the blobs exceed the cache size")?
        } else {
            0
        };
        let is_over = freed < excess;
        if is_over && !self.shards.is_over {
            tracing::warn!(
                cache_size,
                bytes = total.saturating_add(size).saturating_sub(freed),
                "the blobs exceed the cache size: the others are in use, or were within --keep"
            );
        }
        self.shards.is_over = is_over;
        Ok(freed)
    }

    /// Evicts at least `excess` bytes, least recently used first, of what may go; gives the
    /// bytes freed. `why` is for the log.
    pub(super) fn evict_bytes(&mut self, excess: u64, why: &str) -> Result<u64, BlobError> {
        let now = SystemTime::now();
        let mut blobs = self.by_digest();
        let there: HashSet<&Digest> = blobs.iter().map(|blob| &blob.digest).collect();
        self.shelf
            .uses
            .lock()
            .retain(|digest, _| there.contains(digest));
        self.shelf.known.retain(&there, Duration::MAX);
        blobs.sort_by(|a, b| (a.last_use, &a.digest).cmp(&(b.last_use, &b.digest)));
        let mut freed: u64 = 0;
        for blob in blobs {
            if freed >= excess {
                break;
            }
            let age = now.duration_since(blob.last_use).unwrap_or_default();
            // Another process's last use may be written down up to `grain` late.
            if !self.shelf.keep.is_zero() && age < self.shelf.keep + self.shelf.grain {
                break;
            }
            if self.evict_one(&blob.digest)? {
                freed = freed.saturating_add(blob.size);
                self.shelf.evicted.fetch_add(1, Ordering::Relaxed);
                tracing::info!(
                    digest = %blob.digest, bytes = blob.size, unused_for = ?age, why,
                    "a blob was evicted; it is made again when it is asked for"
                );
            }
        }
        Ok(freed)
    }

    /// Whether the blob could be evicted; `false` when it is pinned.
    fn evict_one(&mut self, digest: &Digest) -> Result<bool, BlobError> {
        let path = self.shelf.path(digest);
        let file = match open_place(&path)? {
            Place::File(file, _) => file,
            // What is unusable goes when it is asked for, or the scrubber comes to it.
            Place::Empty | Place::Unusable(..) => return Ok(false),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(false),
            Err(fs::TryLockError::Error(error)) => {
                return Err(BlobError::io("locking", &path)(error));
            }
        }
        if !is_linked(&file, &path)? || self.shelf.pins.has(digest) {
            return Ok(false);
        }
        fs::remove_file(&path).map_err(BlobError::io("evicting", &path))?;
        self.forget(digest);
        self.shelf.uses.lock().remove(digest);
        self.shelf.known.forget(digest);
        Ok(true)
    }

    /// Forgets a file that is no longer there.
    pub(super) fn forget(&mut self, digest: &Digest) {
        let path = self.shelf.path(digest);
        if let Some(shard) = path.parent().and_then(|p| self.shards.known.get_mut(p)) {
            shard.sizes.remove(digest);
            shard.is_settled = false;
        }
    }
}

fn read_shard(path: &Path, algorithm: &str) -> Result<HashMap<Digest, u64>, BlobError> {
    let mut sizes = HashMap::new();
    for entry in fs::read_dir(path).map_err(BlobError::io("listing", path))? {
        let entry = entry.map_err(BlobError::io("listing", path))?;
        let name = entry.file_name();
        let digest = name
            .to_str()
            .and_then(|hex| format!("{algorithm}:{hex}").parse().ok());
        let Some(digest) = digest else {
            continue;
        };
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => {
                sizes.insert(digest, metadata.len());
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(BlobError::io("examining", &entry.path())(error)),
        }
    }
    Ok(sizes)
}
