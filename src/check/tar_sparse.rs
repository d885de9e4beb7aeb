//! Maps of sparse files, in the four ways that they are written.
//! Source: GNU tar manual § "Storing Sparse Files"; what is none is an ordinary file, as for
//! Go's `archive/tar`.

use std::io;

use super::tar_fields::{Records, bad, decimal, length};
use super::tar_header::number;

/// Most pieces of a sparse file.
const MAX_PIECES: usize = 1_000_000;

/// A piece of a sparse file: where it is, and how long.
pub(super) type Piece = (u64, u64);

/// Where a sparse file's map is.
pub(super) enum Map {
    /// Among the pax records.
    InRecords(Vec<Piece>),
    /// Before the data.
    InData,
}

/// The map of a sparse file; `None` for an ordinary one.
pub(super) fn map(records: &Records) -> io::Result<Option<Map>> {
    let version = |key| records.get(key).unwrap_or_default();
    let list = records.get(b"GNU.sparse.map");
    match (version(b"GNU.sparse.major"), version(b"GNU.sparse.minor")) {
        (b"1", b"0") => return Ok(Some(Map::InData)),
        (b"0", b"0" | b"1") => {}
        (b"", b"") if list.is_some() => {}
        _ => return Ok(None),
    }
    let numbers: Vec<u64> = match list {
        None => Vec::new(),
        Some(list) => list
            .split(|byte| *byte == b',')
            .map(|text| length(decimal(text)?))
            .collect::<io::Result<_>>()?,
    };
    let pieces = pairs(&numbers)?;
    let count = records.number(b"GNU.sparse.numblocks")?;
    if count.and_then(|count| usize::try_from(count).ok()) != Some(pieces.len()) {
        return Err(bad("a sparse map of another length than is said"));
    }
    Ok(Some(Map::InRecords(pieces)))
}

/// The length of a sparse file with its holes, where it is said.
pub(super) fn real_size(records: &Records) -> io::Result<Option<u64>> {
    let size = match records.number(b"GNU.sparse.size")? {
        Some(size) => Some(size),
        None => records.number(b"GNU.sparse.realsize")?,
    };
    size.map(length).transpose()
}

fn pairs(numbers: &[u64]) -> io::Result<Vec<Piece>> {
    match numbers.as_chunks::<2>() {
        (pairs, []) if pairs.len() <= MAX_PIECES => {
            Ok(pairs.iter().map(|[offset, len]| (*offset, *len)).collect())
        }
        _ => Err(bad("a damaged sparse map")),
    }
}

/// A map that stands before the data: lines of numbers, how many pieces there are first.
#[derive(Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    numbers: Vec<u64>,
}

impl Lines {
    /// Takes the next block; whether the map goes on behind it.
    pub(super) fn take(&mut self, block: &[u8]) -> io::Result<bool> {
        for &byte in block {
            if self.numbers.len() >= self.wanted()? {
                return Ok(false);
            }
            if byte != b'\n' {
                self.line.push(byte);
                if self.line.len() > 20 {
                    return Err(bad("a damaged sparse map"));
                }
                continue;
            }
            self.numbers.push(length(decimal(&self.line)?)?);
            self.line.clear();
        }
        Ok(self.numbers.len() < self.wanted()?)
    }

    fn wanted(&self) -> io::Result<usize> {
        let Some(&count) = self.numbers.first() else {
            return Ok(1);
        };
        match usize::try_from(count) {
            Ok(count) if count <= MAX_PIECES => Ok(1 + 2 * count),
            _ => Err(bad(format!("a sparse map of {count} pieces"))),
        }
    }

    pub(super) fn pieces(&self) -> io::Result<Vec<Piece>> {
        pairs(self.numbers.get(1..).unwrap_or_default())
    }
}

/// Adds the pieces in a part of an old GNU map, which ends at the first empty one.
pub(super) fn add_old(part: &[u8], pieces: &mut Vec<Piece>) -> io::Result<()> {
    for entry in part.as_chunks::<24>().0 {
        let (offset, len) = entry.split_at(12);
        if offset.first() == Some(&0) {
            break;
        }
        if pieces.len() >= MAX_PIECES {
            return Err(bad("a sparse map without an end"));
        }
        pieces.push((length(number(offset)?)?, length(number(len)?)?));
    }
    Ok(())
}
