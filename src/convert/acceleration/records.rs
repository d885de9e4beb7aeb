//! The records of a trace: the ranges of the layers in which a list's files are.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::ranges::Ranges;
use crate::format::blob::{Located, Stack};
use crate::format::block::{BlockDevice, ReadOnly, SECTOR};
use crate::format::ext4::{Error, Filesystem};
use crate::format::prefetch::{MAX_COUNT, MAX_RECORDS, PrefetchList, Record};

/// What lies between two pieces of metadata is read with them up to this many bytes: nodes fetch
/// more at once, and the kernel reads inode tables ahead.
const METADATA_GAP: u64 = 256 << 10;
/// The same between files: their last blocks are stored whole.
const DATA_GAP: u64 = 4096;

/// A disk of which is kept what was read.
struct Watched {
    stack: Stack,
    read: Mutex<Ranges>,
}

impl BlockDevice for Watched {
    fn size(&self) -> u64 {
        self.stack.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.saturating_add(buf.len() as u64);
        self.read.lock().add(offset..end);
        self.stack.read_at(offset, buf)
    }
}

/// The records for a list; none if none of its files is there, or has data.
///
/// First comes the metadata that leads to the files, which the kernel reads before them, and then
/// their data in the list's order. What is beyond the most records is left out.
pub(super) fn of(stack: Stack, list: &PrefetchList) -> Result<Vec<Record>, Error> {
    let watched = Arc::new(Watched {
        stack,
        read: Mutex::default(),
    });
    let mut filesystem = Filesystem::open(ReadOnly::new(Arc::clone(&watched)))?;
    let block_size = u64::from(filesystem.block_size());
    let mut data: Vec<Range<u64>> = Vec::new();
    filesystem.visit_files(list.entries(), |filesystem, ino| {
        let (size, extents) = filesystem.file_extents(ino)?;
        let end = size.next_multiple_of(SECTOR);
        for extent in extents {
            let within = u64::from(extent.logical_block) * block_size;
            let length = (u64::from(extent.blocks) * block_size).min(end.saturating_sub(within));
            let start = extent.physical_block * block_size;
            data.push(start..start + length);
        }
        Ok(data.len() < MAX_RECORDS)
    })?;
    drop(filesystem);
    let mut metadata: Vec<Located> = Vec::new();
    for range in watched.read.lock().iter() {
        metadata.extend(watched.stack.locate(range));
    }
    metadata.sort_by_key(|part| (part.layer, part.offset));
    let mut records = Records::default();
    for part in metadata {
        records.add(part, METADATA_GAP);
    }
    // Data is not joined to the metadata, which may end right before it.
    records.is_open = false;
    let mut has_data = false;
    for range in data {
        for part in watched.stack.locate(range) {
            records.add(part, DATA_GAP);
            has_data = true;
        }
    }
    if !has_data {
        return Ok(Vec::new());
    }
    Ok(records.split())
}

/// Pieces in the order in which they are wanted, each byte once.
#[derive(Default)]
struct Records {
    parts: Vec<Located>,
    /// Whether the last piece may grow.
    is_open: bool,
    known: HashMap<usize, Ranges>,
}

impl Records {
    /// Adds a piece, joined to the last one if at most `gap` bytes are between the two.
    fn add(&mut self, part: Located, gap: u64) {
        let mut range = part.offset..part.offset + part.count;
        if let Some(last) = self.parts.last().filter(|_| self.is_open)
            && last.layer == part.layer
            && let end = last.offset + last.count
            && (end..=end + gap).contains(&range.start)
        {
            range.start = end;
        }
        for new in self.known.entry(part.layer).or_default().add(range) {
            match self.parts.last_mut() {
                Some(last)
                    if self.is_open
                        && last.layer == part.layer
                        && last.offset + last.count == new.start =>
                {
                    last.count += new.end - new.start;
                }
                _ => self.parts.push(Located {
                    layer: part.layer,
                    offset: new.start,
                    count: new.end - new.start,
                }),
            }
            self.is_open = true;
        }
    }

    /// The records, of bounded length and number.
    fn split(self) -> Vec<Record> {
        let mut records = Vec::new();
        for part in self.parts {
            let Ok(layer) = u32::try_from(part.layer) else {
                continue;
            };
            let (mut offset, end) = (part.offset, part.offset + part.count);
            while offset < end {
                if records.len() == MAX_RECORDS {
                    return records;
                }
                let count = (end - offset).min(MAX_COUNT);
                records.push(Record {
                    layer,
                    offset,
                    count,
                });
                offset += count;
            }
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(layer: usize, offset: u64, count: u64) -> Located {
        Located {
            layer,
            offset,
            count,
        }
    }

    fn record(layer: u32, offset: u64, count: u64) -> Record {
        Record {
            layer,
            offset,
            count,
        }
    }

    #[test]
    fn neighbours_are_joined_and_no_byte_comes_twice() {
        let mut records = Records::default();
        records.add(part(0, 4096, 512), 1024);
        records.add(part(0, 5632, 512), 1024);
        records.add(part(0, 8192, 512), 1024);
        records.add(part(1, 8704, 512), 1024);
        records.is_open = false;
        records.add(part(1, 9216, 512), 0);
        records.add(part(1, 9728, MAX_COUNT), 0);
        records.add(part(0, 4096, 1024), 0);
        records.add(part(0, 5632, 1024), 0);
        let rest = record(1, 9216 + MAX_COUNT, 512);
        assert_eq!(
            records.split(),
            [
                record(0, 4096, 2048),
                record(0, 8192, 512),
                record(1, 8704, 512),
                record(1, 9216, MAX_COUNT),
                rest,
                record(0, 6144, 512),
            ]
        );
    }
}
