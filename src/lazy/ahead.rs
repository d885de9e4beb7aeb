//! Which pieces a reader that reads on and on wants next.

use std::ops::Range;

/// Most readers of a blob that are told apart.
const MAX_STREAMS: usize = 16;
/// Pieces that are fetched ahead at first.
const FIRST: u64 = 2;

/// A reader, by the places that it read.
#[derive(Debug, Clone, Copy)]
struct Stream {
    /// The last piece that was read.
    last: u64,
    /// Behind the last piece that was fetched ahead.
    end: u64,
    /// Pieces that are fetched ahead; 0 until it reads on.
    window: u64,
    /// When it last read on.
    used: u64,
}

/// The readers of a blob.
#[derive(Debug, Default)]
pub(super) struct Streams {
    streams: Vec<Stream>,
    clock: u64,
}

impl Streams {
    /// Takes note of a read of the pieces `read`, and says which ones to fetch ahead: at most
    /// `most` for all readers together, and within the blob's `count`.
    pub(super) fn read(&mut self, read: &Range<u64>, most: u64, count: u64) -> Range<u64> {
        self.clock += 1;
        let last = read.end.saturating_sub(1);
        // Several threads that read one file come a little out of order.
        let is_of = |stream: &&mut Stream| {
            read.start + 2 >= stream.last && read.start <= stream.end.max(stream.last + 1)
        };
        let active = self.streams.iter().filter(|stream| stream.window > 0);
        let share = most / (active.count() as u64).max(1);
        let Some(stream) = self.streams.iter_mut().find(is_of) else {
            self.begin(last);
            return 0..0;
        };
        stream.used = self.clock;
        if last <= stream.last {
            return 0..0;
        }
        stream.last = last;
        stream.end = stream.end.max(last + 1);
        if stream.end - last > stream.window / 2 + 1 {
            return 0..0;
        }
        stream.window = (stream.window * 2).max(FIRST).min(share);
        let end = (last + 1 + stream.window).min(count);
        let ahead = stream.end..end.max(stream.end);
        stream.end = ahead.end;
        ahead
    }

    fn begin(&mut self, last: u64) {
        if self.streams.len() >= MAX_STREAMS {
            let oldest = self.streams.iter().enumerate();
            if let Some((place, _)) = oldest.min_by_key(|(_, stream)| stream.used) {
                self.streams.swap_remove(place);
            }
        }
        self.streams.push(Stream {
            last,
            end: last + 1,
            window: 0,
            used: self.clock,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_reads_on_has_more_and_more_fetched_ahead() {
        let mut streams = Streams::default();
        let mut fetched = Vec::new();
        for piece in 0..40 {
            let ahead = streams.read(&(piece..piece + 1), 16, 60);
            // Never what is read already, and never twice.
            let behind = fetched.last().map_or(piece, |range: &Range<u64>| range.end);
            assert!(
                ahead.is_empty() || ahead.start >= behind.max(piece + 1),
                "{piece}: {ahead:?}"
            );
            assert!(ahead.end <= piece + 1 + 16, "{piece}: {ahead:?}");
            if !ahead.is_empty() {
                fetched.push(ahead);
            }
        }
        assert_eq!(fetched[0], 2..4);
        assert!(fetched.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert!(fetched.last().unwrap().end > 45, "{fetched:?}");
        // Not far beyond what a request is worth.
        assert!(fetched.len() < 10, "{fetched:?}");
    }

    #[test]
    fn nothing_is_fetched_ahead_of_random_reads_or_behind_the_end() {
        let mut streams = Streams::default();
        for piece in [50, 10, 90, 30, 70, 20, 60] {
            assert!(streams.read(&(piece..piece + 1), 16, 100).is_empty());
        }
        let mut streams = Streams::default();
        for piece in 0..5 {
            assert!(streams.read(&(piece..piece + 1), 16, 5).end <= 5);
        }
        let mut streams = Streams::default();
        for piece in 0..50 {
            assert!(streams.read(&(piece..piece + 1), 0, 100).is_empty());
        }
    }

    #[test]
    fn many_readers_share_what_is_fetched_ahead() {
        let mut streams = Streams::default();
        for step in 0..30 {
            for reader in 0..8 {
                let piece = reader * 1000 + step;
                let ahead = streams.read(&(piece..piece + 1), 16, 10_000);
                assert!(step < 2 || ahead.end <= piece + 1 + 4, "{piece}: {ahead:?}");
            }
        }
        assert_eq!(streams.streams.len(), 8);
    }
}
