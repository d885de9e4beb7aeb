//! Detects that a file was changed.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

/// Times on a file this young may not change with its next change.
const TICK: Duration = Duration::from_secs(1);

/// What changes when a file is replaced or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    file: (u64, u64),
    len: u64,
    changed: (i64, i64),
    modified: (i64, i64),
    is_settled: bool,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let age = metadata
            .modified()
            .ok()
            .and_then(|modified| SystemTime::now().duration_since(modified).ok());
        Self {
            file: (metadata.dev(), metadata.ino()),
            len: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            is_settled: age.is_some_and(|age| age > TICK),
        }
    }

    /// Whether a file with the stamp `now` surely has what it had with this one.
    pub(super) fn still(&self, now: &Self) -> bool {
        self.is_settled && *self == *now
    }
}
