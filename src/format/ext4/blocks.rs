//! Which blocks are free, and who gets them.
//!
//! Data and metadata are taken from two ends: data from a sixteenth of the disk upward,
//! metadata from its start, each going on from where it was last. So a layer's data lies in
//! one piece, and so does its metadata. After a flush both begin again at the start, because
//! only what the disk holds may decide where the next layer goes.

use super::bitmap;
use super::checksum::Seal;
use super::error::{Error, Result, corrupt};
use super::filesystem::Filesystem;
use super::layout::gd;
use super::superblock::Geometry;
use crate::format::block::{BlockDevice, BlockDeviceMut};

/// Free blocks that must lie together for a file to go there, in the order in which less is
/// put up with. The first is what one extent can hold.
const TOGETHER: [u64; 4] = [32_768, 1024, 32, 1];

/// What blocks are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Metadata,
    Data,
}

/// Where the search for blocks goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursors {
    metadata: u64,
    data: u64,
}

impl Cursors {
    pub(super) fn new(geometry: &Geometry) -> Self {
        let data = geometry.blocks / 16;
        let into_group = data % u64::from(geometry.blocks_per_group);
        let data = if data > into_group {
            data - into_group
        } else {
            data
        };
        Self {
            metadata: geometry.first_block,
            data: geometry.first_block + data,
        }
    }

    fn of(&mut self, purpose: Purpose) -> &mut u64 {
        match purpose {
            Purpose::Metadata => &mut self.metadata,
            Purpose::Data => &mut self.data,
        }
    }
}

impl<D: BlockDevice> Filesystem<D> {
    /// A group's block bitmap, made if it was never written. Its descriptor is corrected
    /// where it counts wrongly: some tools leave it so.
    fn block_bitmap(&mut self, number: u32) -> Result<&[u8]> {
        let geometry = self.sb.geometry;
        let count = geometry.group_blocks(number) as usize;
        let group = self.group(number)?;
        if group.flags & gd::BLOCK_UNINIT != 0 && self.sb.checksums.has_uninit() {
            let start = geometry.group_start(number);
            let used = self.system.within(start, start + count as u64);
            let bits = self.cache.fresh(group.block_bitmap, Seal::Plain)?;
            for (from, to) in used {
                bitmap::fill(bits, (from - start) as usize, (to - start) as usize, true);
            }
            bitmap::fill(bits, count, geometry.block_size as usize * 8, true);
            let group = self.group_mut(number)?;
            group.flags &= !gd::BLOCK_UNINIT;
            group.bitmaps_changed = true;
            group.changed = true;
        }
        let bits = self.cache.read(group.block_bitmap)?;
        if !group.blocks_counted {
            let free = bitmap::count_clear(bits, count);
            let group = self.group_mut(number)?;
            group.changed |= group.free_blocks != free;
            group.free_blocks = free;
            group.blocks_counted = true;
        }
        self.cache.read(group.block_bitmap)
    }

    /// The first free run of `least` blocks within `from..until`, at most `most` long.
    fn find_run(
        &mut self,
        (from, until): (u64, u64),
        least: u64,
        most: u64,
        trust_counts: bool,
    ) -> Result<Option<(u64, u64)>> {
        let geometry = self.sb.geometry;
        let mut run: (u64, u64) = (from, 0);
        let mut at = from;
        while at < until {
            let number = geometry.group_of(at);
            let start = geometry.group_start(number);
            let end = (start + u64::from(geometry.group_blocks(number))).min(until);
            if trust_counts && self.group(number)?.free_blocks == 0 {
                if run.1 >= least {
                    return Ok(Some(run));
                }
                at = end;
                run = (at, 0);
                continue;
            }
            let bits = self.block_bitmap(number)?;
            let end_bit = (end - start) as usize;
            let mut bit = (at - start) as usize;
            while bit < end_bit {
                let used = bitmap::find(bits, bit, end_bit, true);
                run.1 += (used - bit) as u64;
                if run.1 >= most {
                    return Ok(Some((run.0, most)));
                }
                if used == end_bit {
                    break;
                }
                if run.1 >= least {
                    return Ok(Some(run));
                }
                bit = bitmap::find(bits, used, end_bit, false);
                run = (start + bit as u64, 0);
            }
            at = end;
        }
        Ok((run.1 >= least).then_some(run))
    }

