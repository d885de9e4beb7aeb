//! The directory while it is locked against other threads and processes: sizes, and eviction.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::MutexGuard;

use super::directory::BlobDirectory;
use super::entry::{PathEntry, open_entry};
use super::filesystem::is_linked;
use super::kind;
use super::shards::Shards;
use crate::oci::Digest;
use crate::store::error::BlobError;

/// A blob that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last used; uses by other processes may be known a minute late.
    pub last_use: SystemTime,
    /// Whether it is a copy of what an upstream has, and not made here.
    pub is_copy: bool,
}

impl BlobInfo {
    /// It as the API and `--json` say it: `last_use` in seconds since 1970.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let last_use = self.last_use.duration_since(UNIX_EPOCH).unwrap_or_default();
        serde_json::json!({
            "digest": self.digest.as_str(),
            "size": self.size,
            "last_use": last_use.as_secs(),
            "is_copy": self.is_copy,
        })
    }

    /// By which blobs are evicted, the least first: copies, then what was not used for the longest
    /// time.
    pub fn eviction_order(&self) -> (bool, SystemTime, &Digest) {
        (!self.is_copy, self.last_use, &self.digest)
    }
}

/// The directory while no other thread or process may change it.
pub(super) struct LockedDirectory<'a> {
    pub(super) directory: &'a BlobDirectory,
    shards: MutexGuard<'a, Shards>,
}

impl BlobDirectory {
    /// Locks the directory, and reads what other processes changed in it.
    pub(super) fn lock(&self) -> Result<LockedDirectory<'_>, BlobError> {
        let shards = self.shards.lock();
        shards
            .file
            .lock()
            .map_err(BlobError::io("locking", &self.data_dir))?;
        let mut locked = LockedDirectory {
            directory: self,
            shards,
        };
        locked.shards.refresh(&self.blobs)?;
        Ok(locked)
    }
    pub(super) fn remove(&self, digest: &Digest) -> Result<bool, BlobError> {
        let _locked = self.lock()?;
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Ok(()) => {
                self.uses.lock().remove(digest);
                self.verified.forget(digest);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(BlobError::io("removing", &path)(error)),
        }
    }

    pub(super) fn list(&self) -> Result<Vec<BlobInfo>, BlobError> {
        let mut blobs = self.lock()?.by_digest();
        blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
        Ok(blobs)
    }

    pub(super) fn bytes_used(&self) -> Result<u64, BlobError> {
        Ok(self.lock()?.total())
    }

    pub(super) fn evict(&self) -> Result<u64, BlobError> {
        if self.cache_size.is_none() {
            return Ok(0);
        }
        self.lock()?.make_room(0)
    }
}

impl Drop for LockedDirectory<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.shards.file.unlock() {
            tracing::error!(%error, "the data directory could not be unlocked");
        }
    }
}

impl LockedDirectory<'_> {
    pub(super) fn total(&self) -> u64 {
        self.shards.total()
    }

    pub(super) fn by_digest(&self) -> Vec<BlobInfo> {
        let uses = self.directory.uses.lock();
        let all = self.shards.sizes();
        all.filter_map(|(digest, size)| {
            let metadata = fs::metadata(self.directory.path(digest)).ok()?;
            let modified = metadata.modified().ok()?;
            let exact = uses.get(digest).copied();
            Some(BlobInfo {
                digest: digest.clone(),
                size,
                last_use: exact.map_or(modified, |exact| exact.max(modified)),
                is_copy: kind::is_copy(&metadata),
            })
        })
        .collect()
    }

    /// Evicts until `size` more bytes are within the bound, as far as blobs may be evicted.
    /// Returns the bytes freed.
    pub(super) fn make_room(&mut self, size: u64) -> Result<u64, BlobError> {
        let Some(cache_size) = self.directory.cache_size else {
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

    /// Evicts at least `excess` bytes, copies first, then the least recently used, as far as blobs
    /// may be evicted. Returns the bytes freed. `why` is for the log.
    pub(super) fn evict_bytes(&mut self, excess: u64, why: &str) -> Result<u64, BlobError> {
        let now = SystemTime::now();
        let mut blobs = self.by_digest();
        let there: HashSet<&Digest> = blobs.iter().map(|blob| &blob.digest).collect();
        self.directory
            .uses
            .lock()
            .retain(|digest, _| there.contains(digest));
        self.directory.verified.retain(&there, Duration::MAX);
        blobs.sort_by(|a, b| a.eviction_order().cmp(&b.eviction_order()));
        let mut freed: u64 = 0;
        for blob in blobs {
            if freed >= excess {
                break;
            }
            let age = now.duration_since(blob.last_use).unwrap_or_default();
            // Another process's last use may be recorded up to `grain` late.
            let is_kept =
                !self.directory.keep.is_zero() && age < self.directory.keep + self.directory.grain;
            if is_kept && !blob.is_copy {
                break;
            }
            if self.evict_one(&blob.digest)? {
                freed = freed.saturating_add(blob.size);
                self.directory.evicted.fetch_add(1, Ordering::Relaxed);
                tracing::info!(
                    digest = %blob.digest, bytes = blob.size, unused_for = ?age, why,
                    "a blob was evicted; it is made again when it is requested"
                );
            }
        }
        Ok(freed)
    }

    /// Whether the blob could be evicted; `false` when it is pinned.
    fn evict_one(&mut self, digest: &Digest) -> Result<bool, BlobError> {
        let path = self.directory.path(digest);
        let file = match open_entry(&path)? {
            PathEntry::File(file, _) => file,
            // What is unusable is set aside when it is opened or scrubbed.
            PathEntry::Missing | PathEntry::Unusable(..) => return Ok(false),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(false),
            Err(fs::TryLockError::Error(error)) => {
                return Err(BlobError::io("locking", &path)(error));
            }
        }
        if !is_linked(&file, &path)? || self.directory.pins.is_pinned(digest) {
            return Ok(false);
        }
        fs::remove_file(&path).map_err(BlobError::io("evicting", &path))?;
        self.forget(digest);
        self.directory.uses.lock().remove(digest);
        self.directory.verified.forget(digest);
        Ok(true)
    }

    /// Forgets a file that is no longer there.
    pub(super) fn forget(&mut self, digest: &Digest) {
        let path = self.directory.path(digest);
        self.shards.remove(digest, &path);
    }
}
