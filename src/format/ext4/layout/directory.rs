//! Blocks of directories: entries (`struct ext4_dir_entry_2`), and the index of hashes
//! (`namei.c`).

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::format::assert_layout::assert_layout;

/// Most bytes of a name.
pub(crate) const MAX_NAME: usize = 255;

/// An entry before its name.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct EntryHeader {
    /// 0 where the entry is unused.
    pub(crate) inode: U32,
    /// Bytes up to the next entry.
    pub(crate) record_len: U16,
    pub(crate) name_len: u8,
    /// The file type's code; 0 without the feature `filetype`.
    pub(crate) file_type: u8,
}

assert_layout!(EntryHeader, 8, { inode: 0, record_len: 4, name_len: 6, file_type: 7 });

/// What ends a block of entries with a checksum: an unused entry
/// (`struct ext4_dir_entry_tail`).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct DirectoryTail {
    pub(crate) header: EntryHeader,
    pub(crate) checksum: U32,
}

impl DirectoryTail {
    /// The file type's code that marks the entry.
    pub(crate) const FILE_TYPE: u8 = 0xde;
}

assert_layout!(DirectoryTail, 12, { header: 0, checksum: 8 });

/// What an index is (`struct dx_root_info`).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct IndexInfo {
    reserved: U32,
    pub(crate) hash_version: u8,
    pub(crate) info_length: u8,
    /// Levels of index blocks below the root.
    pub(crate) indirect_levels: u8,
    unused_flags: u8,
}

assert_layout!(IndexInfo, 8, { hash_version: 4, info_length: 5, indirect_levels: 6 });

/// The start of an index's first block, before its entries (`struct dx_root`).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct IndexRoot {
    dot: EntryHeader,
    dot_name: [u8; 4],
    dot_dot: EntryHeader,
    dot_dot_name: [u8; 4],
    pub(crate) info: IndexInfo,
}

assert_layout!(IndexRoot, 32, { dot: 0, dot_dot: 12, info: 24 });

/// The start of any other block of an index: an unused entry that fills the block
/// (`struct dx_node`).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct IndexNode {
    pub(crate) whole: EntryHeader,
}

assert_layout!(IndexNode, 8, { whole: 0 });

/// An entry of an index (`struct dx_entry`).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct IndexEntry {
    /// The lowest hash in the block; in a node's first entry there is an [`IndexCount`].
    pub(crate) hash: U32,
    /// The block in the directory.
    pub(crate) block: U32,
}

assert_layout!(IndexEntry, 8, { hash: 0, block: 4 });

/// In place of the first entry's hash (`struct dx_countlimit`).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct IndexCount {
    /// Entries that the node has room for.
    pub(crate) limit: U16,
    pub(crate) count: U16,
}

assert_layout!(IndexCount, 4, { limit: 0, count: 2 });

/// What follows the room for entries, with checksums (`struct dx_tail`).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct IndexTail {
    pub(crate) reserved: U32,
    pub(crate) checksum: U32,
}

assert_layout!(IndexTail, 8, { reserved: 0, checksum: 4 });

/// Where in a block of an index its [`IndexCount`] is: behind an [`IndexRoot`], which begins
/// with the entry `.` of 12 bytes, or an [`IndexNode`] (`get_dx_countlimit`).
pub(crate) fn index_count_offset(block: &[u8]) -> usize {
    let first = EntryHeader::ref_from_prefix(block);
    if first.is_ok_and(|(first, _)| first.record_len == 12) {
        size_of::<IndexRoot>()
    } else {
        size_of::<IndexNode>()
    }
}
