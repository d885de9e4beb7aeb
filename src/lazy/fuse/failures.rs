//! Errors of reads: numbers for programs, lines of the log for people.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use fuser::Errno;
use parking_lot::Mutex;

use crate::format::ext4::Error;
use crate::panics;

/// Most lines of the log in an [`INTERVAL`].
const LINES: u32 = 10;
/// For how long lines are counted.
const INTERVAL: Duration = Duration::from_secs(10);

/// Logs errors, but no more than a few at a time: one unreachable registry fails every read.
#[derive(Debug)]
pub(super) struct Failures {
    counted: Mutex<Counted>,
}

#[derive(Debug)]
struct Counted {
    since: Instant,
    lines: u32,
    silent: u64,
}

impl Default for Failures {
    fn default() -> Self {
        Self {
            counted: Mutex::new(Counted {
                since: Instant::now(),
                lines: 0,
                silent: 0,
            }),
        }
    }
}

impl Failures {
    /// The error's number; what is not the program's own mistake is logged.
    pub(super) fn errno(&self, what: &str, ino: u64, error: &Error) -> Errno {
        match error {
            Error::NotADirectory(_) => Errno::ENOTDIR,
            Error::WrongType(..) => Errno::EINVAL,
            error => self.unreadable(what, ino, error),
        }
    }

    /// That what a program wants cannot be read.
    pub(super) fn unreadable(&self, what: &str, ino: u64, error: &dyn std::fmt::Display) -> Errno {
        match self.turn() {
            Some(0) => tracing::warn!(
                inode = ino, %error,
                "{what} cannot be read: the program that wanted it gets an input/output error"
            ),
            Some(silent) => tracing::warn!(
                inode = ino, %error, silent,
                "{what} cannot be read, and {silent} reads before it could not be either"
            ),
            None => {}
        }
        Errno::EIO
    }

    /// Whether a line may be logged, and how many were not since the last.
    fn turn(&self) -> Option<u64> {
        let mut counted = self.counted.lock();
        if counted.since.elapsed() >= INTERVAL {
            counted.since = Instant::now();
            counted.lines = 0;
        }
        if counted.lines >= LINES {
            counted.silent += 1;
            return None;
        }
        counted.lines += 1;
        Some(std::mem::take(&mut counted.silent))
    }
}

/// Answers a request. A panic would end one of the threads that answer; so it costs this request
/// alone, which fails with EIO.
pub(super) fn shielded(work: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
        let text = panics::text(panic.as_ref());
        tracing::error!("a defect in this program or in a library failed a read: {text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_beyond_a_few_are_counted_instead_of_logged() {
        let failures = Failures::default();
        for _ in 0..LINES {
            assert_eq!(failures.turn(), Some(0));
        }
        for _ in 0..3 {
            assert_eq!(failures.turn(), None);
        }
        failures.counted.lock().since -= INTERVAL;
        assert_eq!(failures.turn(), Some(3));
        assert_eq!(failures.turn(), Some(0));
    }
}
