//! The disk that is served, and where it has data.

use std::ops::Range;
use std::sync::Arc;

use super::protocol::state;
use crate::format::blob::Stack;
use crate::format::block::{BlockDevice as _, SECTOR};

/// Sectors of which the mappings are looked at at once, at first and at most.
const WINDOW: u64 = (1 << 20) / SECTOR;
const MAX_WINDOW: u64 = (64 << 20) / SECTOR;

/// A disk under the default name, the empty one.
#[derive(Debug, Clone)]
pub struct Export {
    /// The disk.
    pub stack: Arc<Stack>,
    /// What it is, for people; cut to the protocol's longest string.
    pub description: String,
}

/// A part of the disk that is all data, or all zeros that nothing is stored for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Bytes of the disk.
    pub range: Range<u64>,
    /// Whether there is data.
    pub is_data: bool,
}

impl Extent {
    /// Its flags in the context `base:allocation`.
    #[must_use]
    pub fn state(&self) -> u32 {
        if self.is_data {
            state::DATA
        } else {
            state::HOLE_ZERO
        }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }
}

impl Export {
    /// Bytes of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.stack.size()
    }

    /// The extents of a range of bytes within the disk, in order and without gaps; neighbours
    /// differ. Where these are more than `most`, those at the end are left out.
    #[must_use]
    pub fn extents(&self, range: Range<u64>, most: usize) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        let (mut start, end) = (range.start / SECTOR, range.end.div_ceil(SECTOR));
        let mut window = WINDOW;
        while start < end && extents.len() <= most {
            let stop = (start + window).min(end);
            let mut at = start;
            for data in self.stack.data(start..stop) {
                push(&mut extents, at..data.start, false, &range);
                push(&mut extents, data.clone(), true, &range);
                at = data.end;
            }
            push(&mut extents, at..stop, false, &range);
            start = stop;
            window = (window * 2).min(MAX_WINDOW);
        }
        extents.truncate(most);
        extents
    }
}

/// Adds what `sectors` have within `range`, in bytes.
fn push(extents: &mut Vec<Extent>, sectors: Range<u64>, is_data: bool, range: &Range<u64>) {
    let start = (sectors.start * SECTOR).max(range.start);
    let end = (sectors.end * SECTOR).min(range.end);
    if start >= end {
        return;
    }
    match extents.last_mut() {
        Some(last) if last.is_data == is_data => last.range.end = end,
        _ => extents.push(Extent {
            range: start..end,
            is_data,
        }),
    }
}
