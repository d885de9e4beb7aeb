//! Locks of blobs that are being uploaded: one upload of each at a time.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::oci::Digest;

/// A lock for each blob that is uploaded or waits for that, as long as somebody has it.
#[derive(Debug, Default)]
pub(super) struct Uploading(Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>);

impl Uploading {
    /// The lock of a blob.
    pub(super) fn lock_of(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.0.lock();
        if let Some(lock) = all.get(digest).and_then(Weak::upgrade) {
            return lock;
        }
        all.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        all.insert(digest.clone(), Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_have_locks_of_their_own() {
        let uploading = Uploading::default();
        let digests: Vec<_> = (0..100_u8).map(|byte| Digest::of(&[byte])).collect();
        let locks: Vec<_> = digests.iter().map(|one| uploading.lock_of(one)).collect();
        let held = locks.iter().map(|lock| lock.try_lock());
        assert!(held.collect::<Result<Vec<_>, _>>().is_ok());
        assert!(Arc::ptr_eq(&locks[7], &uploading.lock_of(&digests[7])));
        drop(locks);
        let _lock = uploading.lock_of(&digests[0]);
        assert_eq!(uploading.0.lock().len(), 1);
    }
}
