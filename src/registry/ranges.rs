//! The headers `Range` and `Content-Range`. Source: RFC 9110 § 14.

use std::ops::Range;

/// Most ranges in one request.
const MAX_RANGES: usize = 64;
/// Ranges that overlap others, before the request counts as abuse (RFC 9110 § 14.2).
const MAX_OVERLAPPING: usize = 2;
/// Parts closer than this are answered as one: a part's head costs about as much.
const GAP: u64 = 80;

/// What a `Range` header asks of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it: there is no range, or none that is understood.
    Whole,
    /// One piece.
    One(Range<u64>),
    /// Several pieces, in the order asked for, none touching another. At least two.
    Several(Vec<Range<u64>>),
    /// Nothing that is there, or too many pieces: 416.
    Nothing,
}

/// What `header` asks of a content of `size` bytes.
pub(crate) fn parse(header: &str, size: u64) -> Wanted {
    let Some(specs) = of_bytes(header) else {
        return Wanted::Whole;
    };
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut count = 0_usize;
    for spec in specs.split(',') {
        let spec = spec.trim_matches([' ', '\t']);
        if spec.is_empty() {
            // RFC 9110 § 5.6.1: empty elements of a list do not count.
            continue;
        }
        count += 1;
        if count > MAX_RANGES {
            return Wanted::Nothing;
        }
        match one(spec, size) {
            Ok(Some(range)) => ranges.push(range),
            Ok(None) => {}
            Err(Malformed) => return Wanted::Whole,
        }
    }
    if count == 0 {
        return Wanted::Whole;
    }
    let Some(mut ranges) = coalesce(&ranges) else {
        return Wanted::Nothing;
    };
    match (ranges.len(), ranges.pop()) {
        (_, None) => Wanted::Nothing,
        (1, Some(only)) => Wanted::One(only),
        (_, Some(last)) => {
            ranges.push(last);
            Wanted::Several(ranges)
        }
    }
}

/// As [`parse`], for who answers one range only: a list of several is ignored.
pub(crate) fn parse_single(header: &str, size: u64) -> Wanted {
    if header.contains(',') {
        return Wanted::Whole;
    }
    parse(header, size)
}

/// The `Content-Range` of a part of a content of `size` bytes.
pub(crate) fn content_range(range: &Range<u64>, size: u64) -> String {
    format!(
        "bytes {}-{}/{size}",
        range.start,
        range.end.saturating_sub(1)
    )
}

/// The `Content-Range` that tells the size where no range was satisfiable.
pub(crate) fn unsatisfied(size: u64) -> String {
    format!("bytes */{size}")
}

struct Malformed;

fn of_bytes(header: &str) -> Option<&str> {
    let (unit, specs) = header.split_once('=')?;
    unit.trim().eq_ignore_ascii_case("bytes").then_some(specs)
}

/// `None` for a range that lies behind the end.
fn one(spec: &str, size: u64) -> Result<Option<Range<u64>>, Malformed> {
    let (first, last) = spec.split_once('-').ok_or(Malformed)?;
    let range = match (first.trim(), last.trim()) {
        ("", length) => {
            let length = number(length)?.min(size);
            size - length..size
        }
        (first, "") => number(first)?..size,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return Err(Malformed);
            }
            first..last.saturating_add(1).min(size)
        }
    };
    Ok((range.start < range.end).then_some(range))
}

/// A number that is too large for us is behind any end.
fn number(text: &str) -> Result<u64, Malformed> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed);
    }
    Ok(text.parse().unwrap_or(u64::MAX))
}

