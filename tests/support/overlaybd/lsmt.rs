//! The LSMT: `lsmt/file.cpp` and `lsmt/index.cpp`.

use super::rules::{Rule, Violation};
use super::zfile::ZFile;
use super::{is_zero, u32_at, u64_at};

const SPACE: u64 = 4096;
const SECTOR: u64 = 512;
/// The first sector that data may be in.
const FIRST: u64 = SPACE / SECTOR;
const MAGIC: &[u8] =
    b"LSMT\0\x01\x02\0\x65\x7e\x63\xd2\x94\x44\x08\x4c\xa2\xd2\xc8\xec\x4f\xcf\xae\x8a";
/// Header: header, data file, sealed. Trailer: data file, sealed.
const FLAGS: [u32; 2] = [0b111, 0b110];
const MAX_ENTRIES: u64 = 1_000_000;
const INVALID: u64 = (1 << 50) - 1;

/// Which tags mappings may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tags {
    /// A native layer's: 0.
    Zero,
    /// 0 for what is in the file itself, 1 for what is in another.
    Turbo,
}

/// Some sectors of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    pub offset: u64,
    pub length: u64,
    pub moffset: u64,
    pub zeroed: bool,
    pub tag: u8,
}

impl Mapping {
    fn new(entry: &[u8]) -> Self {
        let (low, high) = (u64_at(entry, 0), u64_at(entry, 8));
        Self {
            offset: low & INVALID,
            length: low >> 50,
            moffset: high & ((1 << 55) - 1),
            zeroed: high >> 55 & 1 == 1,
            tag: entry[15],
        }
    }

    pub fn end(&self) -> u64 {
        self.offset + self.length
    }
}

/// What an LSMT says of its layer.
#[derive(Debug)]
pub struct Lsmt {
    pub virtual_size: u64,
    pub uuid: String,
    pub parent: String,
    pub mappings: Vec<Mapping>,
}

impl Lsmt {
    pub fn open(file: &ZFile, tags: Tags) -> Result<Self, Violation> {
        let size = file.original_size();
        Rule::LsmtLength.when(size >= 2 * SPACE, format!("{size} bytes"))?;
        let header = file.read(0, 4096)?;
        let trailer = file.read(size - SPACE, 4096)?;
        for (part, flags) in [&header, &trailer].into_iter().zip(FLAGS) {
            head(part, flags)?;
        }
        Rule::LsmtHeaderIndex.when(is_zero(&header[32..48]), "it does")?;
        Rule::LsmtAgreement.when(header[48..130] == trailer[48..130], "it does not")?;
        let virtual_size = u64_at(&trailer, 48);
        Rule::LsmtVirtualSize.when(
            virtual_size > 0 && virtual_size.is_multiple_of(SECTOR),
            virtual_size,
        )?;

        let (offset, entries) = (u64_at(&trailer, 32), u64_at(&trailer, 40));
        Rule::LsmtIndexSize.when(entries <= MAX_ENTRIES, entries)?;
        let end = offset.checked_add(entries * 16);
        Rule::LsmtIndexPlace.when(
            offset >= SPACE
                && offset.is_multiple_of(SECTOR)
                && end.is_some_and(|end| end <= size - SPACE),
            format!("{entries} entries at {offset} of {size} bytes"),
        )?;
        let index = file.read(offset, usize::try_from(entries * 16).unwrap())?;
        let mappings = mappings(&index)?;
        let limits = Limits {
            sectors: virtual_size / SECTOR,
            index: offset / SECTOR,
            tags,
        };
        limits.check(&mappings)?;
        Ok(Self {
            virtual_size,
            uuid: text(&trailer[56..93]),
            parent: text(&trailer[93..130]),
            mappings,
        })
    }
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&field[..end.unwrap_or(field.len())]).into_owned()
}

fn head(part: &[u8], flags: u32) -> Result<(), Violation> {
    Rule::LsmtMagic.when(&part[..24] == MAGIC, part[..24].escape_ascii().to_string())?;
    Rule::LsmtUsed.when(u32_at(part, 24) == 390, u32_at(part, 24))?;
    Rule::LsmtFlags.when(u32_at(part, 28) == flags, u32_at(part, 28))?;
    Rule::LsmtUuid.when(is_uuid(&part[56..93]), text(&part[56..93]))?;
    let parent = &part[93..130];
    Rule::LsmtUuid.when(is_zero(parent) || is_uuid(parent), text(parent))?;
    Rule::LsmtVersion.when(part[132..134] == [1, 1], format!("{:?}", &part[132..134]))?;
    Rule::LsmtReserved.when(
        is_zero(&part[130..132]) && is_zero(&part[390..]),
        "some of it is not",
    )
}

fn is_uuid(field: &[u8]) -> bool {
    field.iter().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => *byte == b'-',
        36 => *byte == 0,
        _ => matches!(byte, b'0'..=b'9' | b'A'..=b'F'),
    })
}

/// The entries that are no padding.
fn mappings(index: &[u8]) -> Result<Vec<Mapping>, Violation> {
    let mut mappings = Vec::new();
    let mut is_padding = false;
    for (number, entry) in index.chunks(16).enumerate() {
        let mapping = Mapping::new(entry);
        if mapping.offset == INVALID {
            is_padding = true;
            Rule::LsmtPadding.when(
                mapping.length == 0 && is_zero(&entry[8..]),
                format!("entry {number}: {mapping:?}"),
            )?;
        } else {
            Rule::LsmtPadding.when(!is_padding, format!("entry {number} comes after some"))?;
            mappings.push(mapping);
        }
    }
    Ok(mappings)
}

struct Limits {
    /// Of the disk.
    sectors: u64,
    /// The sector where the index begins.
    index: u64,
    tags: Tags,
}

impl Limits {
    fn check(&self, mappings: &[Mapping]) -> Result<(), Violation> {
        let mut below = 0;
        for mapping in mappings {
            let detail = format!("{mapping:?}");
            Rule::LsmtLengthZero.when(mapping.length > 0, &detail)?;
            Rule::LsmtOrder.when(below <= mapping.offset, &detail)?;
            Rule::LsmtDisk.when(mapping.end() <= self.sectors, &detail)?;
            let most = u8::from(self.tags == Tags::Turbo);
            Rule::LsmtTag.when(mapping.tag <= most, &detail)?;
            let first = mapping.moffset;
            if mapping.zeroed {
                Rule::LsmtZeros.when((FIRST..=self.index).contains(&first), &detail)?;
            } else if mapping.tag == 0 {
                Rule::LsmtData.when(
                    first >= FIRST && first + mapping.length <= self.index,
                    &detail,
                )?;
            }
            below = mapping.end();
        }
        // The reader counts tags from the smallest one of all.
        let is_counted_from_0 = mappings.is_empty() || mappings.iter().any(|it| it.tag == 0);
        Rule::LsmtTag.when(is_counted_from_0, "there is no 0")
    }
}
