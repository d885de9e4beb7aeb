//! The scrubber verifies all blobs again and again, at a bounded rate, so that damage is found
//! before a damaged blob is requested.
//!
//! Of the processes that share a data directory, the one that holds the lock of `DATA/scrub` does
//! it. Blobs that were not verified for the longest time come first.

use std::cmp::Reverse;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};

use super::directory::BlobDirectory;
use super::examine::{BlobEntry, Examined};
use super::filesystem::open_or_read;
use crate::oci::Digest;
use crate::store::error::BlobError;

/// The least that reading a file counts for: it costs the disk a seek.
const MIN_COST_BYTES: u64 = 32 << 10;
const MAX_CHUNK_BYTES: u64 = 1 << 20;
const MIN_CHUNK_BYTES: u64 = 4 << 10;
/// A round takes at least this long: a small cache need not be read all the time.
const MIN_ROUND: Duration = Duration::from_secs(5);
/// The time between attempts when another process scrubs, or after an error of the disk.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// A running scrubber, until dropped.
#[derive(Debug)]
pub struct Scrubber(Arc<Stop>);

#[derive(Debug, Default)]
struct Stop {
    is_asked: Mutex<bool>,
    asked: Condvar,
}

impl Drop for Scrubber {
    fn drop(&mut self) {
        *self.0.is_asked.lock() = true;
        self.0.asked.notify_all();
    }
}

impl Stop {
    /// Waits; returns whether the scrubber is to stop.
    fn wait(&self, time: Duration) -> bool {
        let mut is_asked = self.is_asked.lock();
        self.asked
            .wait_while_for(&mut is_asked, |is_asked| !*is_asked, time);
        *is_asked
    }
}

/// The outcome of a round.
enum Round {
    /// All blobs were read.
    Complete,
    /// A damaged blob could not be set aside.
    Incomplete,
    Stopped,
}

/// The state of one process's scrubber.
struct Scrub {
    directory: Arc<BlobDirectory>,
    /// Bytes a second.
    rate: NonZeroU64,
    stop: Arc<Stop>,
    /// When the next chunk may be read.
    next: Instant,
}

/// Starts a scrubber of so many bytes a second.
pub(super) fn start(
    directory: Arc<BlobDirectory>,
    rate: NonZeroU64,
) -> Result<Scrubber, BlobError> {
    let stop = Arc::new(Stop::default());
    let path = directory.data_dir.join("scrub");
    let mut scrub = Scrub {
        directory,
        rate,
        stop: Arc::clone(&stop),
        next: Instant::now(),
    };
    let work = {
        let path = path.clone();
        move || scrub.run(&path)
    };
    thread::Builder::new()
        .name("scrub".to_owned())
        .spawn(work)
        .map_err(BlobError::io("starting a thread for", &path))?;
    Ok(Scrubber(stop))
}

