//! Evicts blobs, so that the bound holds, or the disk has room.

use std::collections::HashSet;
use std::fs;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::directory::BlobDirectory;
use super::entry::{PathEntry, open_entry};
use super::filesystem::is_linked;
use super::locked::{BlobInfo, LockedDirectory};
use super::shards::Over;
use super::store::BlobStore;
use crate::oci::Digest;
use crate::store::error::BlobError;

/// What is spared besides what is in use and what is pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spared {
    /// What was used within `keep`.
    UsedLately,
    Nothing,
}

impl BlobStore {
    /// Evicts until the bound holds, as each commit does: for a bound that was lowered, or blobs
    /// whose `keep` has passed. Returns the bytes freed.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn evict(&self) -> Result<u64, BlobError> {
        self.directory().evict()
    }

    /// Evicts until the blobs have at most so many bytes, as far as they may be evicted: also what
    /// was used within `keep`, and nothing that is in use or pinned. Returns what was evicted.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn evict_to(&self, most: u64) -> Result<Vec<BlobInfo>, BlobError> {
        let mut locked = self.directory().lock()?;
        let excess = locked.total().saturating_sub(most);
        locked.evict_bytes(excess, "an operator asked for it", Spared::Nothing)
    }

    /// What [`evict_to`](Self::evict_to) would evict if nothing is in use.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn planned_evictions(&self, most: u64) -> Result<Vec<BlobInfo>, BlobError> {
        let locked = self.directory().lock()?;
        let excess = locked.total().saturating_sub(most);
        Ok(planned(locked.candidates()?, excess))
    }
}

/// Those of the blobs, in the order of their eviction, that have so many bytes.
fn planned(blobs: Vec<BlobInfo>, mut excess: u64) -> Vec<BlobInfo> {
    let needed = blobs.into_iter().take_while(|blob| {
        let is_needed = excess > 0;
        excess = excess.saturating_sub(blob.size);
        is_needed
    });
    needed.collect()
}

impl BlobDirectory {
    fn evict(&self) -> Result<u64, BlobError> {
        if self.cache_size.is_none() {
            return Ok(0);
        }
        self.lock()?.make_room(0)
    }
}

impl LockedDirectory<'_> {
    /// Evicts until `size` more bytes are within the bound, as far as blobs may be evicted.
    /// Returns the bytes freed.
    pub(super) fn make_room(&mut self, size: u64) -> Result<u64, BlobError> {
        let Some(cache_size) = self.directory.cache_size else {
            return Ok(0);
        };
        let total = self.total();
        let excess = total.saturating_add(size).saturating_sub(cache_size);
        let freed = if excess > 0 {
            let why = "the blobs exceed the cache size";
            bytes_of(&self.evict_bytes(excess, why, Spared::UsedLately)?)
        } else {
            0
        };
        let bytes = total.saturating_add(size).saturating_sub(freed);
        self.tell_if_over(cache_size, bytes)?;
        Ok(freed)
    }

    /// Logs why the bound does not hold, once.
    fn tell_if_over(&mut self, cache_size: u64, bytes: u64) -> Result<(), BlobError> {
        if bytes <= cache_size {
            self.shards.over = None;
            return Ok(());
        }
        let pins = self.directory.pin_files.read()?;
        let pinned = self.pinned_use(&pins);
        let over = if pinned.bytes > cache_size {
            Over::Pinned
        } else {
            Over::InUse
        };
        if self.shards.over.replace(over) == Some(over) {
            return Ok(());
        }
        match over {
            Over::InUse => tracing::warn!(
                cache_size,
                bytes,
                "the blobs exceed the cache size: the others are in use, pinned, or were within \
                 --keep"
            ),
            Over::Pinned => tracing::warn!(
                cache_size,
                bytes,
                pinned_bytes = pinned.bytes,
                pinned_blobs = pinned.blobs,
                "the pinned blobs alone exceed the cache size, and all others go as soon as they \
                 may: unpin some (`overlaybd-proxy cache unpin`), or raise --cache-size"
            ),
        }
        Ok(())
    }

    /// What may be evicted if it is not in use, what goes first at the front.
    fn candidates(&self) -> Result<Vec<BlobInfo>, BlobError> {
        let pins = self.directory.pin_files.read()?;
        let mut blobs = self.by_digest(&pins, |digest| !pins.blobs.contains(digest));
        blobs.sort_by(|a, b| a.eviction_order().cmp(&b.eviction_order()));
        Ok(blobs)
    }

    /// Bytes of all blobs that are not pinned until they are unpinned.
    pub(super) fn unpinned_bytes(&self) -> Result<u64, BlobError> {
        let pins = self.directory.pin_files.read()?;
        Ok(self.total().saturating_sub(self.pinned_use(&pins).bytes))
    }

    /// Evicts at least `excess` bytes, copies first, then the least recently used, as far as blobs
    /// may be evicted. `why` is for the log.
    pub(super) fn evict_bytes(
        &mut self,
        excess: u64,
        why: &str,
        spared: Spared,
    ) -> Result<Vec<BlobInfo>, BlobError> {
        let now = SystemTime::now();
        let there: HashSet<&Digest> = self.shards.sizes().map(|(digest, _)| digest).collect();
        let mut uses = self.directory.uses.lock();
        uses.retain(|digest, _| there.contains(digest));
        drop(uses);
        self.directory.verified.retain(&there, Duration::MAX);
        let (mut evicted, mut freed) = (Vec::new(), 0_u64);
        for blob in self.candidates()? {
            if freed >= excess {
                break;
            }
            let age = now.duration_since(blob.last_use).unwrap_or_default();
            // Another process's last use may be recorded up to `grain` late.
            let is_kept = spared == Spared::UsedLately
                && !self.directory.keep.is_zero()
                && age < self.directory.keep + self.directory.grain;
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
                evicted.push(blob);
            }
        }
        Ok(evicted)
    }

    /// Whether the blob could be evicted; `false` when a process uses it.
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
}

/// The bytes of some blobs together.
pub(super) fn bytes_of(blobs: &[BlobInfo]) -> u64 {
    let sizes = blobs.iter().map(|blob| blob.size);
    sizes.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_blobs_are_planned_as_the_excess_needs() {
        let blob = |name: &[u8]| BlobInfo {
            digest: Digest::of(name),
            size: 10,
            last_use: SystemTime::UNIX_EPOCH,
            is_copy: false,
            is_pinned: false,
        };
        let blobs = || vec![blob(b"first"), blob(b"second"), blob(b"third")];
        let count = |excess| planned(blobs(), excess).len();
        assert_eq!([0, 1, 10, 11, 99].map(count), [0, 1, 1, 2, 3]);
        assert_eq!(planned(blobs(), 1)[0].digest, Digest::of(b"first"));
    }
}
