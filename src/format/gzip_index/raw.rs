//! Structures as they are stored (overlaybd `gzindex/gzfile_index.h`), packed and
//! little-endian.

use zerocopy::little_endian::{I32, I64, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::format::assert_layout::assert_layout;

/// Bytes of the header, behind which the windows begin.
pub(super) const HEADER: usize = 333;
/// Bytes of the header that its CRC covers.
pub(super) const CHECKED: usize = 329;

/// The header (`IndexFileHeader`).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    pub(super) magic: [u8; 8],
    pub(super) major_version: u8,
    pub(super) minor_version: u8,
    pub(super) dict_compress_algo: u8,
    pub(super) dict_compress_level: i8,
    pub(super) flag: u8,
    pub(super) span: I32,
    pub(super) window: I32,
    pub(super) index_size: I32,
    pub(super) index_num: I64,
    pub(super) gzip_file_size: I64,
    pub(super) index_file_size: I64,
    pub(super) uncompress_file_size: I64,
    reserve: [u8; 256],
    pub(super) index_start: I64,
    pub(super) index_area_len: I64,
    pub(super) crc: U32,
}

assert_layout!(RawHeader, HEADER, {
    magic: 0,
    major_version: 8,
    minor_version: 9,
    dict_compress_algo: 10,
    dict_compress_level: 11,
    flag: 12,
    span: 13,
    window: 17,
    index_size: 21,
    index_num: 25,
    gzip_file_size: 33,
    index_file_size: 41,
    uncompress_file_size: 49,
    reserve: 57,
    index_start: 313,
    index_area_len: 321,
    crc: CHECKED,
});

/// An entry of the table (`IndexEntry`).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawEntry {
    pub(super) de_pos: I64,
    pub(super) en_pos: I64,
    pub(super) win_pos: I64,
    pub(super) bits: u8,
    pub(super) win_len: U32,
}

assert_layout!(RawEntry, 29, { de_pos: 0, en_pos: 8, win_pos: 16, bits: 24, win_len: 25 });
