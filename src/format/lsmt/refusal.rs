//! Indexes that this program can read and overlaybd's reader does not accept.

use super::layout::{FIRST_SECTOR, Mapping};
use crate::format::block::SECTOR;

/// Mappings for which overlaybd does not open a layer (`lsmt/index.cpp`,
/// `verify_mapping_moffset`). No data is there, so that this program reads them well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MisplacedZeros {
    /// The first of them.
    pub mapping: Mapping,
    /// How many there are.
    pub count: usize,
    /// The last sector that a mapping to zeros may point at: where the index begins.
    pub last: u64,
}

impl MisplacedZeros {
    /// Those of an index at `index_offset`, if there are any.
    pub(super) fn find(mappings: &[Mapping], index_offset: u64) -> Option<Self> {
        let last = index_offset / SECTOR;
        let mut misplaced = mappings
            .iter()
            .filter(|it| it.zeroed && !(FIRST_SECTOR..=last).contains(&it.moffset));
        let mapping = *misplaced.next()?;
        Some(Self {
            mapping,
            count: 1 + misplaced.count(),
            last,
        })
    }
}

impl std::fmt::Display for MisplacedZeros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            mapping,
            count,
            last,
        } = self;
        write!(f, "mapping {mapping}")?;
        if *count > 1 {
            write!(f, ", and {} more,", count - 1)?;
        }
        write!(f, " must point at a sector from {FIRST_SECTOR} to {last}")
    }
}
