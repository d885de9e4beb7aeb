//! What is counted of verifications.

use std::sync::atomic::{AtomicU64, Ordering};

/// What was verified and found since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlobCounters {
    /// Files that were read to their end.
    pub verified: u64,
    /// Their bytes.
    pub verified_bytes: u64,
    /// Damaged files that were taken away.
    pub damaged: u64,
    /// Files that the scrubber read to their end.
    pub scrubbed: u64,
    /// Bytes that it read.
    pub scrubbed_bytes: u64,
    /// Times that it came to the end of all blobs.
    pub scrub_rounds: u64,
    /// When any process's scrubber last did, in seconds since 1970; 0 if none ever did.
    pub scrub_last_round: u64,
}

/// The live counters behind [`BlobCounters`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    verified: AtomicU64,
    verified_bytes: AtomicU64,
    damaged: AtomicU64,
    scrubbed: AtomicU64,
    scrubbed_bytes: AtomicU64,
    scrub_rounds: AtomicU64,
    scrub_last_round: AtomicU64,
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn verified(&self, bytes: u64) {
        add(&self.verified, 1);
        add(&self.verified_bytes, bytes);
    }

    pub(super) fn damaged(&self) {
        add(&self.damaged, 1);
    }

    pub(super) fn scrubbed(&self) {
        add(&self.scrubbed, 1);
    }

    pub(super) fn scrubbed_bytes(&self, bytes: u64) {
        add(&self.scrubbed_bytes, bytes);
    }

    pub(super) fn round_ended(&self) {
        add(&self.scrub_rounds, 1);
    }

    pub(super) fn last_round(&self, seconds: u64) {
        self.scrub_last_round.store(seconds, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> BlobCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BlobCounters {
            verified: read(&self.verified),
            verified_bytes: read(&self.verified_bytes),
            damaged: read(&self.damaged),
            scrubbed: read(&self.scrubbed),
            scrubbed_bytes: read(&self.scrubbed_bytes),
            scrub_rounds: read(&self.scrub_rounds),
            scrub_last_round: read(&self.scrub_last_round),
        }
    }
}
