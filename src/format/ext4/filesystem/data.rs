//! The data of regular files: where it is, where it goes, reading and copying it.

use std::ops::Range;

use super::Filesystem;
use crate::format::block::{BlockDevice, BlockDeviceMut};
use crate::format::ext4::error::{Error, Result, corrupt, narrow};
use crate::format::ext4::inode_table;
use crate::format::ext4::layout::ro_compat;
use crate::format::ext4::mapping;
use crate::format::ext4::run::Run;
use crate::format::ext4::types::{FileExtent, Ino};

/// Bytes of the largest file without the feature `large_file`.
const MAX_SMALL_FILE: u64 = 0x7fff_ffff;

impl<D: BlockDevice> Filesystem<D> {
    /// Fills `buf` from byte `offset` of a regular file.
    ///
    /// # Errors
    /// When the inode is not a regular file, ends before, or cannot be read.
    pub fn read_file(&mut self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<()> {
        let inode = self.file(ino)?;
        let (length, size) = (buf.len() as u64, inode.size());
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(Error::PastEnd {
                offset,
                length,
                size,
            });
        }
        let block_size = u64::from(self.block_size());
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let Ok(logical) = u32::try_from(at / block_size) else {
                return corrupt(format!("the size of file {ino}, {size}, is out of range"));
            };
            let run = mapping::find(&mut self.volume, &inode, logical)?;
            let end = run.map_or(u64::from(logical) + 1, |run| run.end());
            let part = (end * block_size - at).min(rest.len() as u64);
            let (now, later) = rest.split_at_mut(narrow(part)?);
            match run.filter(|run| !run.unwritten) {
                Some(run) => {
                    let within = at - u64::from(run.logical) * block_size;
                    let place = run.physical * block_size + within;
                    self.volume.device().read_at(place, now)?;
                }
                None => now.fill(0),
            }
            at += part;
            rest = later;
        }
        Ok(())
    }

    /// A file's runs with data.
    fn data_runs(&mut self, ino: Ino) -> Result<(u64, Vec<Run>)> {
        let inode = self.file(ino)?;
        let mut runs = mapping::all(&mut self.volume, &inode)?.runs;
        runs.retain(|run| !run.unwritten);
        Ok((inode.size(), runs))
    }

    /// The size of a regular file in bytes, and where its data is on the disk, ascending; all
    /// else reads as zero.
    ///
    /// # Errors
    /// When the inode is not a regular file, or the filesystem is damaged.
    pub fn file_extents(&mut self, ino: Ino) -> Result<(u64, Vec<FileExtent>)> {
        let (size, runs) = self.data_runs(ino)?;
        Ok((size, runs.iter().map(extent).collect()))
    }

    /// The byte ranges of a file that have data, ascending; all else reads as zero.
    ///
    /// # Errors
    /// When the inode is not a regular file, or the filesystem is damaged.
    pub fn data_ranges(&mut self, ino: Ino) -> Result<Vec<Range<u64>>> {
        let (size, runs) = self.data_runs(ino)?;
        let block_size = u64::from(self.block_size());
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for run in runs {
            let start = u64::from(run.logical) * block_size;
            let end = (run.end() * block_size).min(size);
            match ranges.last_mut() {
                _ if start >= end => {}
                Some(last) if last.end == start => last.end = end,
                _ => ranges.push(start..end),
            }
        }
        Ok(ranges)
    }
}

impl<D: BlockDeviceMut> Filesystem<D> {
    /// Gives a regular file its size, and places for its data: `data` are the byte ranges
    /// that have any, ascending; all else is a hole. What the file had before is given up.
    ///
    /// Returns where each block that has data goes, in the file's order. The caller writes
    /// all of those blocks; behind the data they must be zero.
    ///
    /// # Errors
    /// When the inode is not a regular file, the size is beyond ext4, or nothing is free.
    pub fn allocate(
        &mut self,
        ino: Ino,
        size: u64,
        data: &[Range<u64>],
    ) -> Result<Vec<FileExtent>> {
        let mut inode = self.file(ino)?;
        let block_size = u64::from(self.block_size());
        let most = u64::from(u32::MAX) * block_size;
        if size > most {
            return Err(Error::FileTooLarge { size, most });
        }
        let ranges = to_blocks(size, data, block_size)?;
        mapping::free(&mut self.volume, &mut inode)?;
        let runs = mapping::allocate(&mut self.volume, &mut inode, &ranges)?;
        inode.set_size(size);
        if size > MAX_SMALL_FILE {
            let superblock = self.volume.superblock_mut();
            superblock.add_ro_compat(ro_compat::LARGE_FILE);
        }
        inode_table::write(&mut self.volume, &mut inode)?;
        Ok(runs.iter().map(extent).collect())
    }

    /// Copies a file's blocks to the same places of another file, which has been given
    /// `extents` for them.
    ///
    /// # Errors
    /// When the inode is not a regular file, the filesystem is damaged, or the device fails.
    pub fn copy_data(&mut self, from: Ino, extents: &[FileExtent]) -> Result<()> {
        let (_, runs) = self.data_runs(from)?;
        let block_size = u64::from(self.block_size());
        let mut sources = runs.iter().peekable();
        for extent in extents {
            let first = u64::from(extent.logical_block);
            let (mut at, end) = (first, first + u64::from(extent.blocks));
            while at < end {
                while sources.next_if(|run| run.end() <= at).is_some() {}
                let Some(run) = sources.peek().filter(|run| u64::from(run.logical) < end) else {
                    break;
                };
                let start = at.max(u64::from(run.logical));
                let stop = end.min(run.end());
                let source = run.physical + (start - u64::from(run.logical));
                let target = extent.physical_block + (start - first);
                self.volume.device_mut().copy_at(
                    source * block_size,
                    target * block_size,
                    (stop - start) * block_size,
                )?;
                at = stop;
            }
        }
        Ok(())
    }
}

fn extent(run: &Run) -> FileExtent {
    FileExtent {
        logical_block: run.logical,
        physical_block: run.physical,
        blocks: run.length,
    }
}

/// The blocks of byte ranges that ascend within a file's size, as first blocks and counts.
fn to_blocks(size: u64, data: &[Range<u64>], block_size: u64) -> Result<Vec<(u32, u64)>> {
    let mut ranges: Vec<(u32, u64)> = Vec::new();
    let (mut end_byte, mut end) = (0, 0);
    for range in data {
        if range.start < end_byte || range.end <= range.start || range.end > size {
            return Err(Error::Ranges(size));
        }
        let first = (range.start / block_size).max(end);
        let next = range.end.div_ceil(block_size);
        end_byte = range.end;
        if next <= first {
            continue;
        }
        match ranges.last_mut() {
            Some(last) if first == end => last.1 += next - first,
            _ => ranges.push((narrow(first)?, next - first)),
        }
        end = next;
    }
    Ok(ranges)
}
