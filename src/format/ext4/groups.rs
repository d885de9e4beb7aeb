//! Group descriptors, in memory while the filesystem is open.

use super::checksum::Checksums;
use super::error::{Result, corrupt};
use super::layout::{gd, get_split, get16, put_split, put16};
use super::superblock::Geometry;

/// What a group's descriptor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Group {
    pub(super) block_bitmap: u64,
    pub(super) inode_bitmap: u64,
    pub(super) inode_table: u64,
    pub(super) free_blocks: u32,
    pub(super) free_inodes: u32,
    pub(super) used_dirs: u32,
    /// Inodes at the end of the table that were never used.
    pub(super) unused_inodes: u32,
    pub(super) flags: u16,
    /// The bitmap was held against the count of free blocks, or of inodes.
    pub(super) blocks_counted: bool,
    pub(super) inodes_counted: bool,
    /// A bitmap changed, so that its checksum must be made.
    pub(super) bitmaps_changed: bool,
    /// The descriptor must be stored.
    pub(super) changed: bool,
}

fn get(raw: &[u8], low: usize, high: usize) -> u32 {
    let upper = if raw.len() >= gd::SIZE_64 {
        get16(raw, high)
    } else {
        0
    };
    u32::from(get16(raw, low)) | u32::from(upper) << 16
}

fn put(raw: &mut [u8], low: usize, high: usize, value: u32) {
    put16(raw, low, value as u16);
    if raw.len() >= gd::SIZE_64 {
        put16(raw, high, (value >> 16) as u16);
    }
}

fn place(raw: &[u8], low: usize, high: usize) -> u64 {
    if raw.len() >= gd::SIZE_64 {
        get_split(raw, low, high)
    } else {
        get_split(raw, low, high) & 0xffff_ffff
    }
}

impl Group {
    /// Reads and checks a group's descriptor.
    pub(super) fn parse(
        raw: &[u8],
        number: u32,
        geometry: &Geometry,
        checksums: Checksums,
    ) -> Result<Self> {
        if checksums
            .descriptor(number, raw)
            .is_some_and(|crc| crc != get16(raw, gd::CHECKSUM))
        {
            return corrupt(format!(
                "the descriptor of group {number} does not have its checksum"
            ));
        }
        // In a short descriptor the high halves are the next one's fields: never looked at.
        let mut wide = [0; gd::SIZE_64];
        let known = raw.len().min(gd::SIZE_64);
        wide[..known].copy_from_slice(&raw[..known]);
        let raw = if raw.len() >= gd::SIZE_64 {
            &wide[..]
        } else {
            &wide[..gd::SIZE]
        };
        let of = |low, high| place(&wide, low, high);
        let group = Self {
            block_bitmap: of(gd::BLOCK_BITMAP, gd::BLOCK_BITMAP_HI),
            inode_bitmap: of(gd::INODE_BITMAP, gd::INODE_BITMAP_HI),
            inode_table: of(gd::INODE_TABLE, gd::INODE_TABLE_HI),
            free_blocks: get(raw, gd::FREE_BLOCKS, gd::FREE_BLOCKS_HI),
            free_inodes: get(raw, gd::FREE_INODES, gd::FREE_INODES_HI),
            used_dirs: get(raw, gd::USED_DIRS, gd::USED_DIRS_HI),
            unused_inodes: get(raw, gd::ITABLE_UNUSED, gd::ITABLE_UNUSED_HI),
            flags: get16(raw, gd::FLAGS),
            ..Self::default()
        };
        geometry.check("a block bitmap", group.block_bitmap, 1)?;
        geometry.check("an inode bitmap", group.inode_bitmap, 1)?;
        geometry.check("an inode table", group.inode_table, geometry.table_blocks())?;
        Ok(group)
    }

    /// Stores the descriptor, all but its checksums.
    pub(super) fn store(&self, raw: &mut [u8]) {
        for (low, high, value) in [
            (gd::BLOCK_BITMAP, gd::BLOCK_BITMAP_HI, self.block_bitmap),
            (gd::INODE_BITMAP, gd::INODE_BITMAP_HI, self.inode_bitmap),
            (gd::INODE_TABLE, gd::INODE_TABLE_HI, self.inode_table),
        ] {
            if raw.len() >= gd::SIZE_64 {
                put_split(raw, low, high, value);
            } else {
                super::layout::put32(raw, low, value as u32);
            }
        }
        put(raw, gd::FREE_BLOCKS, gd::FREE_BLOCKS_HI, self.free_blocks);
        put(raw, gd::FREE_INODES, gd::FREE_INODES_HI, self.free_inodes);
        put(raw, gd::USED_DIRS, gd::USED_DIRS_HI, self.used_dirs);
        put(
            raw,
            gd::ITABLE_UNUSED,
            gd::ITABLE_UNUSED_HI,
            self.unused_inodes,
        );
        put16(raw, gd::FLAGS, self.flags);
    }

    /// Stores the bitmaps' checksums.
    pub(super) fn store_bitmap_checksums(raw: &mut [u8], blocks: u32, inodes: u32) {
        for (low, high, value) in [
            (gd::BLOCK_BITMAP_CSUM, gd::BLOCK_BITMAP_CSUM_HI, blocks),
            (gd::INODE_BITMAP_CSUM, gd::INODE_BITMAP_CSUM_HI, inodes),
        ] {
            put(raw, low, high, value);
        }
    }

    /// Stores the descriptor's own checksum, over all that is stored.
    pub(super) fn seal(raw: &mut [u8], number: u32, checksums: Checksums) {
        if let Some(crc) = checksums.descriptor(number, raw) {
            put16(raw, gd::CHECKSUM, crc);
        }
    }
}

/// Where bitmaps, tables, superblocks and descriptors are: no file's, whatever a bitmap says.
#[derive(Debug, Default)]
pub(super) struct SystemZone(Vec<(u64, u64)>);

impl SystemZone {
    /// From ranges of first block and first block behind, in any order.
    pub(super) fn new(mut ranges: Vec<(u64, u64)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::new();
        for (start, end) in ranges {
            match joined.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => joined.push((start, end)),
            }
        }
        joined.shrink_to_fit();
        Self(joined)
    }

    /// Whether any block of a range is in it.
    pub(super) fn overlaps(&self, start: u64, count: u64) -> bool {
        let next = self.0.partition_point(|range| range.1 <= start);
        self.0
            .get(next)
            .is_some_and(|range| range.0 < start + count)
    }
}

impl SystemZone {
    /// The parts of it within `start..end`.
    pub(super) fn within(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let first = self.0.partition_point(|range| range.1 <= start);
        let ranges = self.0.get(first..).unwrap_or_default().iter();
        ranges
            .take_while(|range| range.0 < end)
            .map(|range| (range.0.max(start), range.1.min(end)))
            .collect()
    }
}
