//! The structure of header and trailer (overlaybd `zfile/zfile.cpp`, `HeaderTrailer`).
//! Everything is little-endian.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::format::assert_layout::assert_layout;

/// Bytes of a header or trailer.
pub(super) const SPACE: usize = 512;
/// Bytes of it that are in use.
pub(super) const USED: u32 = 96;

/// A header or trailer.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    pub(super) magic: [u8; 24],
    pub(super) size: U32,
    /// CRC-32C of all bytes, with zeros in this field.
    pub(super) digest: U32,
    pub(super) flags: U64,
    pub(super) index_offset: U64,
    pub(super) index_size: U64,
    pub(super) original_size: U64,
    pub(super) index_crc: U32,
    reserved: U32,
    pub(super) block_size: U32,
    pub(super) algorithm: u8,
    level: u8,
    pub(super) use_dictionary: u8,
    reserved_2: u8,
    arguments: U32,
    pub(super) dictionary_size: U32,
    pub(super) verify: u8,
    reserved_3: [u8; 7],
    unused: [u8; 416],
}

assert_layout!(RawHeader, SPACE, {
    magic: 0,
    size: 24,
    digest: 28,
    flags: 32,
    index_offset: 40,
    index_size: 48,
    original_size: 56,
    index_crc: 64,
    block_size: 72,
    algorithm: 76,
    use_dictionary: 78,
    dictionary_size: 84,
    verify: 88,
    unused: USED as usize,
});
