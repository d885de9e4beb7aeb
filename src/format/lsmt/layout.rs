//! Header, trailer and mapping: what they say, encoded and decoded.

use serde::Serialize;
use zerocopy::{FromZeros, IntoBytes};

use super::raw::{RawHeader, RawMapping, SPACE, USED};

/// The first sector behind the header.
pub(crate) const FIRST_SECTOR: u64 = 8;
/// The `moffset` of every zeroed mapping. It leads to no data, and overlaybd rejects a layer
/// whose zeroed mappings point before its data (`lsmt/index.cpp`, `verify_mapping_moffset`).
pub(crate) const ZEROED_MOFFSET: u64 = FIRST_SECTOR;
/// Most entries that readers load (overlaybd `lsmt/file.cpp`).
pub(crate) const MAX_MAPPINGS: u64 = 1_000_000;

const MAGIC: [u8; 24] = [
    0x4c, 0x53, 0x4d, 0x54, 0, 1, 2, 0, 0x65, 0x7e, 0x63, 0xd2, 0x94, 0x44, 0x08, 0x4c, 0xa2, 0xd2,
    0xc8, 0xec, 0x4f, 0xcf, 0xae, 0x8a,
];
const FLAG_HEADER: u32 = 1;
const FLAG_DATA_FILE: u32 = 1 << 1;
const FLAG_SEALED: u32 = 1 << 2;

const OFFSET_BITS: u32 = 50;
const MAX_LENGTH: u64 = (1 << 14) - 1;
const INVALID_OFFSET: u64 = (1 << OFFSET_BITS) - 1;
const MOFFSET_MASK: u64 = (1 << 55) - 1;
const ZEROED: u64 = 1 << 55;
const TAG_SHIFT: u32 = 56;

/// What a header or trailer says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Header {
    /// Byte offset of the index; 0 in a header.
    pub index_offset: u64,
    /// Entries of the index, padding included; 0 in a header.
    pub index_size: u64,
    /// Size of the disk in bytes.
    pub virtual_size: u64,
    /// The layer's own uuid as text.
    pub uuid: String,
    /// The uuid of the layer below; empty at the bottom.
    pub parent_uuid: String,
    /// Free text.
    pub user_tag: String,
}

/// Which of the two places a layout is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Header,
    Trailer,
}

/// Sectors of the disk and where their content is. All three distances are in sectors of
/// 512 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Mapping {
    /// The first sector on the disk.
    pub offset: u64,
    /// How many sectors.
    pub length: u64,
    /// Where their content is, from the LSMT's start. Where `zeroed` nothing is there, and
    /// readers still want it to lie between the header and the index.
    pub moffset: u64,
    /// The sectors read as zero and take no data.
    pub zeroed: bool,
    /// Which file the content is in: 0 in a native layer.
    pub tag: u8,
}

fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn put_text(target: &mut [u8], text: &str) {
    // The last byte stays NUL.
    let len = text.len().min(target.len() - 1);
    target[..len].copy_from_slice(&text.as_bytes()[..len]);
}

impl Header {
    pub(crate) fn encode(&self, place: Place) -> Box<RawHeader> {
        let mut raw = Box::new(RawHeader::new_zeroed());
        let place = match place {
            Place::Header => FLAG_HEADER,
            Place::Trailer => 0,
        };
        raw.magic = MAGIC;
        raw.size.set(USED);
        raw.flags.set(FLAG_DATA_FILE | FLAG_SEALED | place);
        raw.index_offset.set(self.index_offset);
        raw.index_size.set(self.index_size);
        raw.virtual_size.set(self.virtual_size);
        put_text(&mut raw.uuid, &self.uuid);
        put_text(&mut raw.parent_uuid, &self.parent_uuid);
        raw.version = 1;
        raw.sub_version = 1;
        put_text(&mut raw.user_tag, &self.user_tag);
        raw
    }

    /// Checks that a header is one; an error says what is wrong with it. All that matters is
    /// in the trailer.
    pub(crate) fn check_header(raw: &RawHeader) -> Result<(), String> {
        check_magic(raw)?;
        let flags = raw.flags.get();
        if flags & (FLAG_HEADER | FLAG_DATA_FILE) == FLAG_HEADER | FLAG_DATA_FILE {
            Ok(())
        } else {
            Err(format!("its flags are {flags:#x}: not a layer's header"))
        }
    }

