//! Which files were verified: when this process committed them, or by reading them after its start.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::stamp::Stamp;
use crate::oci::Digest;

/// Whether a file was found or suspected to be damaged after it was opened; shared by all that
/// have it open.
#[derive(Debug, Clone, Default)]
pub(super) struct SuspectFlag(Arc<AtomicBool>);

impl SuspectFlag {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How a file changed since it was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// It has other bytes, most likely.
    Written,
    /// It was used, renamed, or is another file than the one that was verified last.
    Other,
}

#[derive(Debug)]
struct Record {
    /// The state of the file when it was verified.
    stamp: Stamp,
    /// When that was, as time since the start.
    verified: Duration,
    /// Whether the file has to be verified again; its size stays as it was verified.
    is_doubted: bool,
    flag: SuspectFlag,
}

/// The verified files, by digest.
#[derive(Debug)]
pub(super) struct VerifiedFiles {
    started: Instant,
    records: Mutex<HashMap<Digest, Record>>,
}

impl VerifiedFiles {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            records: Mutex::new(HashMap::new()),
        }
    }

    fn records(&self) -> MutexGuard<'_, HashMap<Digest, Record>> {
        self.records.lock()
    }

    /// The time since the start.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The flag of a file that was verified and not written to since.
    pub(super) fn flag(&self, digest: &Digest, stamp: &Stamp) -> Option<SuspectFlag> {
        let records = self.records();
        let record = records.get(digest)?;
        let is_sound = !record.is_doubted
            && stamp.is_same_file(&record.stamp)
            && !stamp.was_written_since(&record.stamp);
        is_sound.then(|| record.flag.clone())
    }

    /// The size of a blob whose file was verified, this one or an earlier one.
    pub(super) fn size(&self, digest: &Digest) -> Option<u64> {
        self.records().get(digest).map(|record| record.stamp.size)
    }

    /// When a blob was last verified, as time since the start.
    pub(super) fn verified_at(&self, digest: &Digest) -> Option<Duration> {
        let records = self.records();
        let record = records.get(digest).filter(|record| !record.is_doubted);
        record.map(|record| record.verified)
    }

    /// Records that a file has the bytes that its digest names.
    pub(super) fn record(&self, digest: &Digest, stamp: Stamp) -> SuspectFlag {
        let verified = self.now();
        let mut records = self.records();
        let flag = match records.get(digest) {
            Some(before) if before.stamp.is_same_file(&stamp) && !before.flag.is_set() => {
                before.flag.clone()
            }
            _ => SuspectFlag::default(),
        };
        let record = Record {
            stamp,
            verified,
            is_doubted: false,
            flag: flag.clone(),
        };
        records.insert(digest.clone(), record);
        flag
    }

    /// How a file changed since it was verified.
    pub(super) fn change(&self, digest: &Digest, stamp: &Stamp) -> Change {
        match self.records().get(digest) {
            Some(record) if *stamp == record.stamp => Change::None,
            Some(record)
                if stamp.is_same_file(&record.stamp) && stamp.was_written_since(&record.stamp) =>
            {
                Change::Written
            }
            Some(_) | None => Change::Other,
        }
    }

    /// Records that this process changed a file's times: where they are coarse, that looks as if
    /// it had been written to.
    pub(super) fn touched(&self, digest: &Digest, stamp: &Stamp) {
        if let Some(record) = self.records().get_mut(digest)
            && record.stamp.is_same_file(stamp)
            && record.stamp.size == stamp.size
        {
            record.stamp = *stamp;
        }
    }

    /// Marks a file as suspect for all that have it open: it counts as not verified.
    pub(super) fn suspect(&self, digest: &Digest, stamp: &Stamp) {
        if let Some(record) = self.records().get_mut(digest)
            && record.stamp.is_same_file(stamp)
        {
            record.is_doubted = true;
            record.flag.set();
        }
    }

    /// Makes a blob count as not verified; those that have its file open continue.
    pub(super) fn doubt(&self, digest: &Digest) {
        if let Some(record) = self.records().get_mut(digest) {
            record.is_doubted = true;
        }
    }

    pub(super) fn forget(&self, digest: &Digest) {
        self.records().remove(digest);
    }

    /// Forgets all but these and what was verified since.
    pub(super) fn retain(&self, there: &HashSet<&Digest>, since: Duration) {
        self.records()
            .retain(|digest, record| there.contains(digest) || record.verified >= since);
    }
}
