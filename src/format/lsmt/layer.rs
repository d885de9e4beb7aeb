//! One layer, opened for reading.

use std::io;
use std::ops::Range;

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::layout::{FIRST_SECTOR, Header, MAX_MAPPINGS, Mapping};
use super::raw::{RawHeader, RawMapping, SPACE};
use super::refusal::MisplacedZeros;
use super::warp::{RemoteData, Source, normalise, warp_problem};
use crate::format::block::{BlockDevice, SECTOR, SharedDevice, check_range};

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
    /// Where a warp file's remote data is.
    target: Option<RemoteData>,
}

impl<D: BlockDevice> Layer<D> {
    /// Opens the LSMT that all of `device` is.
    ///
    /// # Errors
    /// When it cannot be read or is not a sealed layer.
    pub fn open(device: D) -> Result<Self, LsmtError> {
        Self::open_over(device, None)
    }

    /// Opens the warp file that all of `device` is: an LSMT of which the mappings' tags tell
    /// whether the data is in it or in `target`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_warp(device: D, target: SharedDevice) -> Result<Self, LsmtError> {
        Self::open_over(device, Some(RemoteData::new(target)))
    }

    fn open_over(device: D, target: Option<RemoteData>) -> Result<Self, LsmtError> {
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
        let mut mappings = Self::read_index(&device, &header, trailer)?;
        if target.is_some() {
            normalise(&mut mappings);
        }
        check(&mappings, &header, target.is_some()).map_err(LsmtError::Index)?;
        Ok(Self {
            device,
            header,
            mappings,
            target,
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
        Ok(raw.iter().filter_map(Mapping::decode).collect())
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

    /// The mappings for which overlaybd does not open the layer, although this reader does. Of
    /// a warp file it opens all.
    pub fn misplaced_zeros(&self) -> Option<MisplacedZeros> {
        match self.target {
            None => MisplacedZeros::find(&self.mappings, self.header.index_offset),
            Some(_) => None,
        }
    }

    /// Where the content of a mapping of this layer is.
    pub fn source(&self, mapping: &Mapping) -> Source {
        Source::of(mapping, self.target.is_some())
    }

    /// The bytes of the blob behind the target that are read for a range of it; `None` for a
    /// layer without a target.
    pub(crate) fn behind_target(&self, range: Range<u64>) -> Option<Range<u64>> {
        self.target.as_ref().map(|target| target.behind(range))
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

    /// Says that `count` sectors of a mapping, from its sector `skip` on, are read soon.
    pub(crate) fn will_read(&self, mapping: &Mapping, skip: u64, count: u64) {
        if let Source::Data(sector) = self.source(mapping) {
            let at = sector.saturating_add(skip).saturating_mul(SECTOR);
            self.device.will_read(at, count.saturating_mul(SECTOR));
        }
    }

    /// Reads the content of a mapping from byte `skip` of it.
    pub(crate) fn read(&self, mapping: &Mapping, skip: u64, buf: &mut [u8]) -> io::Result<()> {
        match (self.source(mapping), &self.target) {
            (Source::Zeros, _) => {
                buf.fill(0);
                Ok(())
            }
            (Source::Remote(sector), Some(target)) => target.read_at(sector, skip, buf),
            (Source::Data(sector) | Source::Remote(sector), _) => {
                self.device.read_at(sector * SECTOR + skip, buf)
            }
        }
    }
}

/// What is wrong with the mappings of a layer, or of a warp file.
fn check(mappings: &[Mapping], header: &Header, is_warp: bool) -> Result<(), String> {
    let mut below = 0;
    for mapping in mappings {
        let found = if is_warp { warp_problem(mapping) } else { None };
        if let Some(problem) = found.or_else(|| problem(mapping, below, header, is_warp)) {
            return Err(format!("mapping {mapping} {problem}"));
        }
        below = mapping.end();
    }
    Ok(())
}

/// What is wrong with a mapping behind others that end at sector `below`. Where one to zeros
/// points does not matter here: see [`MisplacedZeros`].
fn problem(mapping: &Mapping, below: u64, header: &Header, is_warp: bool) -> Option<&'static str> {
    let in_data = !matches!(Source::of(mapping, is_warp), Source::Data(_))
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
