//! Warp files: layers of which some data is in another file, the target. A mapping's tag says in
//! which it is.
//! Source: containerd/overlaybd `src/overlaybd/lsmt/file.cpp`, `class LSMTWarpFile`.

use std::io;
use std::ops::Range;

use super::layout::Mapping;
use crate::format::block::{BlockDevice as _, SECTOR, SharedDevice};

/// The tag of data in the LSMT itself (`SegmentType::fsMeta`).
pub(crate) const OWN: u8 = 0;
/// The tag of data in the target (`SegmentType::remoteData`).
pub(crate) const REMOTE: u8 = 1;

/// Where the content of a mapping is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: it reads as zero.
    Zeros,
    /// From this sector of the LSMT on.
    Data(u64),
    /// From this sector of the target on.
    Remote(u64),
}

impl Source {
    /// That of a mapping of a native layer, of which the tag says nothing, or of a warp file.
    pub(super) fn of(mapping: &Mapping, is_warp: bool) -> Self {
        if mapping.zeroed {
            Self::Zeros
        } else if is_warp && mapping.tag == REMOTE {
            Self::Remote(mapping.moffset)
        } else {
            Self::Data(mapping.moffset)
        }
    }
}

/// Counts tags from the smallest: while a layer is written, they count from the number of files
/// below it.
pub(super) fn normalise(mappings: &mut [Mapping]) {
    let smallest = mappings.iter().map(|mapping| mapping.tag).min();
    for mapping in mappings {
        mapping.tag -= smallest.unwrap_or(0);
    }
}

/// What is wrong with a mapping of a warp file, besides what would be in a native layer.
pub(super) fn warp_problem(mapping: &Mapping) -> Option<&'static str> {
    (mapping.tag > REMOTE).then_some("is in a third file, and a warp file has two")
}

/// The target of a warp file.
pub(super) struct RemoteData(SharedDevice);

impl std::fmt::Debug for RemoteData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RemoteData").field(&self.0.size()).finish()
    }
}

impl RemoteData {
    pub(super) fn new(target: SharedDevice) -> Self {
        Self(target)
    }

    /// The bytes of the blob behind the target that are read for a range of it.
    pub(super) fn behind(&self, range: Range<u64>) -> Range<u64> {
        self.0.behind(range)
    }

    /// Fills `buf` from byte `skip` behind the beginning of `sector`. What the last sector has
    /// behind the target's end is zero.
    pub(super) fn read_at(&self, sector: u64, skip: u64, buf: &mut [u8]) -> io::Result<()> {
        let size = self.0.size();
        // A mapping has 55 bits for the sector, in bytes these are 64.
        let start = sector
            .checked_mul(SECTOR)
            .and_then(|at| at.checked_add(skip));
        let end = start.and_then(|start| start.checked_add(buf.len() as u64));
        let (Some(start), Some(_)) = (
            start,
            end.filter(|end| *end <= size.next_multiple_of(SECTOR)),
        ) else {
            let text = format!(
                "{} bytes at sector {sector} of the target reach beyond its {size} bytes",
                buf.len()
            );
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        };
        let there = usize::try_from(size.saturating_sub(start)).unwrap_or(usize::MAX);
        let (data, rest) = buf.split_at_mut(there.min(buf.len()));
        rest.fill(0);
        if data.is_empty() {
            return Ok(());
        }
        self.0.read_at(start, data)
    }
}
