//! One layer, opened for reading.

use std::io;

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::layout::{FIRST_SECTOR, Header, MAX_MAPPINGS, Mapping};
use super::raw::{RawHeader, RawMapping, SPACE};
use super::refusal::MisplacedZeros;
use crate::format::block::{BlockDevice, SECTOR, check_range};

/// Errors of opening an LSMT.
#[derive(Debug, thiserror::Error)]
pub enum LsmtError {
    /// The device cannot be read.
    #[error("the LSMT cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The header.
    #[error("the LSMT's header is damaged: {0}")]
    Header(String),
    /// The trailer.
    #[error("the LSMT's trailer is damaged: {0}")]
    Trailer(String),
    /// The index.
    #[error("the LSMT's index is damaged: {0}")]
    Index(String),
}

/// One layer: its trailer and its mappings, validated, over the LSMT's bytes.
#[derive(Debug)]
pub struct Layer<D> {
    device: D,
    header: Header,
    mappings: Vec<Mapping>,
}

impl<D: BlockDevice> Layer<D> {
    /// Opens the LSMT that all of `device` is.
    ///
    /// # Errors
    /// When it cannot be read or is not a sealed layer.
    pub fn open(device: D) -> Result<Self, LsmtError> {
        let size = device.size();
        let trailer = size
            .checked_sub(SPACE as u64)
            .filter(|trailer| *trailer >= SPACE as u64)
            .ok_or_else(|| LsmtError::Trailer(format!("{size} bytes are too few for one")))?;
        let mut raw = RawHeader::new_zeroed();
        device.read_at(0, raw.as_mut_bytes())?;
        Header::check_header(&raw).map_err(LsmtError::Header)?;
        device.read_at(trailer, raw.as_mut_bytes())?;
        let header = Header::decode_trailer(&raw).map_err(LsmtError::Trailer)?;
        let mappings = Self::read_index(&device, &header, trailer)?;
        Ok(Self {
            device,
            header,
            mappings,
        })
    }

    fn read_index(device: &D, header: &Header, end: u64) -> Result<Vec<Mapping>, LsmtError> {
        let Header {
            index_offset,
            index_size,
            ..
        } = *header;
        if index_size > MAX_MAPPINGS {
            return Err(LsmtError::Index(format!(
                "it has {index_size} entries, and the limit is {MAX_MAPPINGS}"
            )));
        }
        let length = index_size * size_of::<RawMapping>() as u64;
        if check_range(end, index_offset, length).is_err() {
            let text =
                format!("{index_size} entries at {index_offset} reach behind the file's end");
            return Err(LsmtError::Index(text));
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        device.read_at(index_offset, &mut bytes)?;
        let raw = <[RawMapping]>::ref_from_bytes(&bytes)
            .map_err(|_| LsmtError::Index("it ends within an entry".into()))?;
        let mut mappings = Vec::with_capacity(raw.len());
        let mut below = 0;
        for mapping in raw.iter().filter_map(Mapping::decode) {
            if let Some(problem) = problem(&mapping, below, header) {
                return Err(LsmtError::Index(format!("mapping {mapping} {problem}")));
            }
            below = mapping.end();
            mappings.push(mapping);
        }
        Ok(mappings)
    }

    /// What the trailer says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The device with the LSMT.
    pub(crate) fn device(&self) -> &D {
        &self.device
    }

    /// The mappings, in the disk's order and without overlaps.
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// The mappings for which overlaybd does not open the layer, although this reader does.
    pub fn misplaced_zeros(&self) -> Option<MisplacedZeros> {
        MisplacedZeros::find(&self.mappings, self.header.index_offset)
    }

    /// The mappings that touch the sectors from `start` up to and without `end`.
    pub(crate) fn overlapping(&self, start: u64, end: u64) -> &[Mapping] {
        let first = self
            .mappings
            .partition_point(|mapping| mapping.end() <= start);
        let rest = &self.mappings[first..];
        let count = rest.partition_point(|mapping| mapping.offset < end);
        &rest[..count]
    }

    /// Reads the content of a mapping from byte `skip` of it.
    pub(crate) fn read(&self, mapping: &Mapping, skip: u64, buf: &mut [u8]) -> io::Result<()> {
        if mapping.zeroed {
            buf.fill(0);
            return Ok(());
        }
        self.device.read_at(mapping.moffset * SECTOR + skip, buf)
    }
}

/// What is wrong with a mapping behind others that end at sector `below`. Where one to zeros
/// points does not matter here: see [`MisplacedZeros`].
fn problem(mapping: &Mapping, below: u64, header: &Header) -> Option<&'static str> {
    let in_data = mapping.zeroed
        || mapping.moffset >= FIRST_SECTOR
            && mapping.moffset + mapping.length <= header.index_offset / SECTOR;
    if mapping.length == 0 {
        Some("has no sectors and is not padding")
    } else if mapping.offset < below {
        Some("overlaps the one before it")
    } else if mapping.end() > header.virtual_size / SECTOR {
        Some("reaches beyond the end of the disk")
    } else if !in_data {
        Some("points outside the data")
    } else {
        None
    }
}
