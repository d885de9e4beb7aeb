//! The blocks that hold the filesystem's own tables.

use std::ops::Range;

use super::error::{Result, narrow};
use super::group::Group;
use super::superblock::Superblock;

/// Where bitmaps, inode tables, superblocks and descriptors are: these blocks belong to no
/// file, whatever a bitmap says. Disjoint ranges in ascending order.
#[derive(Debug, Default)]
pub(super) struct SystemZone(Vec<Range<u64>>);

impl SystemZone {
    /// The tables of these groups.
    pub(super) fn new(superblock: &Superblock, groups: &[Group]) -> Result<Self> {
        let geometry = superblock.geometry();
        let mut ranges = Vec::new();
        for (number, group) in groups.iter().enumerate() {
            ranges.push(group.block_bitmap..group.block_bitmap + 1);
            ranges.push(group.inode_bitmap..group.inode_bitmap + 1);
            ranges.push(group.inode_table..group.inode_table + geometry.table_blocks());
            let number = narrow(number)?;
            if superblock.has_copy(number) {
                let start = geometry.group_start(number);
                let length = 1 + u64::from(geometry.gdt_blocks + geometry.reserved_gdt);
                ranges.push(start..(start + length).min(geometry.blocks));
            }
        }
        ranges.sort_unstable_by_key(|range| (range.start, range.end));
        let mut joined: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        joined.shrink_to_fit();
        Ok(Self(joined))
    }

    /// Whether any block of a range is in it.
    pub(super) fn overlaps(&self, start: u64, count: u64) -> bool {
        let next = self.0.partition_point(|range| range.end <= start);
        self.0
            .get(next)
            .is_some_and(|range| range.start < start + count)
    }

    /// The parts of it within `start..end`.
    pub(super) fn within(&self, start: u64, end: u64) -> Vec<Range<u64>> {
        let first = self.0.partition_point(|range| range.end <= start);
        let ranges = self.0.get(first..).unwrap_or_default().iter();
        ranges
            .take_while(|range| range.start < end)
            .map(|range| range.start.max(start)..range.end.min(end))
            .collect()
    }
}
