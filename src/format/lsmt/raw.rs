//! Structures as they are stored (overlaybd `lsmt/file.cpp`, `lsmt/index.h`). Everything is
//! little-endian.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::format::assert_layout::assert_layout;

/// Bytes of a header or trailer, and what the index is padded to.
pub(crate) const SPACE: usize = 4096;
/// Bytes of a header that are in use.
pub(super) const USED: u32 = 390;

/// A header or trailer (`HeaderTrailer`).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawHeader {
    pub(super) magic: [u8; 24],
    pub(super) size: U32,
    pub(super) flags: U32,
    pub(super) index_offset: U64,
    pub(super) index_size: U64,
    pub(super) virtual_size: U64,
    pub(super) uuid: [u8; 37],
    pub(super) parent_uuid: [u8; 37],
    from: U16,
    pub(super) version: u8,
    pub(super) sub_version: u8,
    pub(super) user_tag: [u8; 256],
    unused: [u8; 3706],
}

assert_layout!(RawHeader, SPACE, {
    magic: 0,
    size: 24,
    flags: 28,
    index_offset: 32,
    index_size: 40,
    virtual_size: 48,
    uuid: 56,
    parent_uuid: 93,
    version: 132,
    sub_version: 133,
    user_tag: 134,
    unused: USED as usize,
});

/// An entry of the index (`SegmentMapping`).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawMapping {
    /// 50 bits of the offset, below 14 of the length.
    pub(super) offset_and_length: U64,
    /// 55 bits of where the content is, below the mark of zeros and 8 bits of the tag.
    pub(super) target: U64,
}

assert_layout!(RawMapping, 16, { offset_and_length: 0, target: 8 });
