//! Where data is in files without extents: the block map of ext2 and ext3, read only.

use std::collections::HashSet;

use super::error::{Result, corrupt};
use super::extents::{Blocks, Run};
use super::filesystem::Filesystem;
use super::inode::Inode;
use super::layout::get32;
use crate::format::block::BlockDevice;

/// Blocks that the inode names itself.
const DIRECT: u32 = 12;

impl<D: BlockDevice> Filesystem<D> {
    /// The run with a block of the file, one block long; `None` for a hole.
    pub(super) fn map_indirect(&mut self, inode: &Inode, logical: u32) -> Result<Option<Run>> {
        let per_block = u64::from(self.sb.geometry.block_size / 4);
        let mut rest = u64::from(logical);
        let mut found = None;
        if rest < u64::from(DIRECT) {
            found = Some((get32(inode.block(), rest as usize * 4), 0));
        }
        rest = rest.wrapping_sub(u64::from(DIRECT));
        let mut span = per_block;
        for level in 1..=3_u32 {
            if found.is_some() {
                break;
            }
            if rest < span {
                let at = (DIRECT + level - 1) as usize * 4;
                found = Some((get32(inode.block(), at), level));
            } else {
                rest -= span;
                span *= per_block;
            }
        }
        let Some((mut block, level)) = found else {
            return corrupt(format!(
                "block {logical} is beyond what a block map reaches"
            ));
        };
        for below in (0..level).rev() {
            if block == 0 {
                return Ok(None);
            }
            self.sb
                .geometry
                .check("an indirect block", u64::from(block), 1)?;
            let index = rest / per_block.pow(below) % per_block;
            block = get32(self.cache.read(u64::from(block))?, index as usize * 4);
        }
        if block == 0 {
            return Ok(None);
        }
        let physical = u64::from(block);
        self.sb.geometry.check("a block of a file", physical, 1)?;
        Ok(Some(Run {
            logical,
            physical,
            length: 1,
            unwritten: false,
        }))
    }

    /// All of a file's blocks.
    pub(super) fn indirect_blocks(&mut self, inode: &Inode) -> Result<Blocks> {
        let mut walk = Walk {
            blocks: Blocks::default(),
            seen: HashSet::new(),
            logical: 0,
        };
        let map = inode.block().to_vec();
        for (place, entry) in map.chunks_exact(4).enumerate() {
            let level = (place as u32).saturating_sub(DIRECT - 1);
            self.walk_indirect(get32(entry, 0), level, &mut walk)?;
        }
        Ok(walk.blocks)
    }

    fn walk_indirect(&mut self, block: u32, level: u32, walk: &mut Walk) -> Result<()> {
        let per_block = u64::from(self.sb.geometry.block_size / 4);
        if block == 0 {
            walk.logical += per_block.pow(level);
            return Ok(());
        }
        let physical = u64::from(block);
        self.sb.geometry.check("a block of a file", physical, 1)?;
        if level == 0 {
            return walk.add(physical);
        }
        // Shared once, a block could be visited more often than anyone can wait for.
        if !walk.seen.insert(block) {
            return corrupt(format!("block {block} maps a file's blocks twice"));
        }
        walk.blocks.nodes.push(physical);
        let entries = self.cache.read(physical)?.to_vec();
        for entry in entries.chunks_exact(4) {
            self.walk_indirect(get32(entry, 0), level - 1, walk)?;
        }
        Ok(())
    }
}

struct Walk {
    blocks: Blocks,
    seen: HashSet<u32>,
    /// The block of the file that comes next.
    logical: u64,
}

impl Walk {
    fn add(&mut self, physical: u64) -> Result<()> {
        let Ok(logical) = u32::try_from(self.logical) else {
            return corrupt("a block map reaches beyond a file's largest size");
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