/// Ranges that overlap or all but touch become one, in the place of the first of them.
/// `None` when too many overlap.
fn coalesce(ranges: &[Range<u64>]) -> Option<Vec<Range<u64>>> {
    let mut sorted: Vec<(usize, Range<u64>)> = ranges.iter().cloned().enumerate().collect();
    sorted.sort_by_key(|(place, range)| (range.start, *place));
    let mut overlapping = 0;
    let mut merged: Vec<(usize, Range<u64>)> = Vec::with_capacity(sorted.len());
    for (place, range) in sorted {
        match merged.last_mut() {
            Some((first, before)) if range.start <= before.end.saturating_add(GAP) => {
                if range.start < before.end {
                    overlapping += 1;
                }
                *first = place.min(*first);
                before.end = before.end.max(range.end);
            }
            _ => merged.push((place, range)),
        }
    }
    if overlapping > MAX_OVERLAPPING {
        return None;
    }
    merged.sort_by_key(|(place, _)| *place);
    Some(merged.into_iter().map(|(_, range)| range).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn single_ranges_are_read_as_the_specification_has_them() {
        for (header, wanted) in [
            ("bytes=0-0", Wanted::One(0..1)),
            ("bytes=0-499", Wanted::One(0..500)),
            ("bytes=9500-", Wanted::One(9500..10_000)),
            ("bytes=-500", Wanted::One(9500..10_000)),
            ("bytes=-99999", Wanted::One(0..10_000)),
            ("bytes=9999-99999", Wanted::One(9999..10_000)),
            ("Bytes= 0-1 ", Wanted::One(0..2)),
            ("BYTES= 9 - 9 ", Wanted::One(9..10)),
            ("bytes=,0-1,,", Wanted::One(0..2)),
            ("bytes=10000-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=99999999999999999999999-", Wanted::Nothing),
            ("bytes=0-99999999999999999999999", Wanted::One(0..10_000)),
            ("bytes=5-4", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            ("0-1", Wanted::Whole),
            ("bytes=0-1,x", Wanted::Whole),
        ] {
            assert_eq!(parse(header, 10_000), wanted, "{header}");
        }
    }

    #[test]
    fn who_answers_one_range_ignores_lists() {
        assert_eq!(parse_single("bytes=0-1,3-4", 10), Wanted::Whole);
        assert_eq!(parse_single("bytes=2-99", 10), Wanted::One(2..10));
        assert_eq!(parse_single("bytes=10-11", 10), Wanted::Nothing);
    }

    #[test]
    fn several_ranges_keep_their_order() {
        assert_eq!(
            parse("bytes=5000-5099, 0-99,-1", 10_000),
            Wanted::Several(vec![5000..5100, 0..100, 9999..10_000])
        );
        assert_eq!(parse("bytes=20000-,0-9", 10_000), Wanted::One(0..10));
    }

    #[test]
    fn overlapping_ranges_are_merged_and_too_many_are_ignored() {
        assert_eq!(parse("bytes=0-9,5-19", 10_000), Wanted::One(0..20));
        assert_eq!(parse("bytes=0-9,10-19", 10_000), Wanted::One(0..20));
        assert_eq!(
            parse("bytes=900-999,500-504,0-9,505-600", 10_000),
            Wanted::Several(vec![900..1000, 500..601, 0..10])
        );
        let abuse = format!("bytes={}", ["0-"; 10].join(","));
        assert_eq!(parse(&abuse, 10_000), Wanted::Nothing);
        let many: Vec<String> = (0..65)
            .map(|n| format!("{}-{}", n * 100, n * 100))
            .collect();
        assert_eq!(
            parse(&format!("bytes={}", many.join(",")), 10_000),
            Wanted::Nothing
        );
    }

    #[test]
    fn no_range_of_empty_content_is_satisfiable() {
        assert_eq!(parse("bytes=0-0", 0), Wanted::Nothing);
        assert_eq!(parse("bytes=-5", 0), Wanted::Nothing);
    }

    /// Which bytes a list of specs names, one flag a byte.
    fn model(specs: &[(Option<u64>, Option<u64>)], size: u64) -> Vec<bool> {
        let wants = |at: u64| {
            specs.iter().any(|spec| match *spec {
                (Some(first), Some(last)) => first <= at && at <= last,
                (Some(first), None) => first <= at,
                (None, Some(length)) => size - at <= length,
                (None, None) => false,
            })
        };
        (0..size).map(wants).collect()
    }

    proptest! {
        #[test]
        fn the_pieces_are_the_bytes_asked_for(
            size in 0..2_000_u64,
            specs in prop::collection::vec((prop::option::of(0..2_200_u64), prop::option::of(0..300_u64)), 1..6),
        ) {
            let specs: Vec<_> = specs
                .into_iter()
                .filter(|spec| *spec != (None, None))
                .map(|(first, length)| match first {
                    Some(first) => (Some(first), length.map(|length| first + length)),
                    None => (None, length),
                })
                .collect();
            prop_assume!(!specs.is_empty());
            let texts: Vec<String> = specs
                .iter()
                .map(|(first, last)| {
                    let text = |number: &Option<u64>| number.map(|n| n.to_string()).unwrap_or_default();
                    format!("{}-{}", text(first), text(last))
                })
                .collect();
            let file_body = match parse(&format!("bytes={}", texts.join(", ")), size) {
                Wanted::Whole => panic!("well formed"),
                Wanted::One(range) => vec![range],
                Wanted::Several(ranges) => {
                    prop_assert!(ranges.len() > 1);
                    ranges
                }
                Wanted::Nothing => Vec::new(),
            };
            let wanted = model(&specs, size);
            let mut given = vec![false; usize::try_from(size).unwrap()];
            for piece in &file_body {
                prop_assert!(piece.start < piece.end && piece.end <= size);
                for at in piece.clone() {
                    let at = usize::try_from(at).unwrap();
                    prop_assert!(!given[at], "twice");
                    given[at] = true;
                }
            }
            if file_body.is_empty() {
                // Refused for its overlaps, or nothing of it is there.
                let sum: usize = specs.iter().map(|spec| model(&[*spec], size).iter().filter(|is| **is).count()).sum();
                let union = wanted.iter().filter(|is| **is).count();
                prop_assert!(union == 0 || sum > union);
            } else {
                for (at, is_wanted) in wanted.iter().enumerate() {
                    prop_assert!(!is_wanted || given[at], "byte {} is missing", at);
                }
                // What was not asked for is at most the gaps between close pieces.
                let extra = wanted.iter().zip(&given).filter(|(wanted, given)| !**wanted && **given).count();
                prop_assert!(extra <= 80 * specs.len());
            }
        }
    }
}
