//! Maps of sparse files, in the four ways they are written (GNU tar manual § "Storing
//! Sparse Files"): old GNU headers, PAX 0.0, 0.1 and 1.0.

use std::ops::Range;

use super::MAX_SPARSE_RANGES;
use super::error::Problem;
use super::pax::{decimal, name};

/// What the `GNU.sparse.*` records of an entry say.
#[derive(Debug, Clone, Default)]
pub(super) struct PaxSparse {
    major: Option<i64>,
    minor: Option<i64>,
    /// The file's real name; the header's is made up.
    pub(super) name: Option<Vec<u8>>,
    size: Option<i64>,
    /// Offsets and lengths, as version 0.0 (one record each) or 0.1 (one list) has them.
    numbers: Vec<i64>,
    has_map: bool,
}

/// How the map of a PAX sparse file is to be had.
pub(super) enum PaxSparseMap {
    /// Not a sparse file.
    None,
    /// From the records.
    Records(Vec<(i64, i64)>),
    /// From the head of the data (version 1.0).
    InData,
}

impl PaxSparse {
    pub(super) fn set(&mut self, field: &[u8], value: &[u8]) -> Result<(), Problem> {
        match field {
            b"major" => self.major = Some(decimal("GNU.sparse.major", value)?),
            b"minor" => self.minor = Some(decimal("GNU.sparse.minor", value)?),
            b"name" => self.name = Some(name(b"GNU.sparse.name", value)?),
            b"size" | b"realsize" => self.size = Some(decimal("GNU.sparse.size", value)?),
            b"offset" => {
                if !self.numbers.len().is_multiple_of(2) {
                    return Err(Problem::Sparse("two offsets without a length between them"));
                }
                self.push(decimal("GNU.sparse.offset", value)?)?;
            }
            b"numbytes" => {
                if self.numbers.len().is_multiple_of(2) {
                    return Err(Problem::Sparse("a length without an offset before it"));
                }
                self.push(decimal("GNU.sparse.numbytes", value)?)?;
            }
            b"map" => {
                self.numbers.clear();
                self.has_map = true;
                if !value.is_empty() {
                    for number in value.split(|&byte| byte == b',') {
                        self.push(decimal("GNU.sparse.map", number)?)?;
                    }
                }
            }
            // `numblocks` only repeats how many pairs there are.
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, number: i64) -> Result<(), Problem> {
        if self.numbers.len() >= MAX_SPARSE_RANGES * 2 {
            return Err(Problem::Sparse("the map has too many ranges"));
        }
        self.has_map = true;
        self.numbers.push(number);
        Ok(())
    }

    /// The file's length with its holes.
    pub(super) fn size(&self) -> Result<u64, Problem> {
        let size = self
            .size
            .ok_or(Problem::Sparse("the real size is missing"))?;
        u64::try_from(size).map_err(|_| Problem::Sparse("the real size is negative"))
    }

    pub(super) fn map(&self) -> Result<PaxSparseMap, Problem> {
        match (self.major, self.minor) {
            (Some(1), Some(0)) => Ok(PaxSparseMap::InData),
            (None, None) | (Some(0), Some(0 | 1)) if self.has_map => {
                if !self.numbers.len().is_multiple_of(2) {
                    return Err(Problem::Sparse("the map ends with an offset"));
                }
                let pairs = self.numbers.chunks_exact(2);
                Ok(PaxSparseMap::Records(
                    pairs.map(|pair| (pair[0], pair[1])).collect(),
                ))
            }
            (None | Some(0), None | Some(0 | 1)) if self.size.is_none() => Ok(PaxSparseMap::None),
            // An empty file, or one that is all hole, has no pairs in version 0.0.
            (None | Some(0), None | Some(0 | 1)) => Ok(PaxSparseMap::Records(Vec::new())),
            _ => Err(Problem::Sparse("the map is of an unknown version")),
        }
    }
}

/// A checked map: ascending, disjoint, within `size`, with as much data as the tar stores.
pub(super) fn checked(
    pairs: &[(i64, i64)],
    size: u64,
    stored: u64,
) -> Result<Vec<Range<u64>>, Problem> {
    let mut ranges = Vec::with_capacity(pairs.len());
    let (mut end_before, mut total) = (0u64, 0u64);
    for &(offset, length) in pairs {
        let (Ok(start), Ok(length)) = (u64::try_from(offset), u64::try_from(length)) else {
            return Err(Problem::Sparse("the map has a negative number"));
        };
        // Both are below 2^63.
        let end = start + length;
        if end > size {
            return Err(Problem::Sparse("the map goes beyond the file's real size"));
        }
        if start < end_before {
            return Err(Problem::Sparse(
                "the map overlaps itself or is out of order",
            ));
        }
        end_before = end;
        total += length;
        if length > 0 {
            ranges.push(start..end);
        }
    }
    if total != stored {
        return Err(Problem::Sparse(
            "the map and the stored data differ in length",
        ));
    }
    Ok(ranges)
}

/// Reads the map at the head of a version 1.0 file's data, block by block.
#[derive(Default)]
pub(super) struct DataMap {
    number: i64,
    digits: u8,
    expected: Option<usize>,
    numbers: Vec<i64>,
}

impl DataMap {
    /// Takes the next 512 bytes; `true` when the map is complete, the rest being padding.
    pub(super) fn take(&mut self, block: &[u8]) -> Result<bool, Problem> {
        for &byte in block {
            match byte {
                b'0'..=b'9' if self.digits < 19 => {
                    self.digits += 1;
                    self.number = self
                        .number
                        .checked_mul(10)
                        .and_then(|high| high.checked_add(i64::from(byte - b'0')))
                        .ok_or(Problem::Sparse("a number in the map is too large"))?;
                }
                b'\n' if self.digits > 0 => {
                    self.digits = 0;
                    if self.finish_number()? {
                        return Ok(true);
                    }
                }
                _ => return Err(Problem::Sparse("the map is not decimal numbers in lines")),
            }
        }
        Ok(false)
    }

