//! Where the content of a layer is stored in its blob.

use std::io;
use std::ops::Range;

use super::LayerBlob;
use crate::format::block::{BlockDevice as _, SECTOR};
use crate::format::lsmt::{Mapping, Source};

/// What holds the content of a mapping. All ranges are in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Nothing does: it reads as zero.
    Zeros,
    /// Bytes of the layer's blob.
    Blob(Range<u64>),
    /// The metadata in the blob of a `TurboOCI` layer, which is read as a whole.
    Packed,
    /// Bytes of the blob of the original layer.
    Target(Range<u64>),
}

/// What the bytes of a blob are besides the content of mappings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Region {
    /// The tar's, the `ZFile`'s and the LSMT's header.
    Headers,
    /// The LSMT's index and trailer.
    LsmtIndex,
    /// The `ZFile`'s index and trailer, and the end of the tar.
    ZFileIndex,
}

impl LayerBlob {
    /// What holds bytes `within` of a mapping of this layer.
    ///
    /// # Errors
    /// When they are not within it, or the layer does not hold what the mapping says.
    pub fn place(&self, mapping: &Mapping, within: Range<u64>) -> io::Result<Place> {
        if within.start > within.end || within.end > mapping.length.saturating_mul(SECTOR) {
            let text = format!("bytes {within:?} are not within the mapping {mapping}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let range = |sector: u64| {
            let start = sector.saturating_mul(SECTOR);
            start.saturating_add(within.start)..start.saturating_add(within.end)
        };
        Ok(match (self.layer.source(mapping), self.start) {
            (Source::Zeros, _) => Place::Zeros,
            (Source::Data(_), None) => Place::Packed,
            (Source::Data(sector), Some(start)) => {
                Place::Blob(shifted(self.layer.device().stored(range(sector))?, start))
            }
            (Source::Remote(sector), _) => match self.layer.behind_target(range(sector)) {
                Some(range) => Place::Target(range),
                None => return Err(io::Error::other("the layer has no target")),
            },
        })
    }

    /// The parts of the blob that hold no content, in its order; none of a `TurboOCI` layer's,
    /// which is read as a whole.
    ///
    /// # Errors
    /// When the layer's trailer does not fit its blob.
    pub fn regions(&self) -> io::Result<Vec<(Region, Range<u64>)>> {
        let Some(start) = self.start else {
            return Ok(Vec::new());
        };
        let zfile = self.layer.device();
        let first = zfile.stored(0..SECTOR.min(zfile.size()))?;
        let index = zfile.stored(self.layer.header().index_offset..zfile.size())?;
        Ok(vec![
            (Region::Headers, 0..first.end.saturating_add(start)),
            (Region::LsmtIndex, shifted(index, start)),
            (Region::ZFileIndex, shifted(zfile.stored_index(), start)),
        ])
    }
}

fn shifted(range: Range<u64>, by: u64) -> Range<u64> {
    range.start.saturating_add(by)..range.end.saturating_add(by)
}
