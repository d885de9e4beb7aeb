//! Verifications read whole files: one at a time for each blob, and a bounded number in all.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use crate::oci::Digest;

/// Who verifies which blob.
#[derive(Debug)]
pub(super) struct Gate {
    inside: Mutex<HashSet<Digest>>,
    most: usize,
    /// Told when one leaves: those who wait in threads, and those who wait in tasks.
    left: Condvar,
    left_async: Notify,
}

/// The right to verify one blob, until dropped.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Arc<Gate>,
    digest: Digest,
}

impl Gate {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            inside: Mutex::default(),
            most: most.max(1),
            left: Condvar::new(),
            left_async: Notify::new(),
        })
    }

    fn admit(self: &Arc<Self>, inside: &mut HashSet<Digest>, digest: &Digest) -> Option<Pass> {
        if inside.len() >= self.most || !inside.insert(digest.clone()) {
            return None;
        }
        Some(Pass {
            gate: Arc::clone(self),
            digest: digest.clone(),
        })
    }

    /// Waits for the turn of a blob, in a thread that may wait.
    pub(super) fn enter(self: &Arc<Self>, digest: &Digest) -> Pass {
        let mut inside = self.inside.lock();
        loop {
            if let Some(pass) = self.admit(&mut inside, digest) {
                return pass;
            }
            self.left.wait(&mut inside);
        }
    }

    /// Waits for the turn of a blob, in a task.
    pub(super) async fn enter_async(self: &Arc<Self>, digest: &Digest) -> Pass {
        loop {
            let left = self.left_async.notified();
            tokio::pin!(left);
            // From here on nobody leaves unnoticed.
            left.as_mut().enable();
            if let Some(pass) = self.admit(&mut self.inside.lock(), digest) {
                return pass;
            }
            left.await;
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.inside.lock().remove(&self.digest);
        self.gate.left.notify_all();
        self.gate.left_async.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// How many are inside, in all and for each blob.
    #[derive(Default)]
    struct Inside {
        all: AtomicUsize,
        each: [AtomicUsize; 3],
    }

    impl Inside {
        fn work(&self, pass: Pass, place: usize) {
            assert!(self.all.fetch_add(1, Ordering::SeqCst) < 2);
            assert!(self.each[place].fetch_add(1, Ordering::SeqCst) < 1);
            std::thread::yield_now();
            self.each[place].fetch_sub(1, Ordering::SeqCst);
            self.all.fetch_sub(1, Ordering::SeqCst);
            drop(pass);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn no_more_are_inside_than_may_be_and_none_of_one_blob_twice() {
        let gate = Gate::new(2);
        let inside = Arc::new(Inside::default());
        let digests = [b"a", b"b", b"c"].map(|text| Digest::of(text));
        let mut tasks = Vec::new();
        for n in 0..200 {
            let (gate, digest) = (Arc::clone(&gate), digests[n % 3].clone());
            let inside = Arc::clone(&inside);
            tasks.push(if n % 2 == 0 {
                tokio::task::spawn_blocking(move || inside.work(gate.enter(&digest), n % 3))
            } else {
                tokio::spawn(async move {
                    inside.work(gate.enter_async(&digest).await, n % 3);
                })
            });
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert!(gate.inside.lock().is_empty());
    }
}