impl Scrub {
    fn run(&mut self, path: &Path) {
        // Its lock is held as long as it is open.
        let _file = loop {
            match open_or_read(path) {
                Ok(file) => {
                    self.read_last_round(&file);
                    match file.try_lock() {
                        Ok(()) => break file,
                        Err(TryLockError::WouldBlock) => {
                            tracing::debug!("another process scrubs this data directory");
                        }
                        Err(TryLockError::Error(error)) => {
                            tracing::warn!(%error, "the scrubber's lock cannot be had");
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "the scrubber waits for its file"),
            }
            if self.stop.wait(RETRY_INTERVAL) {
                return;
            }
        };
        loop {
            let begun = Instant::now();
            let pause = match self.round() {
                Ok(Round::Complete) => {
                    self.write_last_round(path);
                    MIN_ROUND.saturating_sub(begun.elapsed())
                }
                Ok(Round::Incomplete) => RETRY_INTERVAL,
                Ok(Round::Stopped) => return,
                Err(error) => {
                    tracing::warn!(%error, "the scrubber cannot go on now");
                    RETRY_INTERVAL
                }
            };
            if self.stop.wait(pause) {
                return;
            }
        }
    }

    /// Reads all blobs that were not verified since the round began.
    fn round(&mut self) -> Result<Round, BlobError> {
        let directory = Arc::clone(&self.directory);
        let begun = directory.verified.now();
        let entries = directory.entries()?;
        let there = entries.iter().map(|entry| &entry.digest).collect();
        directory.verified.retain(&there, begun);
        let mut outcome = Round::Complete;
        for digest in ordered(entries, |digest| directory.verified.verified_at(digest)) {
            if directory.verified.verified_at(&digest) >= Some(begun) {
                continue;
            }
            let before = directory.counters.read().scrubbed_bytes;
            match self.scrub(&digest) {
                Ok(Examined::Stopped) => return Ok(Round::Stopped),
                Ok(Examined::Sound | Examined::Damaged { .. }) => directory.counters.scrubbed(),
                Ok(Examined::Gone) => {}
                Err(error) => {
                    tracing::warn!(%digest, %error, "a blob cannot be scrubbed");
                    outcome = Round::Incomplete;
                }
            }
            let read = directory
                .counters
                .read()
                .scrubbed_bytes
                .saturating_sub(before);
            if !self.paced(MIN_COST_BYTES.saturating_sub(read)) {
                return Ok(Round::Stopped);
            }
        }
        Ok(outcome)
    }

    fn scrub(&mut self, digest: &Digest) -> Result<Examined, BlobError> {
        let directory = Arc::clone(&self.directory);
        let eighth = (self.rate.get() / 8).clamp(MIN_CHUNK_BYTES, MAX_CHUNK_BYTES);
        let chunk = usize::try_from(eighth).unwrap_or(4096);
        directory.examine(digest, true, chunk, |read| {
            directory.counters.scrubbed_bytes(read);
            self.paced(read)
        })
    }

    /// Waits until so many more bytes are within the rate; returns whether to continue.
    fn paced(&mut self, bytes: u64) -> bool {
        let now = Instant::now();
        // Time that the disk took is not caught up on.
        let next = self.next.max(now).checked_add(cost(bytes, self.rate));
        self.next = next.unwrap_or(now);
        !self.stop.wait(self.next - now)
    }

    fn read_last_round(&self, mut file: &File) {
        let mut text = String::new();
        let read = file
            .rewind()
            .and_then(|()| file.take(32).read_to_string(&mut text));
        if read.is_ok()
            && let Ok(seconds) = text.trim().parse()
        {
            self.directory.counters.last_round(seconds);
        }
    }

    fn write_last_round(&self, path: &Path) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since.map_or(0, |since| since.as_secs());
        self.directory.counters.round_ended();
        self.directory.counters.last_round(seconds);
        // The file with the lock may be open read-only.
        let file = OpenOptions::new().write(true).open(path);
        let written =
            file.and_then(|file| file.write_all_at(format!("{seconds:<20}\n").as_bytes(), 0));
        match written.map_err(BlobError::io("writing", path)) {
            Ok(()) => {}
            Err(error) if error.is_no_space() => {
                tracing::debug!(%error, "the end of the scrubber's round is not recorded");
            }
            Err(error) => {
                tracing::warn!(%error, "the end of the scrubber's round cannot be recorded");
            }
        }
    }
}

/// How long so many bytes take at a rate.
fn cost(bytes: u64, rate: NonZeroU64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Never verified ones first, of these the last used first; then by the time of verification.
fn ordered(
    mut entries: Vec<BlobEntry>,
    verified_at: impl Fn(&Digest) -> Option<Duration>,
) -> Vec<Digest> {
    entries.sort_by_cached_key(|entry| {
        (
            verified_at(&entry.digest),
            Reverse(entry.last_use),
            entry.digest.clone(),
        )
    });
    entries.into_iter().map(|entry| entry.digest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_bytes_is_their_time_at_the_rate() {
        let rate = |rate| NonZeroU64::new(rate).unwrap();
        assert_eq!(cost(8 << 20, rate(8 << 20)), Duration::from_secs(1));
        assert_eq!(cost(0, rate(1)), Duration::ZERO);
        assert_eq!(cost(1 << 20, rate(64 << 10)), Duration::from_secs(16));
        assert_eq!(cost(u64::MAX, rate(1)), Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn blobs_not_verified_for_the_longest_time_come_first() {
        let entry = |name: &[u8], used: u64| BlobEntry {
            digest: Digest::of(name),
            size: 0,
            last_use: SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(used)),
        };
        let entries = vec![
            entry(b"old", 1),
            entry(b"verified", 9),
            entry(b"verified long ago", 5),
            entry(b"recent", 8),
        ];
        let verified_at = |digest: &Digest| {
            let seconds = if *digest == Digest::of(b"verified") {
                60
            } else if *digest == Digest::of(b"verified long ago") {
                30
            } else {
                return None;
            };
            Some(Duration::from_secs(seconds))
        };
        let wanted = [&b"recent"[..], b"old", b"verified long ago", b"verified"];
        let wanted: Vec<Digest> = wanted.into_iter().map(Digest::of).collect();
        assert_eq!(ordered(entries, verified_at), wanted);
    }
}
