//! Verifies all blobs, on request: what the scrubber does at its leisure.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::damage::{Aside, Damage};
use super::examine::{BlobEntry, Examined};
use super::store::BlobStore;
use crate::oci::Digest;
use crate::store::error::BlobError;

/// What was found so far. Read by others while it goes on.
#[derive(Debug, Default)]
pub struct Survey {
    blobs: AtomicU64,
    bytes: AtomicU64,
    damaged: AtomicU64,
    failed: AtomicU64,
}

/// What a [`Survey`] has found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SurveyCounts {
    /// Blobs that were read to their end, or cannot be read.
    pub blobs: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Blobs that are damaged.
    pub damaged: u64,
    /// Blobs of which the disk or the storage did not tell.
    pub failed: u64,
}

impl Survey {
    /// Counts bytes that were read; returns how many that is so far.
    pub fn read(&self, bytes: u64) -> u64 {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        before.saturating_add(bytes)
    }

    /// Counts a blob that was read to its end, or cannot be.
    pub fn examined(&self, is_damaged: bool) {
        self.blobs.fetch_add(1, Ordering::Relaxed);
        let damaged = u64::from(is_damaged);
        self.damaged.fetch_add(damaged, Ordering::Relaxed);
    }

    /// Counts a blob of which nothing was learned.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// What was found so far.
    pub fn counts(&self) -> SurveyCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SurveyCounts {
            blobs: read(&self.blobs),
            bytes: read(&self.bytes),
            damaged: read(&self.damaged),
            failed: read(&self.failed),
        }
    }
}

impl BlobStore {
    /// Examines these entries as [`examine`](Self::examine) does, on so many threads, and counts
    /// them. `on_bytes` is called as `go_on` is there, and ends all of it when it says no;
    /// `on_finding` is called for each entry that was looked at. Returns when all are done.
    pub fn survey(
        &self,
        entries: Vec<BlobEntry>,
        threads: usize,
        is_moving: bool,
        survey: &Survey,
        on_bytes: impl Fn(u64) -> bool + Sync,
        on_finding: impl Fn(&BlobEntry, &Result<Examined, BlobError>) + Sync,
    ) {
        let left = Mutex::new(entries.into_iter());
        let next = || left.lock().next();
        let work = || {
            while let Some(entry) = next() {
                let examined = self.examine(&entry.digest, is_moving, &on_bytes);
                match &examined {
                    Ok(Examined::Sound) => survey.examined(false),
                    Ok(Examined::Damaged { .. }) => survey.examined(true),
                    // The proxy evicted or replaced it meanwhile.
                    Ok(Examined::Gone) => {}
                    Ok(Examined::Stopped) => return,
                    Err(_) => survey.failed(),
                }
                on_finding(&entry, &examined);
            }
        };
        thread::scope(|scope| {
            let work = &work;
            for number in 1..threads.max(1) {
                let thread = thread::Builder::new().name(format!("verify {number}"));
                // Without it, the others do what it would.
                if thread.spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
    }
}

/// A damaged blob, as the API and `--json` tell of it.
#[must_use]
pub fn finding(digest: &Digest, path: &Path, damage: &Damage, aside: Option<&Aside>) -> Value {
    let moved_to = match aside {
        Some(Aside::Moved(target)) => Some(target),
        Some(Aside::Gone | Aside::Removed) | None => None,
    };
    json!({
        "digest": digest.as_str(),
        "path": path,
        "reason": damage.to_string(),
        "removed": matches!(aside, Some(Aside::Removed)),
        "moved_to": moved_to,
    })
}
