//! What a layer under construction maps: later writes win over earlier ones.

use std::collections::BTreeMap;
use std::ops::Range;

use super::layout::{Mapping, ZEROED_MOFFSET};
use super::warp::{OWN, REMOTE};

/// The tag of data that has no place in the LSMT yet, and is never on a disk: `moffset` counts
/// from the beginning of what is kept.
pub(crate) const KEPT: u8 = u8::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    length: u64,
    moffset: u64,
    zeroed: bool,
    tag: u8,
}

impl Segment {
    /// The segment without its first `skip` sectors.
    fn tail(self, skip: u64) -> Self {
        let moffset = self.moffset + if self.zeroed { 0 } else { skip };
        Self {
            length: self.length - skip,
            moffset,
            ..self
        }
    }

    fn at(self, offset: u64) -> Mapping {
        Mapping {
            offset,
            length: self.length,
            moffset: self.moffset,
            zeroed: self.zeroed,
            tag: self.tag,
        }
    }
}

/// Disjoint mappings by their first sector. All numbers are sectors.
#[derive(Debug, Default)]
pub(crate) struct Segments(BTreeMap<u64, Segment>);

impl Segments {
    /// Maps `length` sectors at `offset` to data at `moffset`.
    pub(crate) fn map(&mut self, offset: u64, length: u64, moffset: u64) {
        self.insert(
            offset,
            Segment {
                length,
                moffset,
                zeroed: false,
                tag: OWN,
            },
        );
    }

    /// Maps `length` sectors at `offset` to those at `moffset` of the target.
    pub(crate) fn map_remote(&mut self, offset: u64, length: u64, moffset: u64) {
        self.insert(
            offset,
            Segment {
                length,
                moffset,
                zeroed: false,
                tag: REMOTE,
            },
        );
    }

    /// Maps `length` sectors at `offset` to those at `moffset` of what is kept.
    pub(crate) fn map_kept(&mut self, offset: u64, length: u64, moffset: u64) {
        self.insert(
            offset,
            Segment {
                length,
                moffset,
                zeroed: false,
                tag: KEPT,
            },
        );
    }

    /// The sectors of what is kept that are mapped, in order; neighbours are joined.
    pub(crate) fn kept(&self) -> Vec<Range<u64>> {
        let kept = self.0.values().filter(|segment| segment.tag == KEPT);
        let mut ranges: Vec<_> = kept
            .map(|segment| segment.moffset..segment.moffset + segment.length)
            .collect();
        ranges.sort_unstable_by_key(|range| range.start);
        ranges.dedup_by(|next, range| {
            let joins = next.start <= range.end;
            if joins {
                range.end = range.end.max(next.end);
            }
            joins
        });
        ranges
    }

    /// Maps what is mapped to something kept to where that was put: parts of what is kept, which
    /// ascend and hold all that is mapped, each with its first sector in the LSMT.
    pub(crate) fn place(&mut self, parts: &[(Range<u64>, u64)]) {
        for (offset, segment) in std::mem::take(&mut self.0) {
            if segment.tag != KEPT {
                self.insert(offset, segment);
                continue;
            }
            let end = segment.moffset + segment.length;
            let first = parts.partition_point(|(part, _)| part.end <= segment.moffset);
            let parts = parts.get(first..).unwrap_or_default().iter();
            for (part, moffset) in parts.take_while(|(part, _)| part.start < end) {
                let start = part.start.max(segment.moffset);
                self.map(
                    offset + (start - segment.moffset),
                    part.end.min(end) - start,
                    moffset + (start - part.start),
                );
            }
        }
    }

    /// Maps sectors to zeros.
    pub(crate) fn zero(&mut self, offset: u64, length: u64) {
        self.insert(
            offset,
            Segment {
                length,
                moffset: ZEROED_MOFFSET,
                zeroed: true,
                tag: OWN,
            },
        );
    }

    fn insert(&mut self, offset: u64, segment: Segment) {
        if segment.length == 0 {
            return;
        }
        self.remove(offset, segment.length);
        if let Some((start, below)) = self.0.range_mut(..offset).next_back()
            && start + below.length == offset
            && (below.zeroed, below.tag) == (segment.zeroed, segment.tag)
            && (segment.zeroed || below.moffset + below.length == segment.moffset)
        {
            below.length += segment.length;
            return;
        }
        self.0.insert(offset, segment);
    }

