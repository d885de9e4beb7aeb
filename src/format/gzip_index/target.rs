//! The tar in a gzip blob, read through its index.

use std::io;
use std::ops::Range;

use parking_lot::Mutex;

use super::error::GzipIndexError;
use super::index::GzipIndex;
use super::resume::{Resumed, Stop};
use crate::format::block::{BlockDevice, Damaged, SharedDevice, check_range};

/// Compressed bytes that are read at once.
const PIECE: usize = 64 << 10;

/// The tar in a gzip blob, as a disk.
///
/// Reading begins at the entry before, so that a byte takes inflating a span on average half way.
/// What reads on where the last one ended goes on without: one decoder of 150 KiB is kept.
pub struct GzipTarget {
    blob: SharedDevice,
    index: GzipIndex,
    last: Mutex<Option<Cursor>>,
}

impl std::fmt::Debug for GzipTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GzipTarget")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

/// A decoder somewhere in the tar.
struct Cursor {
    decoder: Resumed,
    /// The byte of the tar that comes next.
    at: u64,
    /// Compressed bytes that were read and not used, from `start` on.
    piece: Vec<u8>,
    start: usize,
    /// Where the blob goes on behind them.
    next: u64,
    /// Whether the blob is read past what is kept of it.
    anew: bool,
}

impl GzipTarget {
    /// The tar in `blob`, the one that `index` is of.
    ///
    /// # Errors
    /// [`GzipIndexError::OtherBlob`] if it is not, by its size.
    pub fn new(blob: SharedDevice, index: GzipIndex) -> Result<Self, GzipIndexError> {
        let (indexed, found) = (index.header().compressed_size, blob.size());
        if indexed != found {
            return Err(GzipIndexError::OtherBlob { indexed, found });
        }
        Ok(Self {
            blob,
            index,
            last: Mutex::new(None),
        })
    }

    /// The index.
    #[must_use]
    pub fn index(&self) -> &GzipIndex {
        &self.index
    }

    /// A decoder at or before `offset`, and behind the last entry before it.
    fn cursor(&self, offset: u64, anew: bool) -> io::Result<Cursor> {
        let entry = self.index.entry_for(offset);
        let last = self.last.lock().take();
        if let Some(cursor) = last
            && !anew
            && (entry.uncompressed..=offset).contains(&cursor.at)
        {
            return Ok(cursor);
        }
        let mut shared = [0];
        if entry.bits > 0 {
            read(&self.blob, entry.compressed - 1, &mut shared, anew)?;
        }
        let window = self.index.window(&entry)?;
        Ok(Cursor {
            decoder: Resumed::new(&window, entry.bits, shared[0]),
            at: entry.uncompressed,
            piece: Vec::new(),
            start: 0,
            next: entry.compressed,
            anew,
        })
    }

    fn read_from(&self, mut cursor: Cursor, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        while cursor.at < offset {
            let skip = usize::try_from(offset - cursor.at).unwrap_or(usize::MAX);
            cursor.step(&self.blob, skip, |_| {})?;
        }
        let mut done = 0;
        while done < buf.len() {
            let rest = &mut buf[done..];
            done += cursor.step(&self.blob, rest.len(), |bytes| {
                rest[..bytes.len()].copy_from_slice(bytes);
            })?;
        }
        cursor.anew = false;
        *self.last.lock() = Some(cursor);
        Ok(())
    }
}

fn read(blob: &SharedDevice, offset: u64, buf: &mut [u8], anew: bool) -> io::Result<()> {
    if anew {
        blob.read_anew(offset, buf)
    } else {
        blob.read_at(offset, buf)
    }
}

impl Cursor {
    fn damaged(&self, what: &str) -> io::Error {
        let text = format!(
            "the gzip blob and its index do not fit: {what} at byte {} of the tar",
            self.at
        );
        Damaged(text).into()
    }

    /// Gives at most `limit` bytes to `take`; how many it were, never 0 unless `limit` is.
    fn step(
        &mut self,
        blob: &SharedDevice,
        limit: usize,
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<usize> {
        loop {
            let (used, output, stop) = self.decoder.step(&self.piece[self.start..], limit);
            take(output);
            let made = output.len();
            self.start += used;
            self.at += made as u64;
            if made > 0 {
                return Ok(made);
            }
            match stop {
                Stop::Boundary => {}
                Stop::Input => self.read(blob)?,
                Stop::Output if limit == 0 => return Ok(0),
                Stop::Output | Stop::Damaged => {
                    return Err(self.damaged("there is no deflate data"));
                }
                Stop::End => return Err(self.damaged("the deflate data ends")),
            }
        }
    }

    /// Reads the next piece of the blob.
    fn read(&mut self, blob: &SharedDevice) -> io::Result<()> {
        let rest = blob.size().saturating_sub(self.next);
        let length = usize::try_from(rest).unwrap_or(usize::MAX).min(PIECE);
        if length == 0 {
            return Err(self.damaged("the blob ends"));
        }
        self.piece.resize(length, 0);
        self.start = 0;
        read(blob, self.next, &mut self.piece, self.anew)?;
        self.next += length as u64;
        Ok(())
    }
}

impl BlockDevice for GzipTarget {
    fn size(&self) -> u64 {
        self.index.header().uncompressed_size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size(), offset, buf.len() as u64)?;
        if buf.is_empty() {
            return Ok(());
        }
        let read = |buf: &mut [u8], anew| {
            let cursor = self.cursor(offset, anew)?;
            self.read_from(cursor, offset, buf)
        };
        match (read(&mut *buf, false), self.blob.name()) {
            // What damaged it may have been on the way here.
            (Err(error), Some(name)) if error.kind() == io::ErrorKind::InvalidData => {
                let again = read(buf, true);
                again.map_err(|error| match error.kind() {
                    io::ErrorKind::InvalidData => Damaged(format!("{name}: {error}")).into(),
                    _ => error,
                })
            }
            (done, _) => done,
        }
    }

    /// From the entry before the range up to the entry behind it.
    fn behind(&self, range: Range<u64>) -> Range<u64> {
        let first = self.index.entry_for(range.start);
        let start = first.compressed - u64::from(first.bits > 0);
        let entries = self.index.entries();
        let next = entries.partition_point(|entry| entry.uncompressed < range.end);
        let end = entries.get(next).map(|entry| entry.compressed);
        start..end.unwrap_or(self.blob.size()).max(start)
    }
}
