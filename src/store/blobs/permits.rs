//! Permits for verifications, which read whole files: one at a time for each blob, and a bounded
//! number in all.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use crate::oci::Digest;

/// Permits to verify blobs.
#[derive(Debug)]
pub(super) struct VerificationPermits {
    /// The blobs that are being verified.
    held: Mutex<HashSet<Digest>>,
    max: usize,
    /// Wakes the threads that wait for a permit.
    released: Condvar,
    /// Wakes the tasks that wait for a permit.
    released_async: Notify,
}

/// The permit to verify one blob, until dropped.
#[derive(Debug)]
pub(super) struct VerificationPermit {
    permits: Arc<VerificationPermits>,
    digest: Digest,
}

impl VerificationPermits {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            held: Mutex::default(),
            max: max.max(1),
            released: Condvar::new(),
            released_async: Notify::new(),
        })
    }

    fn try_acquire(
        self: &Arc<Self>,
        held: &mut HashSet<Digest>,
        digest: &Digest,
    ) -> Option<VerificationPermit> {
        if held.len() >= self.max || !held.insert(digest.clone()) {
            return None;
        }
        Some(VerificationPermit {
            permits: Arc::clone(self),
            digest: digest.clone(),
        })
    }

    /// Waits for the permit of a blob, in a thread that may block.
    pub(super) fn acquire(self: &Arc<Self>, digest: &Digest) -> VerificationPermit {
        let mut held = self.held.lock();
        loop {
            if let Some(permit) = self.try_acquire(&mut held, digest) {
                return permit;
            }
            self.released.wait(&mut held);
        }
    }

    /// Waits for the permit of a blob, in a task.
    pub(super) async fn acquire_async(self: &Arc<Self>, digest: &Digest) -> VerificationPermit {
        loop {
            let released = self.released_async.notified();
            tokio::pin!(released);
            // From here on no release is missed.
            released.as_mut().enable();
            if let Some(permit) = self.try_acquire(&mut self.held.lock(), digest) {
                return permit;
            }
            released.await;
        }
    }
}

impl Drop for VerificationPermit {
    fn drop(&mut self) {
        self.permits.held.lock().remove(&self.digest);
        self.permits.released.notify_all();
        self.permits.released_async.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Permits in use, in all and for each blob.
    #[derive(Default)]
    struct InUse {
        all: AtomicUsize,
        each: [AtomicUsize; 3],
    }

    impl InUse {
        fn work(&self, permit: VerificationPermit, blob: usize) {
            assert!(self.all.fetch_add(1, Ordering::SeqCst) < 2);
            assert!(self.each[blob].fetch_add(1, Ordering::SeqCst) < 1);
            std::thread::yield_now();
            self.each[blob].fetch_sub(1, Ordering::SeqCst);
            self.all.fetch_sub(1, Ordering::SeqCst);
            drop(permit);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn permits_are_bounded_in_all_and_to_one_for_each_blob() {
        let permits = VerificationPermits::new(2);
        let in_use = Arc::new(InUse::default());
        let digests = [b"a", b"b", b"c"].map(|text| Digest::of(text));
        let mut tasks = Vec::new();
        for n in 0..200 {
            let (permits, digest) = (Arc::clone(&permits), digests[n % 3].clone());
            let in_use = Arc::clone(&in_use);
            tasks.push(if n % 2 == 0 {
                tokio::task::spawn_blocking(move || in_use.work(permits.acquire(&digest), n % 3))
            } else {
                tokio::spawn(async move {
                    in_use.work(permits.acquire_async(&digest).await, n % 3);
                })
            });
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert!(permits.held.lock().is_empty());
    }
}
