//! Where the data of a disk's ranges is: in which layers, and in which of their bytes.

use std::ops::Range;

use super::Stack;
use crate::format::block::SECTOR;

/// Bytes of a disk that are one piece of a layer's LSMT file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// The layer, counted from 0 at the bottom.
    pub layer: usize,
    /// Where they begin in the uncompressed LSMT file.
    pub offset: u64,
    /// How many bytes.
    pub count: u64,
}

impl Stack {
    /// Where the data of a range of the disk is, in the disk's order. The range is widened to
    /// whole sectors. What reads as zero is nowhere, nor is what a `TurboOCI` layer has in the
    /// original layer.
    #[must_use]
    pub fn locate(&self, range: Range<u64>) -> Vec<Located> {
        let whole = range.start / SECTOR * SECTOR..range.end.next_multiple_of(SECTOR);
        let mut found = Vec::new();
        for visible in self.visible(whole) {
            let mapping = &visible.mapping;
            if mapping.tag == 0 {
                let within = visible.within();
                found.push(Located {
                    layer: visible.layer,
                    offset: mapping.moffset * SECTOR + within.start,
                    count: within.end - within.start,
                });
            }
        }
        found
    }
}
