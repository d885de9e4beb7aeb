//! Where the filesystem's own tables are.

use std::ops::Range;

use super::Filesystem;
use crate::format::block::BlockDevice;
use crate::format::ext4::error::{Result, narrow};
use crate::format::ext4::types::Area;

impl<D: BlockDevice> Filesystem<D> {
    /// The tables of the filesystem and where they are on the disk, in bytes, ascending. What is
    /// in no table belongs to files, directories, or to nothing.
    ///
    /// # Errors
    /// When the filesystem is damaged.
    pub fn areas(&self) -> Result<Vec<(Area, Range<u64>)>> {
        let (geometry, superblock) = (self.volume.geometry(), self.volume.superblock());
        let mut areas = Vec::new();
        let mut add = |area, start: u64, count: u64| {
            let end = start.saturating_add(count).min(geometry.blocks);
            areas.push((area, geometry.offset(start)..geometry.offset(end)));
        };
        // Blocks of 1 KiB leave the boot block before the superblock's.
        add(Area::Superblock, 0, geometry.first_block);
        for number in 0..geometry.groups {
            let group = self.volume.group(narrow(number)?)?;
            add(Area::Bitmaps, group.block_bitmap, 1);
            add(Area::Bitmaps, group.inode_bitmap, 1);
            add(Area::Inodes, group.inode_table, geometry.table_blocks());
            if superblock.has_copy(number) {
                let start = geometry.group_start(number);
                let table = u64::from(geometry.gdt_blocks + geometry.reserved_gdt);
                add(Area::Superblock, start, 1);
                add(Area::GroupDescriptors, start + 1, table);
            }
        }
        areas.sort_by_key(|(_, range)| range.start);
        Ok(areas)
    }
}
