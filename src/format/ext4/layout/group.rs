//! Group descriptors (`struct ext4_group_desc`).

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::format::assert_layout::assert_layout;

/// Bits of [`GroupDescriptor::flags`].
pub(crate) mod group_flags {
    /// The inode bitmap is not on the disk: all inodes are free.
    pub(crate) const INODE_UNINIT: u16 = 1;
    /// The block bitmap is not on the disk: all but the group's own metadata is free.
    pub(crate) const BLOCK_UNINIT: u16 = 2;
}

/// The first half of a descriptor; all of it without the feature `64bit`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct GroupDescriptor {
    pub(crate) block_bitmap_lo: U32,
    pub(crate) inode_bitmap_lo: U32,
    pub(crate) inode_table_lo: U32,
    pub(crate) free_blocks_count_lo: U16,
    pub(crate) free_inodes_count_lo: U16,
    pub(crate) used_dirs_count_lo: U16,
    pub(crate) flags: U16,
    exclude_bitmap_lo: U32,
    pub(crate) block_bitmap_checksum_lo: U16,
    pub(crate) inode_bitmap_checksum_lo: U16,
    pub(crate) unused_inodes_count_lo: U16,
    pub(crate) checksum: U16,
}

assert_layout!(GroupDescriptor, 32, {
    block_bitmap_lo: 0x0,
    inode_bitmap_lo: 0x4,
    inode_table_lo: 0x8,
    free_blocks_count_lo: 0xc,
    free_inodes_count_lo: 0xe,
    used_dirs_count_lo: 0x10,
    flags: 0x12,
    block_bitmap_checksum_lo: 0x18,
    inode_bitmap_checksum_lo: 0x1a,
    unused_inodes_count_lo: 0x1c,
    checksum: 0x1e,
});

/// The second half of a descriptor, with the feature `64bit`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct GroupDescriptorHigh {
    pub(crate) block_bitmap_hi: U32,
    pub(crate) inode_bitmap_hi: U32,
    pub(crate) inode_table_hi: U32,
    pub(crate) free_blocks_count_hi: U16,
    pub(crate) free_inodes_count_hi: U16,
    pub(crate) used_dirs_count_hi: U16,
    pub(crate) unused_inodes_count_hi: U16,
    exclude_bitmap_hi: U32,
    pub(crate) block_bitmap_checksum_hi: U16,
    pub(crate) inode_bitmap_checksum_hi: U16,
    reserved: U32,
}

// From byte 32 of the whole descriptor on.
assert_layout!(GroupDescriptorHigh, 32, {
    block_bitmap_hi: 0x0,
    inode_bitmap_hi: 0x4,
    inode_table_hi: 0x8,
    free_blocks_count_hi: 0xc,
    free_inodes_count_hi: 0xe,
    used_dirs_count_hi: 0x10,
    unused_inodes_count_hi: 0x12,
    block_bitmap_checksum_hi: 0x18,
    inode_bitmap_checksum_hi: 0x1a,
});