    fn finish_number(&mut self) -> Result<bool, Problem> {
        let number = std::mem::take(&mut self.number);
        match self.expected {
            None => {
                let ranges = usize::try_from(number)
                    .ok()
                    .filter(|&ranges| ranges <= MAX_SPARSE_RANGES)
                    .ok_or(Problem::Sparse("the map has too many ranges"))?;
                self.expected = Some(ranges * 2);
            }
            Some(_) => self.numbers.push(number),
        }
        Ok(self.expected == Some(self.numbers.len()))
    }

    pub(super) fn pairs(&self) -> Vec<(i64, i64)> {
        let pairs = self.numbers.chunks_exact(2);
        pairs.map(|pair| (pair[0], pair[1])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_in_order_and_within_the_file() {
        assert_eq!(
            checked(&[(0, 512), (512, 0), (1024, 100), (2000, 0)], 2000, 612).unwrap(),
            [0..512, 1024..1124]
        );
        for (pairs, why) in [
            (vec![(0, 512), (511, 101)], "overlaps"),
            (vec![(1000, 512), (0, 100)], "out of order"),
            (vec![(1500, 612)], "beyond"),
            (vec![(i64::MAX, i64::MAX)], "beyond"),
            (vec![(-1, 612)], "negative"),
            (vec![(0, -1), (0, 613)], "negative"),
            (vec![(0, 611)], "differ"),
        ] {
            let error = checked(&pairs, 2000, 612).unwrap_err().to_string();
            assert!(error.contains(why), "{pairs:?}: {error}");
        }
    }

    #[test]
    fn a_map_in_the_data_may_span_blocks() {
        let mut map = DataMap::default();
        assert!(!map.take(b"2\n0\n51").unwrap());
        assert!(map.take(b"2\n1024\n1\n\0\0\0").unwrap());
        assert_eq!(map.pairs(), [(0, 512), (1024, 1)]);
        for bad in [
            &b"x\n"[..],
            b"\n",
            b"-1\n",
            b"1000001\n",
            b"1\n9223372036854775808\n1\n",
            b"1\n99999999999999999999\n1\n",
            b"1\n0\0",
        ] {
            assert!(DataMap::default().take(bad).is_err(), "{bad:?}");
        }
        assert!(DataMap::default().take(b"0\n\0").unwrap());
    }
}
