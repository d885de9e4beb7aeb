//! The superblock (`struct ext4_super_block`).

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::format::assert_layout::assert_layout;

/// Byte offset of the superblock on the disk.
pub(crate) const SUPERBLOCK_OFFSET: u64 = 1024;
/// Bytes of the superblock.
pub(crate) const SUPERBLOCK_LEN: usize = 1024;
pub(crate) const MAGIC: u16 = 0xef53;

/// Bits of [`RawSuperblock::flags`]: names are hashed as signed or unsigned bytes.
pub(crate) mod superblock_flags {
    pub(crate) const SIGNED_HASH: u32 = 1;
    pub(crate) const UNSIGNED_HASH: u32 = 2;
}

/// The superblock as it is stored. Fields that this engine neither reads nor sets are kept as
/// bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawSuperblock {
    pub(crate) inodes_count: U32,
    pub(crate) blocks_count_lo: U32,
    reserved_blocks_count_lo: U32,
    pub(crate) free_blocks_count_lo: U32,
    pub(crate) free_inodes_count: U32,
    pub(crate) first_data_block: U32,
    pub(crate) log_block_size: U32,
    pub(crate) log_cluster_size: U32,
    pub(crate) blocks_per_group: U32,
    pub(crate) clusters_per_group: U32,
    pub(crate) inodes_per_group: U32,
    mount_and_write_time: [u8; 8],
    mount_count: U16,
    pub(crate) max_mount_count: U16,
    pub(crate) magic: U16,
    pub(crate) state: U16,
    pub(crate) errors: U16,
    minor_revision: U16,
    check_times_and_creator: [u8; 12],
    pub(crate) revision: U32,
    default_reserved_owner: [u8; 4],
    pub(crate) first_inode: U32,
    pub(crate) inode_size: U16,
    pub(crate) block_group: U16,
    pub(crate) feature_compat: U32,
    pub(crate) feature_incompat: U32,
    pub(crate) feature_ro_compat: U32,
    pub(crate) uuid: [u8; 16],
    names_and_preallocation: [u8; 86],
    pub(crate) reserved_gdt_blocks: U16,
    journal: [u8; 24],
    pub(crate) last_orphan: U32,
    pub(crate) hash_seed: [U32; 4],
    pub(crate) default_hash_version: u8,
    journal_backup_type: u8,
    pub(crate) desc_size: U16,
    pub(crate) default_mount_options: U32,
    meta_group_and_journal_backup: [u8; 76],
    pub(crate) blocks_count_hi: U32,
    reserved_blocks_count_hi: U32,
    pub(crate) free_blocks_count_hi: U32,
    pub(crate) min_extra_isize: U16,
    pub(crate) want_extra_isize: U16,
    pub(crate) flags: U32,
    raid_and_mmp: [u8; 16],
    pub(crate) log_groups_per_flex: u8,
    pub(crate) checksum_type: u8,
    statistics_and_mount_options: [u8; 214],
    pub(crate) backup_groups: [U32; 2],
    encryption_and_quota: [u8; 28],
    pub(crate) checksum_seed: U32,
    reserved: [u8; 392],
    pub(crate) checksum: U32,
}

assert_layout!(RawSuperblock, SUPERBLOCK_LEN, {
    inodes_count: 0x0,
    blocks_count_lo: 0x4,
    free_blocks_count_lo: 0xc,
    free_inodes_count: 0x10,
    first_data_block: 0x14,
    log_block_size: 0x18,
    log_cluster_size: 0x1c,
    blocks_per_group: 0x20,
    clusters_per_group: 0x24,
    inodes_per_group: 0x28,
    max_mount_count: 0x36,
    magic: 0x38,
    state: 0x3a,
    errors: 0x3c,
    revision: 0x4c,
    first_inode: 0x54,
    inode_size: 0x58,
    block_group: 0x5a,
    feature_compat: 0x5c,
    feature_incompat: 0x60,
    feature_ro_compat: 0x64,
    uuid: 0x68,
    reserved_gdt_blocks: 0xce,
    last_orphan: 0xe8,
    hash_seed: 0xec,
    default_hash_version: 0xfc,
    desc_size: 0xfe,
    default_mount_options: 0x100,
    blocks_count_hi: 0x150,
    free_blocks_count_hi: 0x158,
    min_extra_isize: 0x15c,
    want_extra_isize: 0x15e,
    flags: 0x160,
    log_groups_per_flex: 0x174,
    checksum_type: 0x175,
    backup_groups: 0x24c,
    checksum_seed: 0x270,
    checksum: 0x3fc,
});