    fn search(
        &mut self,
        purpose: Purpose,
        least: u64,
        most: u64,
        trust_counts: bool,
    ) -> Result<Option<(u64, u64)>> {
        let geometry = self.sb.geometry;
        let cursor = *self.cursors.of(purpose);
        let ahead = (cursor, geometry.blocks);
        if let Some(run) = self.find_run(ahead, least, most, trust_counts)? {
            return Ok(Some(run));
        }
        let behind = (geometry.first_block, cursor);
        self.find_run(behind, least, most, trust_counts)
    }

    /// Takes `count` blocks, in as few runs as there can be without looking everywhere.
    pub(super) fn take_blocks(&mut self, count: u64, purpose: Purpose) -> Result<Vec<(u64, u64)>> {
        let full = Error::NoSpace {
            disk: self.sb.geometry.size(),
        };
        if count > self.sb.geometry.blocks {
            return Err(full);
        }
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut left = count;
        let mut levels = TOGETHER.iter().copied();
        let mut level = levels.next().unwrap_or(1);
        while left > 0 {
            let found = self.search(purpose, left.min(level), left, true)?;
            let (start, length) = match found {
                Some(run) => run,
                None => match levels.by_ref().find(|next| *next < left || *next == 1) {
                    Some(next) => {
                        level = next;
                        continue;
                    }
                    // Descriptors that say 0 may be wrong.
                    None => match self.search(purpose, 1, left, false)? {
                        Some(run) => run,
                        None => return Err(full),
                    },
                },
            };
            self.mark(start, length, true)?;
            *self.cursors.of(purpose) = start + length;
            left -= length;
            match runs.last_mut() {
                Some(last) if last.0 + last.1 == start => last.1 += length,
                _ => runs.push((start, length)),
            }
        }
        Ok(runs)
    }

    /// Takes one block for metadata and makes it zero.
    pub(super) fn take_metadata_block(&mut self, seal: Seal) -> Result<u64> {
        let runs = self.take_blocks(1, Purpose::Metadata)?;
        let Some((block, _)) = runs.first() else {
            return corrupt("one block was asked for and none came");
        };
        self.cache.fresh(*block, seal)?;
        Ok(*block)
    }

    /// Marks blocks used or free, which they were not.
    fn mark(&mut self, start: u64, count: u64, used: bool) -> Result<()> {
        let geometry = self.sb.geometry;
        if self.system.overlaps(start, count) {
            return corrupt(format!(
                "blocks {start} to {} hold the filesystem's own tables, and are {}",
                start + count,
                if used {
                    "said to be free"
                } else {
                    "a file's too"
                }
            ));
        }
        let (mut at, end) = (start, start + count);
        while at < end {
            let number = geometry.group_of(at);
            let group_start = geometry.group_start(number);
            let stop = (group_start + u64::from(geometry.group_blocks(number))).min(end);
            self.block_bitmap(number)?;
            let place = self.group(number)?.block_bitmap;
            let bits = self.cache.write(place, Seal::Plain)?;
            let (from, to) = ((at - group_start) as usize, (stop - group_start) as usize);
            if !bitmap::put(bits, from, to, used) {
                return corrupt(format!(
                    "some of the blocks {at} to {stop} are {} already",
                    if used { "used" } else { "free" }
                ));
            }
            let length = (stop - at) as u32;
            let group = self.group_mut(number)?;
            group.free_blocks = if used {
                group.free_blocks.saturating_sub(length)
            } else {
                group.free_blocks.saturating_add(length)
            };
            group.bitmaps_changed = true;
            group.changed = true;
            at = stop;
        }
        Ok(())
    }
}

impl<D: BlockDeviceMut> Filesystem<D> {
    /// Gives blocks back.
    pub(super) fn free_blocks(&mut self, start: u64, count: u64) -> Result<()> {
        self.sb.geometry.check("a file's blocks", start, count)?;
        self.mark(start, count, false)?;
        self.cache.forget(start, count);
        let block_size = u64::from(self.sb.geometry.block_size);
        self.cache
            .device
            .discard_at(start * block_size, count * block_size)?;
        Ok(())
    }
}
