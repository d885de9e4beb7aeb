//! Where the blocks of a `ZFile` begin, from its index of their stored sizes.

use std::io;

use super::error::ZFileError;
use super::layout::{BLOCK_CRC, Geometry, MAX_STORED};
use super::raw::SPACE;
use super::refusal::{Finder, UnreadableBlock};
use crate::format::block::{Damaged, SharedDevice, check_range};
use crate::format::crc::crc32c;

/// Blocks with one base.
const GROUP_BLOCKS: usize = 1024;
/// Most bytes of the index that are read at once.
const MAX_READ_BYTES: u64 = 1 << 20;
/// Most blocks of a `ZFile` that is opened: a tebibyte in the smallest ones. Each takes four
/// bytes of memory.
const MAX_BLOCKS: u64 = 1 << 28;

/// Where each block begins: a base every [`GROUP_BLOCKS`] blocks, and distances from it.
#[derive(Default)]
pub(super) struct Offsets {
    bases: Vec<u64>,
    distances: Vec<u32>,
}

impl Offsets {
    /// Reads the index of the `ZFile` on `device`; with the first block that overlaybd cannot
    /// read, if there is one.
    ///
    /// Header and length of a blob are not trusted: no memory is taken for entries that were
    /// not read yet.
    pub(super) fn read(
        device: &SharedDevice,
        geometry: &Geometry,
    ) -> Result<(Self, Option<UnreadableBlock>), ZFileError> {
        let length = index_length(device, geometry)?;
        device.will_read(geometry.index_offset, length);
        let mut offsets = Self::default();
        let mut finder = Finder::new(geometry.block_size);
        let (mut at, mut crc) = (SPACE as u64, 0);
        let (mut done, mut number) = (0, 0u64);
        let mut piece = Vec::new();
        while done < length {
            let part = (length - done).min(MAX_READ_BYTES);
            piece.resize(usize::try_from(part).map_err(io::Error::other)?, 0);
            device.read_at(geometry.index_offset + done, &mut piece)?;
            crc = crc32c(crc, &piece);
            for size in piece.as_chunks::<4>().0 {
                let size = u32::from_le_bytes(*size);
                if size as usize <= BLOCK_CRC || size as usize > 2 * MAX_STORED {
                    return Err(ZFileError::Index(format!(
                        "block {number} has a stored size of {size}"
                    )));
                }
                finder.add(size);
                offsets.push(at)?;
                at += u64::from(size);
                number += 1;
            }
            if at > geometry.index_offset {
                return Err(ZFileError::Index(format!(
                    "its blocks reach to {at} at least, beyond the index at {}",
                    geometry.index_offset
                )));
            }
            done += part;
        }
        offsets.push(at)?;
        if crc != geometry.index_crc {
            return Err(ZFileError::Index(format!(
                "its CRC is {:08x}, and that of its bytes is {crc:08x}",
                geometry.index_crc
            )));
        }
        Ok((offsets, finder.found()))
    }

    fn push(&mut self, at: u64) -> Result<(), ZFileError> {
        if self.distances.len().is_multiple_of(GROUP_BLOCKS) {
            self.bases.push(at);
        }
        let base = self.bases.last().copied().unwrap_or_default();
        let distance = u32::try_from(at - base).map_err(|_| {
            ZFileError::Index(format!("the offset of a block, {at}, is out of range"))
        })?;
        self.distances.push(distance);
        Ok(())
    }

    /// Byte offset of block `n`; the one behind the last is where the blocks end.
    pub(super) fn of(&self, n: u64) -> io::Result<u64> {
        let n = usize::try_from(n).map_err(io::Error::other)?;
        match (self.bases.get(n / GROUP_BLOCKS), self.distances.get(n)) {
            (Some(base), Some(distance)) => Ok(base + u64::from(*distance)),
            _ => Err(Damaged(format!("there is no block {n}")).into()),
        }
    }
}

/// Bytes of the index, which lies within the file with room for its blocks before it.
fn index_length(device: &SharedDevice, geometry: &Geometry) -> Result<u64, ZFileError> {
    let block_size = u64::from(geometry.block_size.bytes());
    let blocks = geometry.original_size.div_ceil(block_size);
    if geometry.index_size != blocks {
        return Err(ZFileError::Index(format!(
            "it has {} entries, and {} bytes make {blocks} blocks of {block_size}",
            geometry.index_size, geometry.original_size,
        )));
    }
    if blocks > MAX_BLOCKS {
        return Err(ZFileError::Index(format!(
            "it has {blocks} entries, and the limit is {MAX_BLOCKS}"
        )));
    }
    let length = blocks * 4;
    if check_range(device.size(), geometry.index_offset, length).is_err() {
        return Err(ZFileError::Index(format!(
            "its {blocks} entries reach beyond the end of the file"
        )));
    }
    // A stored block is longer than its CRC.
    let least = blocks * (BLOCK_CRC as u64 + 1);
    let room = geometry.index_offset.checked_sub(SPACE as u64);
    if room.is_none_or(|room| room < least) {
        return Err(ZFileError::Index(format!(
            "it has {blocks} entries, and begins at {}, too early for so many blocks",
            geometry.index_offset
        )));
    }
    Ok(length)
}