    /// What a trailer says; an error says what is wrong with it.
    pub(crate) fn decode_trailer(raw: &RawHeader) -> Result<Self, String> {
        check_magic(raw)?;
        let (size, flags) = (raw.size.get(), raw.flags.get());
        if size != USED {
            return Err(format!("its size is {size}, not {USED}"));
        }
        if flags & (FLAG_HEADER | FLAG_DATA_FILE | FLAG_SEALED) != FLAG_DATA_FILE | FLAG_SEALED {
            return Err(format!(
                "its flags are {flags:#x}: not a sealed layer's trailer"
            ));
        }
        let virtual_size = raw.virtual_size.get();
        if !virtual_size.is_multiple_of(512) {
            return Err(format!(
                "its disk of {virtual_size} bytes is not made of whole sectors"
            ));
        }
        Ok(Self {
            index_offset: raw.index_offset.get(),
            index_size: raw.index_size.get(),
            virtual_size,
            uuid: text(&raw.uuid),
            parent_uuid: text(&raw.parent_uuid),
            user_tag: text(&raw.user_tag),
        })
    }
}

fn check_magic(raw: &RawHeader) -> Result<(), String> {
    if raw.magic == MAGIC {
        Ok(())
    } else {
        Err("it does not begin with LSMT's magic".into())
    }
}

impl Mapping {
    /// The first sector behind it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// What an entry says; `None` for padding, which its offset alone marks.
    pub(crate) fn decode(raw: &RawMapping) -> Option<Self> {
        let (low, high) = (raw.offset_and_length.get(), raw.target.get());
        let (offset, length) = (low & INVALID_OFFSET, low >> OFFSET_BITS);
        (offset != INVALID_OFFSET).then_some(Self {
            offset,
            length,
            moffset: high & MOFFSET_MASK,
            zeroed: high & ZEROED != 0,
            tag: high.to_le_bytes()[7],
        })
    }

    fn encode(&self) -> RawMapping {
        let zeroed = if self.zeroed { ZEROED } else { 0 };
        let low = self.offset | self.length << OFFSET_BITS;
        let high = self.moffset | zeroed | u64::from(self.tag) << TAG_SHIFT;
        RawMapping {
            offset_and_length: low.into(),
            target: high.into(),
        }
    }
}

/// `1024 +8 at 16`, as `inspect` lists it: first sector, length, where the content is.
impl std::fmt::Display for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let zeros = if self.zeroed { " zeros" } else { "" };
        write!(
            f,
            "{} +{}{zeros} at {}",
            self.offset, self.length, self.moffset
        )?;
        if self.tag != 0 {
            write!(f, " tag {}", self.tag)?;
        }
        Ok(())
    }
}

/// The index of `mappings`, in pieces and padded; with how many entries that makes.
pub(crate) fn encode_index(mappings: impl Iterator<Item = Mapping>) -> (Vec<u8>, u64) {
    let mut bytes = Vec::new();
    for mapping in mappings {
        let mut done = 0;
        while done < mapping.length {
            let length = (mapping.length - done).min(MAX_LENGTH);
            let moffset = if mapping.zeroed {
                ZEROED_MOFFSET
            } else {
                mapping.moffset + done
            };
            let piece = Mapping {
                offset: mapping.offset + done,
                length,
                moffset,
                ..mapping
            };
            bytes.extend_from_slice(piece.encode().as_bytes());
            done += length;
        }
    }
    let padding = RawMapping {
        offset_and_length: INVALID_OFFSET.into(),
        target: 0.into(),
    };
    let padded = bytes.len().next_multiple_of(SPACE).max(SPACE);
    while bytes.len() < padded {
        bytes.extend_from_slice(padding.as_bytes());
    }
    let entries = bytes.len() / size_of::<RawMapping>();
    (bytes, entries as u64)
}

#[cfg(test)]
mod tests {
    use zerocopy::FromBytes;

    use super::*;

    #[test]
    fn a_long_mapping_is_cut_into_pieces_that_fit() {
        let mapping = Mapping {
            offset: 5,
            length: 16383 * 2 + 1,
            moffset: 8,
            zeroed: false,
            tag: 0,
        };
        let (bytes, entries) = encode_index([mapping].into_iter());
        assert_eq!((bytes.len(), entries), (4096, 256));
        let raw = <[RawMapping]>::ref_from_bytes(&bytes).unwrap();
        let read: Vec<Mapping> = raw.iter().map_while(Mapping::decode).collect();
        assert_eq!(read.len(), 3);
        assert_eq!(
            read[2],
            Mapping {
                offset: 5 + 16383 * 2,
                length: 1,
                moffset: 8 + 16383 * 2,
                zeroed: false,
                tag: 0,
            }
        );
        assert!(
            raw.iter()
                .skip(3)
                .all(|entry| Mapping::decode(entry).is_none())
        );
    }

    #[test]
    fn a_trailer_reads_back() {
        let header = Header {
            index_offset: 1,
            index_size: 2,
            virtual_size: 3 * 512,
            uuid: "A".repeat(36),
            parent_uuid: String::new(),
            user_tag: "t".repeat(300),
        };
        let read = Header::decode_trailer(&header.encode(Place::Trailer)).unwrap();
        assert_eq!(read.user_tag.len(), 255);
        assert_eq!(
            Header {
                user_tag: String::new(),
                ..read
            },
            Header {
                user_tag: String::new(),
                ..header
            }
        );
    }
}
