//! What nodes read of converted blobs in their first seconds of an image. Pure.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::format::blob::MAX_LAYERS;
use crate::oci::Digest;

/// Reads are noted in pieces of so many bytes.
const PIECE: u64 = 64 << 10;
/// Most windows at one time.
const MAX_WINDOWS: usize = 256;
/// Most pieces of one window: the first are what a start waits for.
const MAX_PIECES: usize = 4096;
/// Pieces of a window that tell anything.
const MIN_PIECES: usize = 8;
/// Longest run of reads, each from where the last one ended, that may be of a program: overlaybd
/// downloads blobs in the background like that.
const MAX_RUN: u64 = 64 << 20;
/// From this size on a run over a whole blob is such a download, too.
const WHOLE: u64 = 4 << 20;
/// So many windows long nobody reads before another window begins: who goes on reading has not
/// started again.
const QUIET: u32 = 10;

/// A read of a blob.
#[derive(Debug, Clone)]
pub(super) struct Read<'a> {
    pub blob: &'a Digest,
    /// The blob's size in bytes.
    pub size: u64,
    /// Which of its bytes.
    pub range: Range<u64>,
}

/// What was read in a window.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::server) struct Start {
    pub blobs: Vec<Digest>,
    /// Of which of the blobs, and which of its bytes: in the order in which they were read first.
    pub pieces: Vec<(usize, Range<u64>)>,
}

#[derive(Debug)]
struct Blob {
    digest: Digest,
    /// The last reads that followed each other.
    run: Range<u64>,
    /// The first piece of that run, by its order.
    run_from: u64,
    is_downloaded: bool,
}

#[derive(Debug)]
struct Piece {
    blob: usize,
    number: u64,
    order: u64,
}

#[derive(Debug)]
struct Window {
    begun: Instant,
    last: Instant,
    is_over: bool,
    blobs: Vec<Blob>,
    pieces: Vec<Piece>,
    seen: HashSet<(usize, u64)>,
    order: u64,
}

impl Window {
    fn new(now: Instant) -> Self {
        Self {
            begun: now,
            last: now,
            is_over: false,
            blobs: Vec::new(),
            pieces: Vec::new(),
            seen: HashSet::new(),
            order: 0,
        }
    }

    fn note(&mut self, read: Read<'_>) {
        let Read { blob, size, range } = read;
        let known = self.blobs.iter().position(|known| known.digest == *blob);
        let place = known.unwrap_or(self.blobs.len());
        if known.is_none() {
            // One more than an image has with its acceleration layer.
            if place > MAX_LAYERS {
                return;
            }
            self.blobs.push(Blob {
                digest: blob.clone(),
                run: 0..0,
                run_from: self.order,
                is_downloaded: false,
            });
        }
        let Some(blob) = self.blobs.get_mut(place).filter(|it| !it.is_downloaded) else {
            return;
        };
        if blob.run.end == range.start {
            blob.run.end = range.end;
        } else {
            blob.run = range.clone();
            blob.run_from = self.order;
        }
        let is_whole = blob.run == (0..size) && size >= WHOLE;
        if is_whole || blob.run.end - blob.run.start > MAX_RUN {
            blob.is_downloaded = true;
            let from = blob.run_from;
            self.pieces
                .retain(|piece| piece.blob != place || piece.order < from);
            return;
        }
        for number in range.start / PIECE..range.end.div_ceil(PIECE) {
            if self.pieces.len() >= MAX_PIECES {
                break;
            }
            if self.seen.insert((place, number)) {
                let order = self.order;
                self.pieces.push(Piece {
                    blob: place,
                    number,
                    order,
                });
                self.order += 1;
            }
        }
    }

    /// Ends the window.
    fn end(&mut self) -> Start {
        self.is_over = true;
        self.seen = HashSet::new();
        let blobs = std::mem::take(&mut self.blobs);
        let pieces = std::mem::take(&mut self.pieces);
        let range = |number: u64| number * PIECE..(number + 1) * PIECE;
        Start {
            blobs: blobs.into_iter().map(|blob| blob.digest).collect(),
            pieces: pieces
                .into_iter()
                .map(|piece| (piece.blob, range(piece.number)))
                .collect(),
        }
    }
}

/// The windows that are open, and those that were lately, by whose reads are in them.
#[derive(Debug)]
pub(super) struct Windows<K> {
    length: Duration,
    known: HashMap<K, Window>,
}

impl<K: Hash + Eq + Clone> Windows<K> {
    pub fn new(length: Duration) -> Self {
        Self {
            length,
            known: HashMap::new(),
        }
    }