    /// Unmaps sectors.
    pub(crate) fn remove(&mut self, offset: u64, length: u64) {
        let end = offset + length;
        if let Some((&start, &below)) = self.0.range(..offset).next_back()
            && start + below.length > offset
        {
            self.0.insert(
                start,
                Segment {
                    length: offset - start,
                    ..below
                },
            );
            if start + below.length > end {
                self.0.insert(end, below.tail(end - start));
            }
        }
        while let Some((&start, &segment)) = self.0.range(offset..end).next() {
            self.0.remove(&start);
            if start + segment.length > end {
                self.0.insert(end, segment.tail(end - start));
            }
        }
    }

    /// Whether any sector of the range is mapped at all.
    pub(crate) fn is_touched(&self, offset: u64, length: u64) -> bool {
        let end = offset + length;
        let below = self.0.range(..offset).next_back();
        below.is_some_and(|(start, segment)| start + segment.length > offset)
            || self.0.range(offset..end).next().is_some()
    }

    /// The sectors of a range part by part, each with the mapping of just these, if there is
    /// one.
    pub(crate) fn parts(&self, range: Range<u64>) -> Vec<(Range<u64>, Option<Mapping>)> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        let below = self.0.range(..range.start).next_back();
        for (&start, &segment) in below.into_iter().chain(self.0.range(range.clone())) {
            let (from, to) = (start.max(at), (start + segment.length).min(range.end));
            if from >= to {
                continue;
            }
            if at < from {
                pieces.push((at..from, None));
            }
            let mapping = Segment {
                length: to - from,
                ..segment.tail(from - start)
            };
            pieces.push((from..to, Some(mapping.at(from))));
            at = to;
        }
        if at < range.end {
            pieces.push((at..range.end, None));
        }
        pieces
    }

    /// The mappings in the disk's order.
    pub(crate) fn mappings(&self) -> impl Iterator<Item = Mapping> + '_ {
        self.0.iter().map(|(offset, segment)| segment.at(*offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a sector is mapped to: the tag, whether to zeros, and where.
    type Mapped = Option<(u8, bool, u64)>;

    // So that what is expected of unmapped sectors reads alike.
    #[allow(clippy::unnecessary_wraps)]
    fn of(mapping: Mapping, sector: u64) -> Mapped {
        let skip = if mapping.zeroed {
            0
        } else {
            sector - mapping.offset
        };
        Some((mapping.tag, mapping.zeroed, mapping.moffset + skip))
    }

    proptest! {
        #[test]
        fn the_last_write_of_a_sector_wins(
            writes in prop::collection::vec((0_u64..64, 1_u64..32, 0..4_u8), 0..40)
        ) {
            let mut segments = Segments::default();
            let mut model: Vec<Mapped> = vec![None; 96];
            let mut next = 8;
            for (offset, length, kind) in writes {
                for n in 0..length {
                    let sector = usize::try_from(offset + n).unwrap();
                    model[sector] = match kind {
                        0 => Some((OWN, false, next + n)),
                        1 => Some((OWN, true, ZEROED_MOFFSET)),
                        2 => Some((REMOTE, false, next + n)),
                        _ => None,
                    };
                }
                match kind {
                    0 => segments.map(offset, length, next),
                    1 => segments.zero(offset, length),
                    2 => segments.map_remote(offset, length, next),
                    _ => segments.remove(offset, length),
                }
                next += length;
            }
            let mut read: Vec<Mapped> = vec![None; 96];
            let mut end = 0;
            for mapping in segments.mappings() {
                prop_assert!(mapping.offset >= end && mapping.length > 0);
                end = mapping.end();
                for sector in mapping.offset..mapping.end() {
                    read[usize::try_from(sector).unwrap()] = of(mapping, sector);
                }
            }
            prop_assert_eq!(&read, &model);
            for sector in 0..96 {
                let is = model[usize::try_from(sector).unwrap()];
                prop_assert_eq!(segments.is_touched(sector, 1), is.is_some());
            }
            for range in [0..96, 10..70, 33..34] {
                let mut next = range.start;
                let parts = segments.parts(range.clone());
                for (part, mapping) in parts {
                    prop_assert_eq!(part.start, next);
                    next = part.end;
                    for sector in part.clone() {
                        let mapped = mapping.and_then(|mapping| of(mapping, sector));
                        prop_assert_eq!(mapped, model[usize::try_from(sector).unwrap()]);
                    }
                }
                prop_assert_eq!(next, range.end);
            }
        }
    }
}
