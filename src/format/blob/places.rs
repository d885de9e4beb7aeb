//! From the bytes of a disk to those of blobs, and back.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::layer::Place;
use super::stack::{Stack, Visible};
use crate::format::block::{BlockDevice as _, SECTOR, joined};

/// Which blob of a layer holds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holder {
    /// Its own.
    Blob,
    /// That of the original layer, which a `TurboOCI` layer points into.
    Target,
}

/// A part of a disk, and the bytes of a blob that hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    layer: usize,
    holder: Holder,
    stored: Range<u64>,
    visible: Visible,
}

/// Where the content of a stack's disk is.
#[derive(Debug)]
pub struct DiskPlaces {
    stack: Arc<Stack>,
    /// By layer, blob and beginning.
    parts: Vec<Part>,
    /// For each part, how far it and those of the same blob before it reach.
    reach: Vec<u64>,
}

impl DiskPlaces {
    /// The places of all that a stack shows. The whole `TurboOCI` metadata counts as the bytes
    /// of no blob: it is packed, and read when the layer is opened.
    ///
    /// # Errors
    /// When a mapping does not fit its blob.
    pub fn new(stack: Arc<Stack>) -> io::Result<Self> {
        let mut parts = Vec::new();
        for visible in stack.visible(0..stack.size()) {
            if let Some((holder, stored)) = place(&stack, &visible)? {
                let layer = visible.layer;
                parts.push(Part {
                    layer,
                    holder,
                    stored,
                    visible,
                });
            }
        }
        parts.sort_by_key(|part| (part.layer, part.holder, part.stored.start));
        let mut reach: Vec<u64> = Vec::with_capacity(parts.len());
        for (number, part) in parts.iter().enumerate() {
            let before = number.checked_sub(1).and_then(|n| parts.get(n));
            let same = before
                .is_some_and(|before| (before.layer, before.holder) == (part.layer, part.holder));
            let below = reach.last().filter(|_| same).copied().unwrap_or_default();
            reach.push(part.stored.end.max(below));
        }
        Ok(Self {
            stack,
            parts,
            reach,
        })
    }

    /// The bytes of blobs that are read for a range of the disk, in bytes, by the disk's order:
    /// the layer's number from the bottom, which of its blobs, and the range.
    ///
    /// # Errors
    /// When a mapping does not fit its blob.
    pub fn stored(&self, disk: Range<u64>) -> io::Result<Vec<(usize, Holder, Range<u64>)>> {
        let mut found = Vec::new();
        for visible in self.stack.visible(disk) {
            if let Some((holder, stored)) = place(&self.stack, &visible)? {
                found.push((visible.layer, holder, stored));
            }
        }
        Ok(found)
    }

    /// The ranges of the disk, in bytes, of which any byte is held by a range of a blob of layer
    /// `layer`; ascending and joined. Compressed blocks count as a whole.
    ///
    /// # Errors
    /// When a mapping does not fit its blob.
    pub fn disk(
        &self,
        layer: usize,
        holder: Holder,
        stored: Range<u64>,
    ) -> io::Result<Vec<Range<u64>>> {
        let key = (layer, holder);
        let first = self
            .parts
            .partition_point(|part| (part.layer, part.holder) < key);
        let of_blob = self.parts.get(first..).unwrap_or_default();
        let count = of_blob.partition_point(|part| {
            (part.layer, part.holder) == key && part.stored.start < stored.end
        });
        let reach = self.reach.get(first..first + count).unwrap_or_default();
        let skip = reach.partition_point(|end| *end <= stored.start);
        let mut found = Vec::new();
        for part in of_blob.get(skip..count).unwrap_or_default() {
            if part.stored.end > stored.start {
                found.extend(self.share(part, &stored)?);
            }
        }
        Ok(joined(found))
    }

    /// The bytes of the disk that a part has in a range of its blob.
    fn share(&self, part: &Part, stored: &Range<u64>) -> io::Result<Option<Range<u64>>> {
        let disk = &part.visible.disk;
        let sectors = (disk.end - disk.start).div_ceil(SECTOR);
        let sector =
            |n: u64| disk.start + n * SECTOR..(disk.start + (n + 1) * SECTOR).min(disk.end);
        // A later sector is never stored before an earlier one of the same mapping.
        let first = first_that(sectors, |n| {
            let place = self.sector(part, sector(n))?;
            Ok(place.end > stored.start)
        })?;
        let behind = first_that(sectors, |n| {
            let place = self.sector(part, sector(n))?;
            Ok(place.start >= stored.end)
        })?;
        let range = disk.start + first * SECTOR..(disk.start + behind * SECTOR).min(disk.end);
        Ok((range.start < range.end).then_some(range))
    }

    fn sector(&self, part: &Part, disk: Range<u64>) -> io::Result<Range<u64>> {
        let visible = Visible {
            disk,
            ..part.visible.clone()
        };
        Ok(place(&self.stack, &visible)?.map_or(0..0, |(_, stored)| stored))
    }
}

fn place(stack: &Stack, visible: &Visible) -> io::Result<Option<(Holder, Range<u64>)>> {
    let Some(layer) = stack.layers().get(visible.layer) else {
        return Ok(None);
    };
    Ok(match layer.place(&visible.mapping, visible.within())? {
        Place::Blob(range) => Some((Holder::Blob, range)),
        Place::Target(range) => Some((Holder::Target, range)),
        Place::Zeros | Place::Packed => None,
    })
}

/// The first of `0..count` for which a condition holds, which holds for all behind it, too;
/// `count` if it holds for none.
fn first_that(count: u64, holds: impl Fn(u64) -> io::Result<bool>) -> io::Result<u64> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle)? {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(low)
}
