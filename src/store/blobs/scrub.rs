//! The scrubber reads all blobs again, over and over, at a bounded rate: damage is found before
//! someone asks for what is damaged.
//!
//! One process of those that share a data directory does it, as long as it holds the lock of
//! `DATA/scrub`. Whatever was not verified for the longest time comes first.

use std::cmp::Reverse;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};

use super::examine::{BlobEntry, Examined};
use super::shelf::Shelf;
use crate::oci::Digest;
use crate::store::BlobError;

/// What reading a small file counts for at least: it costs the disk a search.
const LEAST: u64 = 32 << 10;
const LARGEST_CHUNK: u64 = 1 << 20;
const SMALLEST_CHUNK: u64 = 4 << 10;
/// A round takes no less: a small cache need not be read all the time.
const ROUND: Duration = Duration::from_secs(5);
/// How long to wait when another process scrubs, or when the disk refuses.
const PAUSE: Duration = Duration::from_secs(30);

/// A scrubber at work, until dropped.
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
    /// Waits, and says whether the scrubber is to end.
    fn wait(&self, time: Duration) -> bool {
        let mut is_asked = self.is_asked.lock();
        self.asked
            .wait_while_for(&mut is_asked, |is_asked| !*is_asked, time);
        *is_asked
    }
}

/// What a round came to.
enum Round {
    /// All was read.
    Complete,
    /// Something was damaged and could not be taken away.
    Incomplete,
    Stopped,
}

/// The state of one process's scrubber.
struct Scrub {
    shelf: Arc<Shelf>,
    /// Bytes a second.
    rate: NonZeroU64,
    stop: Arc<Stop>,
    /// When the next chunk may be read.
    next: Instant,
}

/// Starts to scrub at so many bytes a second.
pub(super) fn start(shelf: Arc<Shelf>, rate: NonZeroU64) -> Result<Scrubber, BlobError> {
    let stop = Arc::new(Stop::default());
    let path = shelf.data_dir.join("scrub");
    let mut scrub = Scrub {
        shelf,
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

/// The file with the scrubber's lock; for reading alone where it cannot be written.
fn open(path: &Path) -> Result<File, BlobError> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(BlobError::io("opening", path));
    match opened {
        Err(error) if error.is_no_space() => File::open(path).map_err(|_| error),
        other => other,
    }
}

impl Scrub {
    fn run(&mut self, path: &Path) {
        // Its lock is held as long as it is open.
        let _file = loop {
            match open(path) {
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
            if self.stop.wait(PAUSE) {
                return;
            }
        };
        loop {
            let begun = Instant::now();
            let pause = match self.round() {
                Ok(Round::Complete) => {
                    self.write_last_round(path);
                    ROUND.saturating_sub(begun.elapsed())
                }
                Ok(Round::Incomplete) => PAUSE,
                Ok(Round::Stopped) => return,
                Err(error) => {
                    tracing::warn!(%error, "the scrubber cannot go on now");
                    PAUSE
                }
            };
            if self.stop.wait(pause) {
                return;
            }
        }
    }

    /// Reads all that was not verified since the round began.
    fn round(&mut self) -> Result<Round, BlobError> {
        let shelf = Arc::clone(&self.shelf);
        let begun = shelf.known.now();
        let entries = shelf.entries()?;
        let there = entries.iter().map(|entry| &entry.digest).collect();
        shelf.known.retain(&there, begun);
        let mut came_to = Round::Complete;
        for digest in ordered(entries, |digest| shelf.known.verified_at(digest)) {
            if shelf.known.verified_at(&digest) >= Some(begun) {
                continue;
            }
            let before = shelf.counters.read().scrubbed_bytes;
            match self.scrub(&digest) {
                Ok(Examined::Stopped) => return Ok(Round::Stopped),
                Ok(Examined::Sound | Examined::Damaged { .. }) => shelf.counters.scrubbed(),
                Ok(Examined::Gone) => {}
                Err(error) => {
                    tracing::warn!(%digest, %error, "a blob cannot be scrubbed");
                    came_to = Round::Incomplete;
                }
            }
            let read = shelf.counters.read().scrubbed_bytes.saturating_sub(before);
            if !self.paced(LEAST.saturating_sub(read)) {
                return Ok(Round::Stopped);
            }
        }
        Ok(came_to)
    }

    fn scrub(&mut self, digest: &Digest) -> Result<Examined, BlobError> {
        let shelf = Arc::clone(&self.shelf);
        let eighth = (self.rate.get() / 8).clamp(SMALLEST_CHUNK, LARGEST_CHUNK);
        let chunk = usize::try_from(eighth).unwrap_or(4096);
        shelf.examine(digest, true, chunk, |read| {
            shelf.counters.scrubbed_bytes(read);
            self.paced(read)
        })
    }

    /// Waits until so many more bytes keep within the rate; whether to go on.
    fn paced(&mut self, bytes: u64) -> bool {
        let now = Instant::now();
        // Time that the disk took is not made up for.
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
            self.shelf.counters.last_round(seconds);
        }
    }

    fn write_last_round(&self, path: &Path) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since.map_or(0, |since| since.as_secs());
        self.shelf.counters.round_ended();
        self.shelf.counters.last_round(seconds);
        // The file with the lock may be open for reading alone.
        let file = OpenOptions::new().write(true).open(path);
        let written =
            file.and_then(|file| file.write_all_at(format!("{seconds:<20}\n").as_bytes(), 0));
        match written.map_err(BlobError::io("writing", path)) {
            Ok(()) => {}
            Err(error) if error.is_no_space() => {
                tracing::debug!(%error, "the end of the scrubber's round is not written down");
            }
            Err(error) => {
                tracing::warn!(%error, "the end of the scrubber's round cannot be written down");
            }
        }
    }
}

/// How long so many bytes take at a rate.
fn cost(bytes: u64, rate: NonZeroU64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Those never verified first, of them those that were used last; then by verification.
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
    fn bytes_take_the_longer_the_lower_the_rate_is() {
        let rate = |rate| NonZeroU64::new(rate).unwrap();
        assert_eq!(cost(8 << 20, rate(8 << 20)), Duration::from_secs(1));
        assert_eq!(cost(0, rate(1)), Duration::ZERO);
        assert_eq!(cost(1 << 20, rate(64 << 10)), Duration::from_secs(16));
        assert_eq!(cost(u64::MAX, rate(1)), Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn what_was_not_verified_for_the_longest_time_comes_first() {
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
