//! Ranges that do not overlap.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of numbers as ranges: neighbours are one.
#[derive(Debug, Default)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds a range; what of it was not there yet, ascending.
    pub(super) fn add(&mut self, range: Range<u64>) -> Vec<Range<u64>> {
        if range.is_empty() {
            return Vec::new();
        }
        let before = self.0.range(..range.start).next_back();
        let (mut start, mut end) = (range.start, range.end);
        let mut new = Vec::new();
        let mut at = range.start;
        if let Some((first, last)) = before.filter(|(_, last)| **last >= range.start) {
            start = *first;
            end = end.max(*last);
            at = at.max(*last);
        }
        let touched: Vec<(u64, u64)> = self
            .0
            .range(range.start..=range.end)
            .map(|(first, last)| (*first, *last))
            .collect();
        for (first, last) in touched {
            if at < first {
                new.push(at..first.min(range.end));
            }
            at = at.max(last);
            end = end.max(last);
            self.0.remove(&first);
        }
        if at < range.end {
            new.push(at..range.end);
        }
        self.0.insert(start, end);
        new
    }

    /// The ranges, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().map(|(start, end)| *start..*end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_of_ranges_is_the_set_of_their_numbers(
            parts in proptest::collection::vec((0..60_u64, 0..12_u64), 0..30)
        ) {
            let (mut ranges, mut numbers) = (Ranges::default(), BTreeSet::new());
            for (start, length) in parts {
                let range = start..start + length;
                let expected: Vec<u64> = range.clone().filter(|n| !numbers.contains(n)).collect();
                let new: Vec<u64> = ranges.add(range.clone()).into_iter().flatten().collect();
                prop_assert_eq!(new, expected);
                numbers.extend(range);
            }
            let all: Vec<u64> = ranges.iter().flatten().collect();
            prop_assert_eq!(all, numbers.into_iter().collect::<Vec<_>>());
            let apart = ranges.iter().zip(ranges.iter().skip(1));
            prop_assert!(apart.into_iter().all(|(one, next)| one.end < next.start));
        }
    }
}
