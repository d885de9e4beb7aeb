//! Header and trailer: what they say, encoded and decoded.

use zerocopy::{FromZeros, IntoBytes};

use super::codec::{Algorithm, BlockSize};
use super::raw::{RawHeader, USED};
use crate::format::crc::crc32c;

/// CRC register that a block's checksum starts from.
pub(super) const BLOCK_CRC_INIT: u32 = 100_007;
/// Bytes of the checksum behind a block.
pub(super) const BLOCK_CRC: usize = 4;
/// Most bytes of a stored block, its checksum included: overlaybd reads through a buffer of
/// 64 KiB.
pub(super) const MAX_STORED: usize = 65_536;

const MAGIC: [u8; 24] = *b"ZFile\0\x01\0tuji.yyf@Alibaba";

const FLAG_HEADER: u64 = 1;
const FLAG_DATA_FILE: u64 = 1 << 1;
const FLAG_SEALED: u64 = 1 << 2;
const FLAG_HEADER_OVERWRITTEN: u64 = 1 << 3;
const FLAG_DIGEST: u64 = 1 << 4;
const FLAG_INDEX_COMPRESSED: u64 = 1 << 5;

/// Errors of a header or trailer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Another kind of file.
    #[error("it does not begin with ZFile's magic")]
    Magic,
    /// The bytes are damaged.
    #[error("its digest is {stored:08x}, and that of its bytes is {computed:08x}")]
    Digest {
        /// As stored.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// A field that is out of range.
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

fn digest(raw: &RawHeader) -> u32 {
    let mut zeroed = raw.clone();
    zeroed.digest.set(0);
    crc32c(0, zeroed.as_bytes())
}

impl Geometry {
    pub(super) fn encode(&self, place: Place) -> RawHeader {
        let mut raw = RawHeader::new_zeroed();
        let place = match place {
            Place::Header => FLAG_HEADER | FLAG_HEADER_OVERWRITTEN,
            Place::Trailer => FLAG_SEALED,
        };
        raw.magic = MAGIC;
        raw.size.set(USED);
        raw.flags.set(FLAG_DATA_FILE | FLAG_DIGEST | place);
        raw.index_offset.set(self.index_offset);
        raw.index_size.set(self.index_size);
        raw.original_size.set(self.original_size);
        raw.index_crc.set(self.index_crc);
        raw.block_size.set(self.block_size.bytes());
        raw.algorithm = self.algorithm.id();
        raw.verify = u8::from(self.verify);
        raw.digest.set(digest(&raw));
        raw
    }

    /// What a header or trailer says; `None` for a header that leaves it to the trailer.
    pub(super) fn decode(raw: &RawHeader, place: Place) -> Result<Option<Self>, LayoutError> {
        if raw.magic != MAGIC {
            return Err(LayoutError::Magic);
        }
        let range = |field, value| LayoutError::Range { field, value };
        let flags = raw.flags.get();
        if flags & FLAG_DIGEST != 0 {
            let (stored, computed) = (raw.digest.get(), digest(raw));
            if stored != computed {
                return Err(LayoutError::Digest { stored, computed });
            }
        }
        if raw.size != USED {
            return Err(range("size", u64::from(raw.size.get())));
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
        if raw.use_dictionary != 0 || raw.dictionary_size != 0 {
            return Err(LayoutError::Unsupported("a compression dictionary"));
        }
        if place == Place::Header && flags & FLAG_HEADER_OVERWRITTEN == 0 {
            return Ok(None);
        }
        let block_size = raw.block_size.get();
        Ok(Some(Self {
            index_offset: raw.index_offset.get(),
            index_size: raw.index_size.get(),
            original_size: raw.original_size.get(),
            index_crc: raw.index_crc.get(),
            block_size: BlockSize::from_bytes(block_size)
                .ok_or_else(|| range("block_size", u64::from(block_size)))?,
            algorithm: Algorithm::from_id(raw.algorithm)
                .ok_or_else(|| range("algo", u64::from(raw.algorithm)))?,
            verify: raw.verify != 0,
        }))
    }
}
