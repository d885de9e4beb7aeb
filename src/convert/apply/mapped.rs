//! File data that stays in the tar: the disk's sectors are mapped to it.

use std::io::Read;
use std::ops::Range;

use super::{Entry, FileExtent, Layer, Problem, TarReader};
use crate::format::block::{BlockDeviceMut, SECTOR};

/// Bytes of data that are skipped at once.
const SKIP_BYTES: u64 = 64 << 10;

/// A range of a file's bytes that have data, and where in the tar they are.
struct Segment {
    file: Range<u64>,
    tar: u64,
}

impl<D: BlockDeviceMut> Layer<'_, D> {
    /// Maps the extents of an entry to its data in the tar, and reads past that. Written are
    /// blocks whose data does not lie on the tar's sectors, as in sparse files, and a last sector
    /// whose padding in the tar is not zero.
    pub(super) fn map_data<R: Read>(
        &mut self,
        entry: &Entry,
        extents: &[FileExtent],
        tar: &mut TarReader<R>,
    ) -> Result<(), Problem> {
        let block_size = u64::from(self.filesystem.block_size());
        let mut at = tar.position();
        let segments: Vec<Segment> = entry
            .data
            .iter()
            .map(|file| {
                let tar = at;
                at += file.end - file.start;
                Segment {
                    file: file.clone(),
                    tar,
                }
            })
            .collect();
        let mut segments = &segments[..];
        for extent in extents {
            let mut block = u64::from(extent.logical_block);
            let end = block + u64::from(extent.blocks);
            let disk = extent.physical_block * block_size;
            let first = block * block_size;
            while block < end {
                let start = block * block_size;
                while let [done, rest @ ..] = segments
                    && done.file.end <= start
                {
                    segments = rest;
                }
                let place = disk + (start - first);
                let blocks = match segments.first() {
                    Some(segment) => whole_blocks(segment, start, entry.size, block_size),
                    None => 0,
                };
                let blocks = blocks.min(end - block);
                match segments {
                    [segment, ..] if blocks > 0 => {
                        let stop = (start + blocks * block_size).min(segment.file.end);
                        self.map_blocks(segment, start..stop, place, tar)?;
                        block += blocks;
                    }
                    _ => {
                        let stop = (start + block_size).min(entry.size);
                        self.store_block(segments, start..stop, place, tar)?;
                        block += 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// Maps whole blocks of one segment; the last one may be the file's last.
    fn map_blocks<R: Read>(
        &mut self,
        segment: &Segment,
        file: Range<u64>,
        place: u64,
        tar: &mut TarReader<R>,
    ) -> Result<(), Problem> {
        let block_size = u64::from(self.filesystem.block_size());
        let length = file.end - file.start;
        let tail = length % SECTOR;
        let target = segment.tar + (file.start - segment.file.start);
        self.skip(length - tail, tar)?;
        let mut mapped = length - tail;
        let mut last = [0; 512];
        let mut stored = 0;
        if tail > 0 {
            let part = last.get_mut(..usize::try_from(tail).unwrap_or_default());
            tar.read_data(part.unwrap_or_default())?;
            if tar.read_padding()? {
                mapped += SECTOR;
            } else {
                stored = SECTOR;
            }
        }
        let device = self.filesystem.device_mut();
        let end = length.next_multiple_of(block_size);
        if mapped > 0 {
            device
                .map_target(place, mapped, target)
                .map_err(Problem::Write)?;
        }
        if stored > 0 {
            device
                .write_at(place + mapped, &last)
                .map_err(Problem::Write)?;
        }
        let done = mapped + stored;
        if done < end {
            device
                .zero_at(place + done, end - done)
                .map_err(Problem::Write)?;
        }
        Ok(())
    }

    /// Writes one block, with the data of the segments that reach into it.
    fn store_block<R: Read>(
        &mut self,
        segments: &[Segment],
        file: Range<u64>,
        place: u64,
        tar: &mut TarReader<R>,
    ) -> Result<(), Problem> {
        let block_size = usize::try_from(self.filesystem.block_size()).unwrap_or_default();
        self.slice.clear();
        self.slice.resize(block_size, 0);
        for segment in segments {
            let from = segment.file.start.max(file.start);
            let to = segment.file.end.min(file.end);
            if from >= to {
                break;
            }
            let within = |at: u64| usize::try_from(at - file.start).unwrap_or_default();
            let part = self.slice.get_mut(within(from)..within(to));
            tar.read_data(part.unwrap_or_default())?;
        }
        let device = self.filesystem.device_mut();
        device.write_at(place, &self.slice).map_err(Problem::Write)
    }

    fn skip<R: Read>(&mut self, bytes: u64, tar: &mut TarReader<R>) -> Result<(), Problem> {
        let mut left = bytes;
        while left > 0 {
            let part = left.min(SKIP_BYTES);
            self.slice
                .resize(usize::try_from(part).unwrap_or_default(), 0);
            tar.read_data(&mut self.slice)?;
            left -= part;
        }
        Ok(())
    }
}

/// How many blocks from byte `start` of the file on, a multiple of the block size, can be mapped
/// to the segment: they are full of its data, or the last is the file's last, and their bytes lie
/// on sectors of the tar.
fn whole_blocks(segment: &Segment, start: u64, size: u64, block_size: u64) -> u64 {
    if segment.file.start > start {
        return 0;
    }
    let target = segment.tar + (start - segment.file.start);
    if !target.is_multiple_of(SECTOR) {
        return 0;
    }
    let length = segment.file.end - start;
    if segment.file.end == size {
        length.div_ceil(block_size)
    } else {
        length / block_size
    }
}
