//! Data of files that are wanted when a container starts, kept until the rest of a layer is
//! written: so it lies together at the end of the layer's data, next to the filesystem's metadata.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use crate::format::block::{SECTOR, Wanted};

/// Most bytes of one layer that are kept. Files beyond it stay where they come.
pub const MAX_SPOOLED_BYTES: u64 = 256 << 20;
/// Bytes of it that are in memory.
pub const SPOOL_MEMORY_BYTES: usize = 4 << 20;

/// A file for data that is kept.
pub struct SpoolFile {
    /// An empty file, open for reading and writing.
    pub file: File,
    /// Called before so many more bytes are written to it: reserves the space for them.
    pub reserve: Box<dyn FnMut(u64) -> io::Result<()> + Send>,
}

/// Makes the file, once there is more data than is kept in memory.
pub type MakeSpoolFile = Box<dyn FnOnce() -> io::Result<SpoolFile> + Send>;

/// The data of one file.
#[derive(Debug)]
struct Piece {
    rank: u32,
    /// In bytes of all that was kept.
    range: Range<u64>,
}

/// The data, in the order in which it came.
#[derive(Default)]
pub(super) struct Spool {
    make: Option<MakeSpoolFile>,
    file: Option<SpoolFile>,
    /// Bytes that are in the file.
    in_file: u64,
    /// What comes behind them.
    memory: Vec<u8>,
    pieces: Vec<Piece>,
    /// The rank of the file whose data comes, if it is kept.
    rank: Option<u32>,
    /// Whether that file has a piece.
    has_piece: bool,
}

impl Spool {
    /// An empty one, with room for data.
    pub(super) fn new(make: MakeSpoolFile) -> Self {
        Self {
            make: Some(make),
            ..Self::default()
        }
    }

    /// What comes next is the data of this file, or of none that is wanted.
    pub(super) fn begin(&mut self, file: Option<Wanted>) {
        let has_room = self.make.is_some() || self.file.is_some();
        let fits = |file: &Wanted| self.len().saturating_add(file.bytes) <= MAX_SPOOLED_BYTES;
        let kept = file.filter(|file| has_room && fits(file));
        self.rank = kept.map(|file| file.rank);
        self.has_piece = false;
    }

    /// Whether what comes next is kept.
    pub(super) fn is_keeping(&self) -> bool {
        self.rank.is_some()
    }

    /// Bytes that are kept.
    pub(super) fn len(&self) -> u64 {
        self.in_file + self.memory.len() as u64
    }

    /// Keeps data of the file that was begun.
    pub(super) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let start = self.len();
        let end = start + data.len() as u64;
        let piece = self.pieces.last_mut().filter(|_| self.has_piece);
        match (piece, self.rank) {
            (Some(piece), _) => piece.range.end = end,
            (None, Some(rank)) => {
                let range = start..end;
                self.pieces.push(Piece { rank, range });
                self.has_piece = true;
            }
            (None, None) => return Err(io::Error::other("no file was begun")),
        }
        if self.memory.len() + data.len() > SPOOL_MEMORY_BYTES {
            self.spill()?;
        }
        self.memory.extend_from_slice(data);
        Ok(())
    }

    /// Moves what is in memory to the file.
    fn spill(&mut self) -> io::Result<()> {
        if let Some(make) = self.make.take() {
            self.file = Some(make()?);
        }
        let Some(spool) = &mut self.file else {
            return Err(io::Error::other("there is no file for data that is kept"));
        };
        (spool.reserve)(self.memory.len() as u64)?;
        spool.file.write_all_at(&self.memory, self.in_file)?;
        self.in_file += self.memory.len() as u64;
        self.memory.clear();
        Ok(())
    }

    /// Fills `buf` from byte `at`.
    pub(super) fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        let in_file = usize::try_from(self.in_file.saturating_sub(at)).unwrap_or(usize::MAX);
        let (front, back) = buf.split_at_mut(in_file.min(buf.len()));
        if let Some(spool) = self.file.as_ref().filter(|_| !front.is_empty()) {
            spool.file.read_exact_at(front, at)?;
        }
        if back.is_empty() {
            return Ok(());
        }
        let start = (at + front.len() as u64).saturating_sub(self.in_file);
        let kept = usize::try_from(start).ok().and_then(|start| {
            let end = start.checked_add(back.len())?;
            self.memory.get(start..end)
        });
        back.copy_from_slice(kept.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    /// The parts of `used`, sectors that ascend, in the order in which they belong into the
    /// layer: by rank, and those of one rank as they came.
    pub(super) fn in_order(&mut self, used: &[Range<u64>]) -> Vec<Range<u64>> {
        self.pieces.sort_by_key(|piece| piece.rank);
        let mut parts = Vec::new();
        for piece in &self.pieces {
            let (start, end) = (piece.range.start / SECTOR, piece.range.end / SECTOR);
            let first = used.partition_point(|range| range.end <= start);
            let ranges = used.get(first..).unwrap_or_default().iter();
            for range in ranges.take_while(|range| range.start < end) {
                parts.push(range.start.max(start)..range.end.min(end));
            }
        }
        parts
    }
}
