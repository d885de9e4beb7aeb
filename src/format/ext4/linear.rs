//! Directories without an index: names are searched block by block.

use super::dirblock::{self, Entry};
use super::directory_blocks::{self, Found};
use super::error::Result;
use super::inode::Inode;
use super::volume::Volume;
use crate::format::block::BlockDevice;

/// Finds a name.
pub(super) fn find<D: BlockDevice>(
    volume: &mut Volume<D>,
    dir: &Inode,
    name: &[u8],
) -> Result<Option<Found>> {
    let blocks = directory_blocks::all(volume, dir)?;
    for (place, number) in blocks.enumerate() {
        let block = directory_blocks::read(volume, dir, number, place == 0)?;
        if let Some(found) = Found::in_block(block, number, name)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Adds an entry to one of these blocks of the directory; returns whether any had room.
pub(super) fn insert<D: BlockDevice>(
    volume: &mut Volume<D>,
    dir: &Inode,
    blocks: &[u64],
    entry: &Entry<'_>,
) -> Result<bool> {
    let kind = directory_blocks::entries_checksum(volume, dir);
    for number in blocks {
        volume.read_verified(*number, kind)?;
        if dirblock::insert(volume.write(*number, kind)?, entry)? {
            return Ok(true);
        }
    }
    Ok(false)
}
