//! Where a file's data is, whether it has extents or a block map.

use super::blocks;
use super::cursors::Purpose;
use super::error::{Result, corrupt, narrow};
use super::extent_node::MAX_EXTENT_BLOCKS;
use super::extents;
use super::indirect;
use super::inode::Inode;
use super::inode_table::count_blocks;
use super::run::{FileBlocks, Run};
use super::volume::Volume;
use crate::format::block::{BlockDevice, BlockDeviceMut};

/// The run with a block of the file; `None` for a hole.
pub(super) fn find<D: BlockDevice>(
    volume: &mut Volume<D>,
    inode: &Inode,
    logical: u32,
) -> Result<Option<Run>> {
    if inode.has_extents() {
        extents::find(volume, inode, logical)
    } else {
        indirect::find(volume, inode, logical)
    }
}

/// All of a file's blocks.
pub(super) fn all<D: BlockDevice>(volume: &mut Volume<D>, inode: &Inode) -> Result<FileBlocks> {
    if inode.has_extents() {
        extents::all(volume, inode)
    } else {
        indirect::all(volume, inode)
    }
}

/// Gives back all of an inode's data blocks and those of its tree or map.
pub(super) fn free<D: BlockDeviceMut>(volume: &mut Volume<D>, inode: &mut Inode) -> Result<()> {
    let all = all(volume, inode)?;
    let mut count = all.nodes.len() as u64;
    for run in &all.runs {
        let length = u64::from(run.length);
        blocks::free(volume, run.physical, length)?;
        count += length;
    }
    for node in &all.nodes {
        blocks::free(volume, *node, 1)?;
    }
    count_blocks(volume, inode, 0, count);
    if inode.has_extents() {
        extents::clear(inode)
    } else {
        inode.block_mut().fill(0);
        Ok(())
    }
}

/// Gives an inode with a block map an extent tree of the same blocks.
pub(super) fn use_extents<D: BlockDeviceMut>(
    volume: &mut Volume<D>,
    inode: &mut Inode,
) -> Result<()> {
    if inode.has_extents() {
        return Ok(());
    }
    let all = indirect::all(volume, inode)?;
    for node in &all.nodes {
        blocks::free(volume, *node, 1)?;
    }
    count_blocks(volume, inode, 0, all.nodes.len() as u64);
    extents::build(volume, inode, &all.runs)
}

/// Takes blocks for ranges of an empty file, each a first block and a count, which ascend, and
/// builds its extent tree.
pub(super) fn allocate<D: BlockDevice>(
    volume: &mut Volume<D>,
    inode: &mut Inode,
    ranges: &[(u32, u64)],
) -> Result<Vec<Run>> {
    let total = ranges.iter().map(|(_, count)| count).sum();
    let mut pieces = blocks::allocate(volume, total, Purpose::Data)?.into_iter();
    let mut piece = 0..0;
    let mut runs = Vec::new();
    for &(start, count) in ranges {
        let mut done = 0;
        while done < count {
            if piece.is_empty() {
                let Some(next) = pieces.next() else {
                    return corrupt("fewer blocks were allocated than requested");
                };
                piece = next;
            }
            let length = (piece.end - piece.start)
                .min(count - done)
                .min(u64::from(MAX_EXTENT_BLOCKS));
            runs.push(Run {
                logical: narrow(u64::from(start) + done)?,
                physical: piece.start,
                length: narrow(length)?,
                unwritten: false,
            });
            piece.start += length;
            done += length;
        }
    }
    extents::build(volume, inode, &runs)?;
    count_blocks(volume, inode, total, 0);
    Ok(runs)
}
