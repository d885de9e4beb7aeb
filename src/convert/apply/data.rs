//! File data onto the disk: written, or mapped to where it is in the tar.

use std::io::Read;

use super::{Entry, FileExtent, Layer, Problem, SLICE, TarReader};
use crate::format::block::{BlockDeviceMut, Wanted};

impl<D: BlockDeviceMut> Layer<'_, D> {
    /// Puts the entry's data into its extents, which ascend; zeros where they hold more. `rank` is
    /// its place among files that are wanted, if it is.
    pub(super) fn place_data<R: Read>(
        &mut self,
        entry: &Entry,
        extents: &[FileExtent],
        rank: Option<u32>,
        tar: &mut TarReader<R>,
    ) -> Result<(), Problem> {
        if entry.size > self.filesystem.device_mut().max_stored_file() {
            return self.map_data(entry, extents, tar);
        }
        let blocks = extents.iter().map(|extent| u64::from(extent.blocks));
        let bytes = blocks.sum::<u64>() * u64::from(self.filesystem.block_size());
        let wanted = rank.map(|rank| Wanted { rank, bytes });
        self.filesystem.device_mut().set_wanted(wanted);
        self.write_data(entry, extents, tar)?;
        self.filesystem.device_mut().set_wanted(None);
        Ok(())
    }

    fn write_data<R: Read>(
        &mut self,
        entry: &Entry,
        extents: &[FileExtent],
        tar: &mut TarReader<R>,
    ) -> Result<(), Problem> {
        let block_size = u64::from(self.filesystem.block_size());
        let mut ranges = entry.data.iter().cloned();
        let mut range = ranges.next();
        for extent in extents {
            let mut done = 0;
            let blocks = u64::from(extent.blocks);
            while done < blocks {
                let count = SLICE.min(blocks - done);
                let start = (u64::from(extent.logical_block) + done) * block_size;
                let end = start + count * block_size;
                self.slice.clear();
                while let Some(next) = range.clone().filter(|next| next.start < end) {
                    self.pad(next.start - start);
                    let stop = next.end.min(end);
                    let from = self.slice.len();
                    self.pad(stop - start);
                    let part = self.slice.get_mut(from..).unwrap_or_default();
                    tar.read_data(part)?;
                    range = if stop < next.end {
                        Some(stop..next.end)
                    } else {
                        ranges.next()
                    };
                }
                self.pad(end - start);
                self.filesystem
                    .device_mut()
                    .write_at((extent.physical_block + done) * block_size, &self.slice)
                    .map_err(Problem::Write)?;
                done += count;
            }
        }
        Ok(())
    }

    /// Zeros up to this length, which is at most a slice's.
    fn pad(&mut self, length: u64) {
        let length = usize::try_from(length).unwrap_or_default();
        if length > self.slice.len() {
            self.slice.resize(length, 0);
        }
    }
}
