//! Header and trailer: one layout of 512 bytes, 96 of them used.

use super::codec::{Algorithm, BlockSize};
use crate::format::crc::crc32c;

/// Bytes of a header or trailer.
pub(super) const SPACE: usize = 512;
/// CRC register that a block's checksum starts from.
pub(super) const BLOCK_CRC_INIT: u32 = 100_007;
/// Bytes of the checksum behind a block.
pub(super) const BLOCK_CRC: usize = 4;
/// The reference reads through a buffer of 64 KiB: a larger stored block cannot be read.
pub(super) const MAX_STORED: usize = 65_536;

const MAGIC: [u8; 24] = *b"ZFile\0\x01\0tuji.yyf@Alibaba";
const USED: u32 = 96;

const FLAG_HEADER: u64 = 1;
const FLAG_DATA_FILE: u64 = 1 << 1;
const FLAG_SEALED: u64 = 1 << 2;
const FLAG_HEADER_OVERWRITTEN: u64 = 1 << 3;
const FLAG_DIGEST: u64 = 1 << 4;
const FLAG_INDEX_COMPRESSED: u64 = 1 << 5;

/// What is wrong with a header or trailer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Another kind of file.
    #[error("it does not begin with ZFile's magic")]
    Magic,
    /// The bytes are damaged.
    #[error("its digest is {stored:08x} and its bytes have {computed:08x}")]
    Digest {
        /// As stored.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// A field that makes no sense.
    #[error("its {field} is {value}, which is out of range")]
    Range {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A feature that this reader does not have.
    #[error("it uses {0}, which is not supported")]
    Unsupported(&'static str),
}

/// What header and trailer say, validated field by field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Geometry {
    /// Byte offset of the index from the `ZFile`'s start.
    pub index_offset: u64,
    /// Number of blocks.
    pub index_size: u64,
    /// Bytes of the original file.
    pub original_size: u64,
    /// Raw CRC-32C of the index as stored.
    pub index_crc: u32,
    /// Bytes of the original in a block.
    pub block_size: BlockSize,
    /// How blocks are compressed.
    pub algorithm: Algorithm,
    /// Whether a CRC follows each block.
    pub verify: bool,
}

/// Which of the two places a layout is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Header,
    Trailer,
}

fn u32_at(bytes: &[u8; SPACE], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

fn u64_at(bytes: &[u8; SPACE], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

fn digest(bytes: &[u8; SPACE]) -> u32 {
    let mut zeroed = *bytes;
    zeroed[28..32].fill(0);
    crc32c(0, &zeroed)
}

impl Geometry {
    pub(super) fn encode(&self, place: Place) -> [u8; SPACE] {
        let mut bytes = [0; SPACE];
        let flags = FLAG_DATA_FILE
            | FLAG_DIGEST
            | match place {
                Place::Header => FLAG_HEADER | FLAG_HEADER_OVERWRITTEN,
                Place::Trailer => FLAG_SEALED,
            };
        bytes[..24].copy_from_slice(&MAGIC);
        bytes[24..28].copy_from_slice(&USED.to_le_bytes());
        bytes[32..40].copy_from_slice(&flags.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.index_offset.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.index_size.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.original_size.to_le_bytes());
        bytes[64..68].copy_from_slice(&self.index_crc.to_le_bytes());
        bytes[72..76].copy_from_slice(&self.block_size.bytes().to_le_bytes());
        bytes[76] = self.algorithm.id();
        bytes[88] = u8::from(self.verify);
        let digest = digest(&bytes);
        bytes[28..32].copy_from_slice(&digest.to_le_bytes());
        bytes
    }

    /// What a header or trailer says; `None` for a header that sends the reader on.
    pub(super) fn decode(bytes: &[u8; SPACE], place: Place) -> Result<Option<Self>, LayoutError> {
        if bytes[..24] != MAGIC {
            return Err(LayoutError::Magic);
        }
        let range = |field, value| LayoutError::Range { field, value };
        let flags = u64_at(bytes, 32);
        if flags & FLAG_DIGEST != 0 {
            let (stored, computed) = (u32_at(bytes, 28), digest(bytes));
            if stored != computed {
                return Err(LayoutError::Digest { stored, computed });
            }
        }
        if u32_at(bytes, 24) != USED {
            return Err(range("size", u64::from(u32_at(bytes, 24))));
        }
        let expected = match place {
            Place::Header => FLAG_HEADER | FLAG_DATA_FILE,
            Place::Trailer => FLAG_DATA_FILE | FLAG_SEALED,
        };
        if flags & (FLAG_HEADER | FLAG_DATA_FILE) != expected & (FLAG_HEADER | FLAG_DATA_FILE)
            || place == Place::Trailer && flags & FLAG_SEALED == 0
        {
            return Err(range("flags", flags));
        }
        if flags & FLAG_INDEX_COMPRESSED != 0 {
            return Err(LayoutError::Unsupported("a compressed index"));
        }
        if bytes[78] != 0 || u32_at(bytes, 84) != 0 {
            return Err(LayoutError::Unsupported("a compression dictionary"));
        }
        if place == Place::Header && flags & FLAG_HEADER_OVERWRITTEN == 0 {
            return Ok(None);
        }
        let block_size = u32_at(bytes, 72);
        Ok(Some(Self {
            index_offset: u64_at(bytes, 40),
            index_size: u64_at(bytes, 48),
            original_size: u64_at(bytes, 56),
            index_crc: u32_at(bytes, 64),
            block_size: BlockSize::from_bytes(block_size)
                .ok_or_else(|| range("block_size", u64::from(block_size)))?,
            algorithm: Algorithm::from_id(bytes[76])
                .ok_or_else(|| range("algo", u64::from(bytes[76])))?,
            verify: bytes[88] != 0,
        }))
    }
}
