//! Structures of a trace as they are stored (overlaybd `src/prefetch.cpp`): C structs with natural
//! alignment, little-endian.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::format::assert_layout::assert_layout;

/// The header (`TraceHeader`).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    pub(super) magic: U32,
    pub(super) padding: [u8; 4],
    /// Bytes of all records.
    pub(super) data_size: U64,
    /// Of all records, their padding included.
    pub(super) checksum: U32,
    pub(super) end: [u8; 4],
}

assert_layout!(RawHeader, 24, { magic: 0, padding: 4, data_size: 8, checksum: 16, end: 20 });

/// A record (`TraceFormat`).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawRecord {
    pub(super) op: u8,
    pub(super) padding: [u8; 3],
    pub(super) layer: U32,
    pub(super) count: U64,
    /// Signed, in C.
    pub(super) offset: U64,
}

assert_layout!(RawRecord, 24, { op: 0, padding: 1, layer: 4, count: 8, offset: 16 });
