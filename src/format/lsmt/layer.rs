//! One layer, opened for reading.

use std::io;

use super::layout::{FIRST_SECTOR, Header, MAX_MAPPINGS, Mapping, SPACE};
use super::refusal::MisplacedZeros;
use crate::format::block::{BlockDevice, SECTOR, check_range};

/// Why an LSMT cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LsmtError {
    /// What lies beneath cannot be read.
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
    /// When it cannot be read or is no sealed layer.
    pub fn open(device: D) -> Result<Self, LsmtError> {
        let size = device.size();
        let trailer = size
            .checked_sub(SPACE as u64)
            .filter(|trailer| *trailer >= SPACE as u64)
            .ok_or_else(|| LsmtError::Trailer(format!("{size} bytes have no room for one")))?;
        let mut bytes = [0; SPACE];
        device.read_at(0, &mut bytes)?;
        Header::check_header(&bytes).map_err(LsmtError::Header)?;
        device.read_at(trailer, &mut bytes)?;
        let header = Header::decode_trailer(&bytes).map_err(LsmtError::Trailer)?;
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
                "it has {index_size} entries; readers take {MAX_MAPPINGS}"
            )));
        }
        if check_range(end, index_offset, index_size * 16).is_err() {
            let text = format!("{index_size} entries at {index_offset} leave the file");
            return Err(LsmtError::Index(text));
        }
        let len = usize::try_from(index_size * 16).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        device.read_at(index_offset, &mut bytes)?;
        let mut mappings = Vec::with_capacity(len / 16);
        let mut below = 0;
        for mapping in bytes.chunks_exact(16).filter_map(Mapping::decode) {
            if let Some(wrong) = misfit(&mapping, below, header) {
                return Err(LsmtError::Index(format!("mapping {mapping} {wrong}")));
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

    /// What the LSMT lies on.
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
fn misfit(mapping: &Mapping, below: u64, header: &Header) -> Option<&'static str> {
    let in_data = mapping.zeroed
        || mapping.moffset >= FIRST_SECTOR
            && mapping.moffset + mapping.length <= header.index_offset / SECTOR;
    if mapping.length == 0 {
        Some("maps no sector and is no padding")
    } else if mapping.offset < below {
        Some("begins before the end of the one before it")
    } else if mapping.end() > header.virtual_size / SECTOR {
        Some("ends behind the disk")
    } else if !in_data {
        Some("points outside the data")
    } else {
        None
    }
}
