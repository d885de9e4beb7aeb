//! Header, trailer and mapping as they are stored.

use serde::Serialize;

/// Bytes of a header or trailer, and what the index is padded to.
pub(crate) const SPACE: usize = 4096;
/// The first sector behind the header.
pub(crate) const FIRST_SECTOR: u64 = 8;
/// The `moffset` of every zeroed mapping. No data is there, and overlaybd still refuses a layer
/// whose zeroed mappings point before its data (`lsmt/index.cpp`, `verify_mapping_moffset`).
pub(crate) const ZEROED_MOFFSET: u64 = FIRST_SECTOR;
/// Most entries that readers load (overlaybd `lsmt/file.cpp`).
pub(crate) const MAX_MAPPINGS: u64 = 1_000_000;

const MAGIC: [u8; 24] = [
    0x4c, 0x53, 0x4d, 0x54, 0, 1, 2, 0, 0x65, 0x7e, 0x63, 0xd2, 0x94, 0x44, 0x08, 0x4c, 0xa2, 0xd2,
    0xc8, 0xec, 0x4f, 0xcf, 0xae, 0x8a,
];
const USED: u32 = 390;
const FLAG_HEADER: u32 = 1;
const FLAG_DATA_FILE: u32 = 1 << 1;
const FLAG_SEALED: u32 = 1 << 2;
const UUID: usize = 37;
const USER_TAG: usize = 256;

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

fn u32_at(bytes: &[u8; SPACE], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

impl Header {
    pub(crate) fn encode(&self, place: Place) -> Vec<u8> {
        let mut bytes = vec![0; SPACE];
        let flags = FLAG_DATA_FILE
            | FLAG_SEALED
            | match place {
                Place::Header => FLAG_HEADER,
                Place::Trailer => 0,
            };
        bytes[..24].copy_from_slice(&MAGIC);
        bytes[24..28].copy_from_slice(&USED.to_le_bytes());
        bytes[28..32].copy_from_slice(&flags.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.index_offset.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.index_size.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.virtual_size.to_le_bytes());
        put_text(&mut bytes[56..56 + UUID], &self.uuid);
        put_text(&mut bytes[93..93 + UUID], &self.parent_uuid);
        bytes[132] = 1;
        bytes[133] = 1;
        put_text(&mut bytes[134..134 + USER_TAG], &self.user_tag);
        bytes
    }

    /// Sees that a header is one; an error is what is wrong with it. Everything that counts is
    /// in the trailer.
    pub(crate) fn check_header(bytes: &[u8; SPACE]) -> Result<(), String> {
        if bytes[..24] != MAGIC {
            return Err("it does not begin with LSMT's magic".into());
        }
        let flags = u32_at(bytes, 28);
        if flags & (FLAG_HEADER | FLAG_DATA_FILE) == FLAG_HEADER | FLAG_DATA_FILE {
            Ok(())
        } else {
            Err(format!("its flags are {flags:#x}: no layer's header"))
        }
    }

    /// What a trailer says; an error is what is wrong with it.
    pub(crate) fn decode_trailer(bytes: &[u8; SPACE]) -> Result<Self, String> {
        if bytes[..24] != MAGIC {
            return Err("it does not begin with LSMT's magic".into());
        }
        let (size, flags) = (u32_at(bytes, 24), u32_at(bytes, 28));
        if size != USED {
            return Err(format!("its size is {size}, not {USED}"));
        }
        if flags & (FLAG_HEADER | FLAG_DATA_FILE | FLAG_SEALED) != FLAG_DATA_FILE | FLAG_SEALED {
            return Err(format!(
                "its flags are {flags:#x}: no sealed layer's trailer"
            ));
        }
        let virtual_size = u64_at(bytes, 48);
        if !virtual_size.is_multiple_of(512) {
            return Err(format!(
                "its disk of {virtual_size} bytes is not made of whole sectors"
            ));
        }
        Ok(Self {
            index_offset: u64_at(bytes, 32),
            index_size: u64_at(bytes, 40),
            virtual_size,
            uuid: text(&bytes[56..56 + UUID]),
            parent_uuid: text(&bytes[93..93 + UUID]),
            user_tag: text(&bytes[134..134 + USER_TAG]),
        })
    }
}

impl Mapping {
    /// The first sector behind it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// Reads an entry of 16 bytes; `None` for padding, which only the offset tells, as
    /// readers see it.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (low, high) = (u64_at(bytes, 0), u64_at(bytes, 8));
        let (offset, length) = (low & INVALID_OFFSET, low >> OFFSET_BITS);
        (offset != INVALID_OFFSET).then_some(Self {
            offset,
            length,
            moffset: high & MOFFSET_MASK,
            zeroed: high & ZEROED != 0,
            tag: high.to_le_bytes()[7],
        })
    }

    fn encode(&self) -> [u8; 16] {
        let low = self.offset | self.length << OFFSET_BITS;
        let zeroed = if self.zeroed { ZEROED } else { 0 };
        let high = self.moffset | zeroed | u64::from(self.tag) << TAG_SHIFT;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&low.to_le_bytes());
        bytes[8..].copy_from_slice(&high.to_le_bytes());
        bytes
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
            bytes.extend_from_slice(&piece.encode());
            done += length;
        }
    }
    let padded = bytes.len().next_multiple_of(SPACE).max(SPACE);
    while bytes.len() < padded {
        let mut invalid = [0; 16];
        invalid[..8].copy_from_slice(&INVALID_OFFSET.to_le_bytes());
        bytes.extend_from_slice(&invalid);
    }
    let entries = (bytes.len() / 16) as u64;
    (bytes, entries)
}

#[cfg(test)]
mod tests {
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
        let read: Vec<Mapping> = bytes.chunks(16).map_while(Mapping::decode).collect();
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
            bytes
                .chunks(16)
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
        let bytes: [u8; SPACE] = header.encode(Place::Trailer).try_into().unwrap();
        let read = Header::decode_trailer(&bytes).unwrap();
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
