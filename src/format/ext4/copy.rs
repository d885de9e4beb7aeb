//! A file's data once more, for another file.

use std::ops::Range;

use super::error::{Error, Result};
use super::extents::Run;
use super::filesystem::Filesystem;
use super::inode::Inode;
use super::types::{FileExtent, FileType, Ino};
use crate::format::block::{BlockDevice, BlockDeviceMut};

impl<D: BlockDevice> Filesystem<D> {
    /// A regular file and where it has data.
    fn file_data(&mut self, ino: Ino) -> Result<(Inode, Vec<Run>)> {
        let inode = self.inode(ino)?;
        if inode.file_type() != Some(FileType::File) {
            return Err(Error::WrongType(ino, "a regular file"));
        }
        let mut runs = self.file_blocks(&inode)?.runs;
        runs.retain(|run| !run.unwritten);
        Ok((inode, runs))
    }

    /// The byte ranges of a file that have data, ascending; all else reads as zero.
    ///
    /// # Errors
    /// When the inode is no regular file, or the filesystem is damaged.
    pub fn data_ranges(&mut self, ino: Ino) -> Result<Vec<Range<u64>>> {
        let (inode, runs) = self.file_data(ino)?;
        let block_size = u64::from(self.sb.geometry.block_size);
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for run in runs {
            let start = u64::from(run.logical) * block_size;
            let end = (run.end() * block_size).min(inode.size());
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
    /// Copies a file's blocks to the same places of another file, which has been given
    /// `extents` for them.
    ///
    /// # Errors
    /// When the inode is no regular file, the filesystem is damaged, or the device fails.
    pub fn copy_data(&mut self, from: Ino, extents: &[FileExtent]) -> Result<()> {
        let (_, runs) = self.file_data(from)?;
        let block_size = u64::from(self.sb.geometry.block_size);
        let mut sources = runs.iter().peekable();
        for extent in extents {
            let (mut at, end) = (
                u64::from(extent.logical_block),
                u64::from(extent.logical_block) + u64::from(extent.blocks),
            );
            while at < end {
                while sources.next_if(|run| run.end() <= at).is_some() {}
                let Some(run) = sources.peek().filter(|run| u64::from(run.logical) < end) else {
                    break;
                };
                let start = at.max(u64::from(run.logical));
                let stop = end.min(run.end());
                let source = run.physical + (start - u64::from(run.logical));
                let target = extent.physical_block + (start - u64::from(extent.logical_block));
                self.cache.device.copy_at(
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
