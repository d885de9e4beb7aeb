//! What was asked of the upstream.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::oci::Digest;

/// Most requests that are kept one by one.
const MAX_KEPT: usize = 1 << 20;

/// A range of a blob that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The blob.
    pub blob: Digest,
    /// Bytes of the blob.
    pub range: Range<u64>,
    /// When it was asked for, from the start.
    pub at: Duration,
}

/// Requests for ranges of blobs, counted, and kept where that was asked for.
#[derive(Debug)]
pub struct Traffic {
    start: Instant,
    requests: AtomicU64,
    bytes: AtomicU64,
    from_disk: AtomicU64,
    /// `None` where they are only counted.
    kept: Option<Mutex<Vec<Fetched>>>,
}

impl Default for Traffic {
    fn default() -> Self {
        Self::new(false)
    }
}

impl Traffic {
    /// Nothing so far. `keeps_requests` as in [`Reading`](super::Reading).
    pub(super) fn new(keeps_requests: bool) -> Self {
        Self {
            start: Instant::now(),
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            from_disk: AtomicU64::new(0),
            kept: keeps_requests.then(Mutex::default),
        }
    }

    /// Requests so far, those that failed and were made again among them.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Bytes that came.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes that the cache on the disk had.
    #[must_use]
    pub fn from_disk(&self) -> u64 {
        self.from_disk.load(Ordering::Relaxed)
    }

    /// The ranges in the order in which they were asked for; none where they are not kept
    /// ([`Reading::keeps_requests`](super::Reading::keeps_requests)).
    #[must_use]
    pub fn fetched(&self) -> Vec<Fetched> {
        let kept = self.kept.as_ref();
        kept.map_or_else(Vec::new, |kept| kept.lock().clone())
    }

    pub(super) fn asked(&self, blob: &Digest, range: &Range<u64>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let Some(kept) = &self.kept else { return };
        let mut kept = kept.lock();
        if kept.len() < MAX_KEPT {
            kept.push(Fetched {
                blob: blob.clone(),
                range: range.clone(),
                at: self.start.elapsed(),
            });
        }
    }

    pub(super) fn kept(&self, bytes: u64) {
        self.from_disk.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn came(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_kept_only_where_that_is_asked_for() {
        for keeps in [false, true] {
            let traffic = Traffic::new(keeps);
            traffic.asked(&Digest::of(b"one"), &(0..512));
            assert_eq!(traffic.requests(), 1);
            assert_eq!(traffic.fetched().len(), usize::from(keeps));
        }
    }
}
