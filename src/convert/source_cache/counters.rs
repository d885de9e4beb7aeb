//! What became of the requests that the cache could be of use for.

use std::sync::atomic::{AtomicU64, Ordering};

/// What became of a request for a source manifest or blob, or of a conversion's need for a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheOutcome {
    /// It was in the store.
    Hit,
    /// It was being downloaded for another.
    Joined,
    /// It was downloaded for this one, and is kept.
    Filled,
    /// It was passed through, and is not kept.
    Passed,
}

/// How often something became of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheCount {
    /// What became of them.
    pub outcome: CacheOutcome,
    /// Their number.
    pub times: u64,
    /// The bytes of the answers, as far as their heads tell.
    pub bytes: u64,
}

impl CacheOutcome {
    const ALL: [Self; 4] = [Self::Hit, Self::Joined, Self::Filled, Self::Passed];

    /// As metrics and headers have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Joined => "joined",
            Self::Filled => "filled",
            Self::Passed => "passed",
        }
    }
}

/// The live counters behind [`CacheCount`].
#[derive(Debug, Default)]
pub(super) struct Counters([Counter; CacheOutcome::ALL.len()]);

#[derive(Debug, Default)]
struct Counter {
    times: AtomicU64,
    bytes: AtomicU64,
}

impl Counters {
    pub(super) fn count(&self, outcome: CacheOutcome, bytes: u64) {
        if let Some(counter) = self.0.get(outcome as usize) {
            counter.times.fetch_add(1, Ordering::Relaxed);
            counter.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    pub(super) fn read(&self) -> [CacheCount; CacheOutcome::ALL.len()] {
        CacheOutcome::ALL.map(|outcome| {
            let counter = self.0.get(outcome as usize);
            let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            CacheCount {
                outcome,
                times: counter.map_or(0, |counter| read(&counter.times)),
                bytes: counter.map_or(0, |counter| read(&counter.bytes)),
            }
        })
    }
}
