//! What of which layer a stack shows.

use std::ops::Range;

use super::Stack;
use crate::format::block::SECTOR;
use crate::format::lsmt::Mapping;

/// A part of a mapping that no layer above hides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visible {
    /// Bytes of the disk.
    pub disk: Range<u64>,
    /// The layer, counted from 0 at the bottom.
    pub layer: usize,
    /// The mapping that they are of.
    pub mapping: Mapping,
}

impl Visible {
    /// Which bytes of the mapping they are.
    #[must_use]
    pub fn within(&self) -> Range<u64> {
        let start = self.mapping.offset * SECTOR;
        self.disk.start.saturating_sub(start)..self.disk.end.saturating_sub(start)
    }
}

impl Stack {
    /// What the stack shows of its layers' data in a range of the disk, in bytes, in order.
    /// Neighbours are not joined.
    #[must_use]
    pub fn visible(&self, disk: Range<u64>) -> Vec<Visible> {
        let mut found = Vec::new();
        self.collect(self.layers.len(), disk, &mut found);
        found
    }

    /// As [`visible`](Self::visible), of the first `depth` layers.
    fn collect(&self, depth: usize, disk: Range<u64>, found: &mut Vec<Visible>) {
        let Some(layer) = depth.checked_sub(1) else {
            return;
        };
        let Some(blob) = self.layers.get(layer) else {
            return;
        };
        let mut at = disk.start;
        let sectors = disk.start / SECTOR..disk.end.div_ceil(SECTOR);
        for mapping in blob.layer().overlapping(sectors.start, sectors.end) {
            let from = (mapping.offset * SECTOR).max(at);
            let to = (mapping.end() * SECTOR).min(disk.end);
            if at < from {
                self.collect(layer, at..from, found);
            }
            if !mapping.zeroed {
                found.push(Visible {
                    disk: from..to,
                    layer,
                    mapping: *mapping,
                });
            }
            at = to;
        }
        if at < disk.end {
            self.collect(layer, at..disk.end, found);
        }
    }
}
