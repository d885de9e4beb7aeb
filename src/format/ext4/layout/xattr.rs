//! Extended attributes (`xattr.h`).

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::format::assert_layout::assert_layout;

/// What stands before the entries in an inode (`struct ext4_xattr_ibody_header`).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct XattrInodeHeader {
    pub(crate) magic: U32,
}

impl XattrInodeHeader {
    pub(crate) const MAGIC: u32 = 0xea02_0000;
}

assert_layout!(XattrInodeHeader, 4, { magic: 0 });

/// What stands before the entries in a block (`struct ext4_xattr_header`).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct XattrBlockHeader {
    pub(crate) magic: U32,
    /// Inodes that share the block.
    pub(crate) refcount: U32,
    pub(crate) blocks: U32,
    pub(crate) hash: U32,
    pub(crate) checksum: U32,
    reserved: [U32; 3],
}

assert_layout!(XattrBlockHeader, 32, {
    magic: 0,
    refcount: 4,
    blocks: 8,
    hash: 12,
    checksum: 16,
});

/// An entry before its name (`struct ext4_xattr_entry`).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct XattrEntry {
    pub(crate) name_len: u8,
    /// Number of the name's prefix.
    pub(crate) name_index: u8,
    pub(crate) value_offset: U16,
    /// The inode with the value; 0 where it is beside the entries.
    pub(crate) value_inode: U32,
    pub(crate) value_size: U32,
    pub(crate) hash: U32,
}

assert_layout!(XattrEntry, 16, {
    name_len: 0,
    name_index: 1,
    value_offset: 2,
    value_inode: 4,
    value_size: 8,
    hash: 12,
});