    /// Notes a read; the first one begins a window.
    pub fn note(&mut self, key: &K, read: Read<'_>, now: Instant) {
        if read.range.start >= read.range.end {
            return;
        }
        if let Some(window) = self.known.get_mut(key) {
            window.last = now;
            if !window.is_over && now.duration_since(window.begun) < self.length {
                window.note(read);
            }
            return;
        }
        if self.known.len() >= MAX_WINDOWS {
            let oldest = self.known.iter();
            let oldest = oldest.min_by_key(|(_, window)| (!window.is_over, window.last));
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.known.remove(&key);
            }
        }
        let mut window = Window::new(now);
        window.note(read);
        self.known.insert(key.clone(), window);
    }

    /// What was read in a window that has ended, of one that nobody took.
    pub fn take_ended(&mut self, now: Instant) -> Option<(K, Start)> {
        let (length, quiet) = (self.length, self.length.saturating_mul(QUIET));
        self.known
            .retain(|_, window| !window.is_over || now.duration_since(window.last) < quiet);
        let ended = self
            .known
            .iter_mut()
            .filter(|(_, window)| !window.is_over && now.duration_since(window.begun) >= length);
        for (key, window) in ended {
            let start = window.end();
            if start.pieces.len() >= MIN_PIECES {
                return Some((key.clone(), start));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_mins(1);
    const MIB: u64 = 1 << 20;

    struct Case {
        windows: Windows<u32>,
        begun: Instant,
    }

    impl Case {
        fn new() -> Self {
            Self {
                windows: Windows::new(LENGTH),
                begun: Instant::now(),
            }
        }

        fn read(&mut self, key: u32, blob: &str, size: u64, range: Range<u64>, after: u64) {
            let blob = &Digest::of(blob.as_bytes());
            let now = self.begun + Duration::from_secs(after);
            self.windows.note(&key, Read { blob, size, range }, now);
        }

        fn ended(&mut self, after: u64) -> Option<(u32, Start)> {
            self.windows
                .take_ended(self.begun + Duration::from_secs(after))
        }
    }

    #[test]
    fn a_window_has_what_was_read_in_it_in_its_order() {
        let mut case = Case::new();
        case.read(1, "a", 90 * MIB, 5 * MIB..5 * MIB + 1, 0);
        case.read(1, "b", 90 * MIB, 0..MIB / 2, 1);
        case.read(1, "b", 90 * MIB, 0..MIB / 2, 1);
        case.read(2, "b", 90 * MIB, 0..1, 1);
        assert_eq!(case.ended(59), None);
        // What comes later is of no window.
        case.read(1, "b", 90 * MIB, 2 * MIB..3 * MIB, 60);
        let (key, start) = case.ended(60).unwrap();
        assert_eq!(
            (key, start.blobs),
            (1, vec![Digest::of(b"a"), Digest::of(b"b")])
        );
        assert_eq!(start.pieces.len(), 9);
        assert_eq!(start.pieces[0], (0, 5 * MIB..5 * MIB + PIECE));
        assert_eq!(start.pieces[8], (1, 7 * PIECE..8 * PIECE));
        // Too little tells nothing.
        assert_eq!(case.ended(70), None);
    }

    #[test]
    fn who_goes_on_reading_has_not_started_again() {
        let mut case = Case::new();
        for after in 0..40 {
            case.read(
                1,
                "a",
                900 * MIB,
                3 * after * MIB..(3 * after + 2) * MIB,
                after * 30,
            );
        }
        assert!(case.ended(1200).is_some());
        assert_eq!(case.ended(1300), None);
        assert_eq!(case.ended(1170 + 600), None);
        case.read(1, "a", 900 * MIB, 0..MIB, 1800);
        assert!(case.ended(1860).is_some());
    }

    #[test]
    fn a_long_ascending_run_and_a_whole_blob_are_no_start() {
        let mut case = Case::new();
        for number in 0..300 {
            let at = number * MIB / 4;
            case.read(1, "long", 900 * MIB, at..at + MIB / 4, 0);
            if at < 8 * MIB {
                case.read(1, "whole", 8 * MIB, at..at + MIB / 4, 0);
            }
            if at < 2 * MIB {
                case.read(1, "small", 2 * MIB, at..at + MIB / 4, 0);
            }
        }
        let (_, start) = case.ended(60).unwrap();
        assert_eq!(start.pieces.len(), 32);
        assert!(start.pieces.iter().all(|(blob, _)| *blob == 2));
        // What was read before the run stays.
        case.read(2, "whole", 8 * MIB, 6 * MIB..7 * MIB, 0);
        for number in 0..8 {
            case.read(2, "whole", 8 * MIB, number * MIB..(number + 1) * MIB, 1);
        }
        assert_eq!(case.ended(60).unwrap().1.pieces.len(), 16);
    }

    #[test]
    fn the_number_of_windows_blobs_and_pieces_is_limited() {
        let mut case = Case::new();
        for key in 0..2000 {
            case.read(key, "a", 900 * MIB, 0..MIB, 0);
        }
        assert_eq!(case.windows.known.len(), MAX_WINDOWS);
        let mut case = Case::new();
        for number in 0..2000 {
            let blob = number.to_string();
            case.read(1, &blob, 900 * MIB, 0..1, 0);
            case.read(
                1,
                "0",
                u64::MAX,
                2 * number * MIB..(2 * number + 1) * MIB,
                0,
            );
        }
        let window = &case.windows.known[&1];
        assert_eq!(window.blobs.len(), MAX_LAYERS + 1);
        assert_eq!(window.pieces.len(), MAX_PIECES);
        assert_eq!(window.seen.len(), MAX_PIECES);
    }
}
