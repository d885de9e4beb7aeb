//! Inodes (`struct ext4_inode`).

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::format::assert_layout::assert_layout;

/// Number of the root directory's inode.
pub(crate) const ROOT: u32 = 2;
/// Number of the first inode that is not reserved.
pub(crate) const FIRST_INODE: u32 = 11;
/// Most links of an inode (`EXT4_LINK_MAX`).
pub(crate) const MAX_LINKS: u16 = 65_000;

/// Bytes of the oldest form of an inode (`EXT4_GOOD_OLD_INODE_SIZE`).
pub(crate) const INODE_BASE_LEN: usize = 128;
/// Bytes of `i_block`.
pub(crate) const BLOCK_MAP_LEN: usize = 60;

/// The bits of a mode that are the file's type.
pub(crate) const MODE_TYPE_MASK: u16 = 0o170_000;

/// Bits of [`InodeBase::flags`].
pub(crate) mod inode_flags {
    pub(crate) const INDEX: u32 = 0x1000;
    pub(crate) const HUGE_FILE: u32 = 0x4_0000;
    pub(crate) const EXTENTS: u32 = 0x8_0000;
}

/// The oldest form of an inode.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct InodeBase {
    pub(crate) mode: U16,
    pub(crate) uid_lo: U16,
    pub(crate) size_lo: U32,
    pub(crate) atime: U32,
    pub(crate) ctime: U32,
    pub(crate) mtime: U32,
    dtime: U32,
    pub(crate) gid_lo: U16,
    pub(crate) links_count: U16,
    pub(crate) blocks_lo: U32,
    pub(crate) flags: U32,
    version: U32,
    pub(crate) block: [u8; BLOCK_MAP_LEN],
    pub(crate) generation: U32,
    pub(crate) file_acl_lo: U32,
    pub(crate) size_hi: U32,
    fragment_address: U32,
    pub(crate) blocks_hi: U16,
    pub(crate) file_acl_hi: U16,
    pub(crate) uid_hi: U16,
    pub(crate) gid_hi: U16,
    pub(crate) checksum_lo: U16,
    reserved: U16,
}

assert_layout!(InodeBase, INODE_BASE_LEN, {
    mode: 0x0,
    uid_lo: 0x2,
    size_lo: 0x4,
    atime: 0x8,
    ctime: 0xc,
    mtime: 0x10,
    gid_lo: 0x18,
    links_count: 0x1a,
    blocks_lo: 0x1c,
    flags: 0x20,
    block: 0x28,
    generation: 0x64,
    file_acl_lo: 0x68,
    size_hi: 0x6c,
    blocks_hi: 0x74,
    file_acl_hi: 0x76,
    uid_hi: 0x78,
    gid_hi: 0x7a,
    checksum_lo: 0x7c,
});

/// What follows in inodes of 256 bytes and more. `extra_isize` says how many of its bytes are
/// in use.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct InodeExtra {
    pub(crate) extra_isize: U16,
    pub(crate) checksum_hi: U16,
    pub(crate) ctime_extra: U32,
    pub(crate) mtime_extra: U32,
    pub(crate) atime_extra: U32,
    pub(crate) crtime: U32,
    pub(crate) crtime_extra: U32,
    version_hi: U32,
    project_id: U32,
}

// From byte 128 of the whole inode on.
assert_layout!(InodeExtra, 32, {
    extra_isize: 0x0,
    checksum_hi: 0x2,
    ctime_extra: 0x4,
    mtime_extra: 0x8,
    atime_extra: 0xc,
    crtime: 0x10,
    crtime_extra: 0x14,
});
