//! The directory while it is locked against other threads and processes, and what is in it.

use std::fs;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::MutexGuard;

use super::directory::BlobDirectory;
use super::kind;
use super::pin_files::PinTable;
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
    /// Whether it is pinned until it is unpinned.
    pub is_pinned: bool,
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
            "is_pinned": self.is_pinned,
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
    pub(super) shards: MutexGuard<'a, Shards>,
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
        if let Some(by) = self.pin_files.read()?.pin_of(digest) {
            return Err(BlobError::Pinned {
                digest: digest.clone(),
                by: by.clone(),
            });
        }
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
        let locked = self.lock()?;
        let pins = self.pin_files.read()?;
        let mut blobs = locked.by_digest(&pins, |_| true);
        drop(locked);
        blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
        Ok(blobs)
    }

    pub(super) fn bytes_used(&self) -> Result<u64, BlobError> {
        Ok(self.lock()?.total())
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

    /// Bytes of a blob, if it is there.
    pub(super) fn size_of(&self, digest: &Digest) -> Option<u64> {
        self.shards.size(digest, &self.directory.path(digest))
    }

    /// Those blobs that are wanted, in no order.
    pub(super) fn by_digest(
        &self,
        pins: &PinTable,
        is_wanted: impl Fn(&Digest) -> bool,
    ) -> Vec<BlobInfo> {
        let uses = self.directory.uses.lock();
        let all = self.shards.sizes().filter(|(digest, _)| is_wanted(digest));
        all.filter_map(|(digest, size)| {
            let metadata = fs::metadata(self.directory.path(digest)).ok()?;
            let modified = metadata.modified().ok()?;
            let exact = uses.get(digest).copied();
            Some(BlobInfo {
                digest: digest.clone(),
                size,
                last_use: exact.map_or(modified, |exact| exact.max(modified)),
                is_copy: kind::is_copy(&metadata),
                is_pinned: pins.blobs.contains(digest),
            })
        })
        .collect()
    }

    /// Forgets a file that is no longer there.
    pub(super) fn forget(&mut self, digest: &Digest) {
        let path = self.directory.path(digest);
        self.shards.remove(digest, &path);
    }
}
