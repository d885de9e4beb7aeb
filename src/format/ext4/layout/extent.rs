//! Nodes of extent trees (`ext4_extents.h`).

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::format::assert_layout::assert_layout;

/// The header of a node (`struct ext4_extent_header`).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct ExtentHeader {
    pub(crate) magic: U16,
    pub(crate) entries: U16,
    /// Entries that the node has room for.
    pub(crate) max: U16,
    /// Levels below: 0 in a leaf.
    pub(crate) depth: U16,
    pub(crate) generation: U32,
}

impl ExtentHeader {
    pub(crate) const MAGIC: u16 = 0xf30a;
}

assert_layout!(ExtentHeader, 12, {
    magic: 0,
    entries: 2,
    max: 4,
    depth: 6,
    generation: 8,
});

/// An entry of a leaf (`struct ext4_extent`).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Extent {
    /// The first block in the file.
    pub(crate) block: U32,
    /// How many blocks; above 32,768 they are unwritten, and the excess is how many.
    pub(crate) len: U16,
    pub(crate) start_hi: U16,
    pub(crate) start_lo: U32,
}

assert_layout!(Extent, 12, { block: 0, len: 4, start_hi: 6, start_lo: 8 });

/// An entry of a node above the leaves (`struct ext4_extent_idx`).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct ExtentIndex {
    /// The first block in the file that the child covers.
    pub(crate) block: U32,
    pub(crate) leaf_lo: U32,
    pub(crate) leaf_hi: U16,
    pub(crate) unused: U16,
}

assert_layout!(ExtentIndex, 12, { block: 0, leaf_lo: 4, leaf_hi: 8, unused: 10 });

/// What follows the entries of a node in a block of its own (`struct ext4_extent_tail`).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct ExtentTail {
    pub(crate) checksum: U32,
}

assert_layout!(ExtentTail, 4, { checksum: 0 });
