//! A single byte range of a request (RFC 9110 § 14).

use std::ops::Range;

/// What a `Range` header comes to for content of `len` bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// All of it: no range, or one that may be ignored.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// Nothing that is there.
    Unsatisfiable,
}

impl Asked {
    /// Parses the header's value. Several ranges, other units and invalid ranges are ignored, as the
    /// standard says.
    pub(super) fn parse(value: &str, len: u64) -> Self {
        let Some((unit, ranges)) = value.split_once('=') else {
            return Self::Whole;
        };
        if !unit.trim().eq_ignore_ascii_case("bytes") || ranges.contains(',') {
            return Self::Whole;
        }
        let Some((first, last)) = ranges.trim().split_once('-') else {
            return Self::Whole;
        };
        match (number(first), number(last)) {
            (Some(None), Some(Some(suffix))) => match suffix.min(len) {
                0 => Self::Unsatisfiable,
                count => Self::Part(len - count..len),
            },
            (Some(Some(first)), Some(last)) => {
                if last.is_some_and(|last| last < first) {
                    return Self::Whole;
                }
                let end = last.map_or(len, |last| last.saturating_add(1).min(len));
                if first < len {
                    Self::Part(first..end)
                } else {
                    Self::Unsatisfiable
                }
            }
            _ => Self::Whole,
        }
    }
}

/// `Some(None)` for nothing, `None` for what is no number. One beyond all lengths is the largest.
#[allow(clippy::option_option)]
fn number(text: &str) -> Option<Option<u64>> {
    let text = text.trim();
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((!text.is_empty()).then(|| text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_the_length() {
        for (value, part) in [
            ("bytes=0-0", 0..1),
            ("bytes=2-", 2..10),
            ("bytes=2-99", 2..10),
            ("bytes=-3", 7..10),
            ("bytes=-99", 0..10),
            ("BYTES= 9 - 9 ", 9..10),
            ("bytes=0-99999999999999999999999", 0..10),
        ] {
            assert_eq!(Asked::parse(value, 10), Asked::Part(part), "{value}");
        }
    }

    #[test]
    fn a_range_beyond_the_end_is_not_satisfiable() {
        for value in ["bytes=10-", "bytes=10-11", "bytes=-0"] {
            assert_eq!(Asked::parse(value, 10), Asked::Unsatisfiable, "{value}");
        }
        assert_eq!(Asked::parse("bytes=-1", 0), Asked::Unsatisfiable);
    }

    #[test]
    fn other_headers_than_a_single_range_are_ignored() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=5-2",
            "items=0-1",
            "bytes=0-1,3-4",
            "bytes=+1-2",
        ] {
            assert_eq!(Asked::parse(value, 10), Asked::Whole, "{value}");
        }
    }
}
