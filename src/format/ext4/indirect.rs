//! The block map of ext2 and ext3, which files without extents have. It is only read.

use std::collections::HashSet;

use zerocopy::little_endian::U32;

use super::error::{Result, corrupt, narrow};
use super::inode::Inode;
use super::layout;
use super::run::{FileBlocks, Run};
use super::volume::Volume;
use crate::format::block::BlockDevice;

/// Blocks that the inode maps itself; the entries behind them are of one to three levels of
/// indirect blocks.
const DIRECT: u32 = 12;
const MAX_LEVEL: u32 = 3;

fn entries_per_block<D: BlockDevice>(volume: &Volume<D>) -> u64 {
    u64::from(volume.geometry().block_size / 4)
}

/// Where in the inode the way to a block begins: an entry, the level of it, and the block's
/// number among those below it.
fn start(logical: u32, per_block: u64) -> Option<(u32, u32, u64)> {
    let Some(rest) = logical.checked_sub(DIRECT) else {
        return Some((logical, 0, 0));
    };
    let mut rest = u64::from(rest);
    let mut span = per_block;
    for level in 1..=MAX_LEVEL {
        if rest < span {
            return Some((DIRECT + level - 1, level, rest));
        }
        rest -= span;
        span *= per_block;
    }
    None
}

/// The run with a block of the file, one block long; `None` for a hole.
pub(super) fn find<D: BlockDevice>(
    volume: &mut Volume<D>,
    inode: &Inode,
    logical: u32,
) -> Result<Option<Run>> {
    let per_block = entries_per_block(volume);
    let Some((entry, level, rest)) = start(logical, per_block) else {
        return corrupt(format!(
            "block {logical} of inode {} is beyond what a block map covers",
            inode.ino()
        ));
    };
    let mut block = layout::get::<U32>(inode.block(), entry as usize * 4)?.get();
    for below in (0..level).rev() {
        if block == 0 {
            return Ok(None);
        }
        let number = u64::from(block);
        volume.geometry().check("an indirect block", number, 1)?;
        let index: usize = narrow(rest / per_block.pow(below) % per_block)?;
        block = layout::get::<U32>(volume.read(number)?, index * 4)?.get();
    }
    if block == 0 {
        return Ok(None);
    }
    let physical = u64::from(block);
    volume.geometry().check("a block of a file", physical, 1)?;
    Ok(Some(Run {
        logical,
        physical,
        length: 1,
        unwritten: false,
    }))
}

/// All of a file's blocks.
pub(super) fn all<D: BlockDevice>(volume: &mut Volume<D>, inode: &Inode) -> Result<FileBlocks> {
    let mut walk = Walk {
        blocks: FileBlocks::default(),
        seen: HashSet::new(),
        logical: 0,
    };
    let levels = std::iter::repeat_n(0, DIRECT as usize).chain(1..=MAX_LEVEL);
    for (entry, level) in inode.block_map().iter().zip(levels) {
        walk.visit(volume, entry.get(), level)?;
    }
    Ok(walk.blocks)
}

struct Walk {
    blocks: FileBlocks,
    seen: HashSet<u32>,
    /// The next block of the file.
    logical: u64,
}

impl Walk {
    fn visit<D: BlockDevice>(
        &mut self,
        volume: &mut Volume<D>,
        block: u32,
        level: u32,
    ) -> Result<()> {
        if block == 0 {
            self.logical += entries_per_block(volume).pow(level);
            return Ok(());
        }
        let physical = u64::from(block);
        volume.geometry().check("a block of a file", physical, 1)?;
        let Some(below) = level.checked_sub(1) else {
            return self.add(physical);
        };
        // A few indirect blocks that map each other many times would take forever.
        if !self.seen.insert(block) {
            return corrupt(format!("a block map has the indirect block {block} twice"));
        }
        self.blocks.nodes.push(physical);
        let per_block: usize = narrow(entries_per_block(volume))?;
        let entries = layout::get_slice::<U32>(volume.read(physical)?, 0, per_block)?.to_vec();
        for entry in entries {
            self.visit(volume, entry.get(), below)?;
        }
        Ok(())
    }

    fn add(&mut self, physical: u64) -> Result<()> {
        let Ok(logical) = u32::try_from(self.logical) else {
            return corrupt("a block map covers more than a file's largest size");
        };
        self.logical += 1;
        match self.blocks.runs.last_mut() {
            Some(last)
                if last.end() == u64::from(logical)
                    && last.physical + u64::from(last.length) == physical =>
            {
                last.length += 1;
            }
            _ => self.blocks.runs.push(Run {
                logical,
                physical,
                length: 1,
                unwritten: false,
            }),
        }
        Ok(())
    }
}
