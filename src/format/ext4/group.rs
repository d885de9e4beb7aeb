//! Group descriptors, in memory while the filesystem is open.

use zerocopy::{FromBytes, FromZeros};

use super::checksum::Checksums;
use super::error::{Error, Result, corrupt};
use super::geometry::Geometry;
use super::layout::{GroupDescriptor, GroupDescriptorHigh, join16, join32, split16, split32};

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
    /// A bitmap changed, so that its checksum must be computed.
    pub(super) bitmaps_changed: bool,
    /// The descriptor must be stored.
    pub(super) changed: bool,
}

/// Checksums of a group's bitmaps.
#[derive(Debug, Clone, Copy)]
pub(super) struct BitmapChecksums {
    pub(super) blocks: u32,
    pub(super) inodes: u32,
}

fn too_short() -> Error {
    Error::Corrupt("a group descriptor is cut off".into())
}

impl Group {
    /// Reads and checks a group's descriptor, which is all of `raw`.
    pub(super) fn parse(
        raw: &[u8],
        number: u32,
        geometry: &Geometry,
        checksums: Checksums,
    ) -> Result<Self> {
        let (low, rest) = GroupDescriptor::ref_from_prefix(raw).map_err(|_| too_short())?;
        if checksums
            .descriptor(number, raw)
            .is_some_and(|crc| low.checksum != crc)
        {
            return corrupt(format!(
                "the checksum of group descriptor {number} is wrong"
            ));
        }
        let none = GroupDescriptorHigh::new_zeroed();
        let high = GroupDescriptorHigh::ref_from_prefix(rest).map_or(&none, |(high, _)| high);
        let group = Self {
            block_bitmap: join32(low.block_bitmap_lo, high.block_bitmap_hi),
            inode_bitmap: join32(low.inode_bitmap_lo, high.inode_bitmap_hi),
            inode_table: join32(low.inode_table_lo, high.inode_table_hi),
            free_blocks: join16(low.free_blocks_count_lo, high.free_blocks_count_hi),
            free_inodes: join16(low.free_inodes_count_lo, high.free_inodes_count_hi),
            used_dirs: join16(low.used_dirs_count_lo, high.used_dirs_count_hi),
            unused_inodes: join16(low.unused_inodes_count_lo, high.unused_inodes_count_hi),
            flags: low.flags.get(),
            ..Self::default()
        };
        geometry.check("a block bitmap", group.block_bitmap, 1)?;
        geometry.check("an inode bitmap", group.inode_bitmap, 1)?;
        geometry.check("an inode table", group.inode_table, geometry.table_blocks())?;
        Ok(group)
    }

    /// Stores the descriptor in all of `raw`: its fields, the bitmaps' checksums where they
    /// are given, and its own checksum.
    pub(super) fn store(
        &self,
        raw: &mut [u8],
        number: u32,
        bitmaps: Option<BitmapChecksums>,
        checksums: Checksums,
    ) -> Result<()> {
        let (low, rest) = GroupDescriptor::mut_from_prefix(raw).map_err(|_| too_short())?;
        // Without high halves, what is stored in them goes nowhere.
        let mut none = GroupDescriptorHigh::new_zeroed();
        let high = GroupDescriptorHigh::mut_from_prefix(rest).map_or(&mut none, |(high, _)| high);
        (low.block_bitmap_lo, high.block_bitmap_hi) = split32(self.block_bitmap);
        (low.inode_bitmap_lo, high.inode_bitmap_hi) = split32(self.inode_bitmap);
        (low.inode_table_lo, high.inode_table_hi) = split32(self.inode_table);
        (low.free_blocks_count_lo, high.free_blocks_count_hi) = split16(self.free_blocks);
        (low.free_inodes_count_lo, high.free_inodes_count_hi) = split16(self.free_inodes);
        (low.used_dirs_count_lo, high.used_dirs_count_hi) = split16(self.used_dirs);
        (low.unused_inodes_count_lo, high.unused_inodes_count_hi) = split16(self.unused_inodes);
        low.flags.set(self.flags);
        if let Some(crc) = bitmaps {
            (low.block_bitmap_checksum_lo, high.block_bitmap_checksum_hi) = split16(crc.blocks);
            (low.inode_bitmap_checksum_lo, high.inode_bitmap_checksum_hi) = split16(crc.inodes);
        }
        if let Some(crc) = checksums.descriptor(number, raw) {
            let (low, _) = GroupDescriptor::mut_from_prefix(raw).map_err(|_| too_short())?;
            low.checksum.set(crc);
        }
        Ok(())
    }
}
