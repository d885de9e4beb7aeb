//! Maps of sparse files, in the four ways they are written (GNU tar manual § "Storing
//! Sparse Files"): old GNU headers, PAX 0.0, 0.1 and 1.0.

use std::ops::Range;

use super::MAX_SPARSE_RANGES;
use super::error::Problem;
use super::number::decimal;

/// Characters of one number in a map; 19 are enough.
const MAX_DIGITS: usize = 64;

/// What the `GNU.sparse.*` records of an entry say.
#[derive(Debug, Clone, Default)]
pub(super) struct PaxSparse {
    major: Vec<u8>,
    minor: Vec<u8>,
    /// The file's real name; the header's is made up.
    name: Vec<u8>,
    size: Vec<u8>,
    real_size: Vec<u8>,
    blocks: Vec<u8>,
    map: Vec<u8>,
    /// Offsets and lengths in records of their own, as version 0.0 has them.
    numbers: Vec<Vec<u8>>,
}

/// How the map of a PAX sparse file is to be had.
pub(super) enum PaxSparseMap {
    /// From the records.
    Records(Vec<(i64, i64)>),
    /// From the head of the data (version 1.0).
    InData,
}

impl PaxSparse {
    pub(super) fn set(&mut self, field: &[u8], value: &[u8]) -> Result<(), Problem> {
        let place = match field {
            b"major" => &mut self.major,
            b"minor" => &mut self.minor,
            b"name" => &mut self.name,
            b"size" => &mut self.size,
            b"realsize" => &mut self.real_size,
            b"numblocks" => &mut self.blocks,
            b"map" => &mut self.map,
            b"offset" | b"numbytes" => {
                let is_offset = self.numbers.len().is_multiple_of(2);
                if is_offset != (field == b"offset") {
                    return Err(Problem::Sparse("offsets and lengths do not take turns"));
                }
                if self.numbers.len() >= MAX_SPARSE_RANGES * 2 {
                    return Err(Problem::Sparse("the map has too many ranges"));
                }
                if value.contains(&b',') {
                    return Err(Problem::Sparse("a number has a comma in it"));
                }
                self.numbers.push(value.to_vec());
                return Ok(());
            }
            _ => return Ok(()),
        };
        *place = value.to_vec();
        Ok(())
    }

    /// How the map is to be had; `None` where the records make no sparse file: their version
    /// is unknown, or they have neither version nor map. The entry is then what its header
    /// says.
    pub(super) fn map(&self) -> Result<Option<PaxSparseMap>, Problem> {
        match (&self.major[..], &self.minor[..]) {
            (b"1", b"0") => Ok(Some(PaxSparseMap::InData)),
            (b"0", b"0" | b"1") => self.listed().map(Some),
            (b"", b"") if !self.map.is_empty() || !self.numbers.is_empty() => {
                self.listed().map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The map of versions 0.0 and 0.1.
    fn listed(&self) -> Result<PaxSparseMap, Problem> {
        let mut numbers: Vec<&[u8]> = self.numbers.iter().map(Vec::as_slice).collect();
        if numbers.is_empty() && !self.map.is_empty() {
            numbers = self.map.split(|&byte| byte == b',').collect();
        }
        let numbers = numbers.into_iter();
        let numbers: Vec<i64> = numbers
            .map(|number| decimal("GNU.sparse.map", number))
            .collect::<Result<_, _>>()?;
        let (pairs, rest) = numbers.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(Problem::Sparse("the map ends with an offset"));
        }
        let stated = decimal("GNU.sparse.numblocks", &self.blocks)?;
        if usize::try_from(stated) != Ok(pairs.len()) {
            return Err(Problem::Sparse("the map is not as long as it says"));
        }
        if pairs.len() > MAX_SPARSE_RANGES {
            return Err(Problem::Sparse("the map has too many ranges"));
        }
        let pairs = pairs.iter().map(|&[offset, length]| (offset, length));
        Ok(PaxSparseMap::Records(pairs.collect()))
    }

    /// The name that a sparse file's records give it.
    pub(super) fn name(&self) -> Option<&[u8]> {
        (!self.name.is_empty()).then_some(&self.name[..])
    }

    /// The file's length with its holes; `stored` where the records do not say it.
    pub(super) fn size(&self, stored: u64) -> Result<u64, Problem> {
        let size = match (&self.size[..], &self.real_size[..]) {
            (b"", b"") => return Ok(stored),
            (b"", size) | (size, _) => decimal("GNU.sparse.size", size)?,
        };
        u64::try_from(size).map_err(|_| Problem::Sparse("the real size is negative"))
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
    number: Vec<u8>,
    expected: Option<usize>,
    numbers: Vec<i64>,
}

impl DataMap {
    /// Takes the next 512 bytes; `true` when the map is complete, the rest being padding.
    pub(super) fn take(&mut self, block: &[u8]) -> Result<bool, Problem> {
        for &byte in block {
            match byte {
                b'\n' => {
                    if self.finish_number()? {
                        return Ok(true);
                    }
                }
                _ if self.number.len() < MAX_DIGITS => self.number.push(byte),
                _ => return Err(Problem::Sparse("a number in the map is too long")),
            }
        }
        Ok(false)
    }

    fn finish_number(&mut self) -> Result<bool, Problem> {
        let number = decimal("a number of the sparse map", &self.number)?;
        self.number.clear();
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
    fn a_map_must_be_sorted_and_within_the_file() {
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
            b"1 \n",
            b"1000001\n",
            b"1\n9223372036854775808\n1\n",
            b"1\n99999999999999999999\n1\n",
            b"1\n0\0\n",
            &[b'1'; 100],
        ] {
            assert!(DataMap::default().take(bad).is_err(), "{bad:?}");
        }
        assert!(DataMap::default().take(b"0\n\0").unwrap());
        assert!(DataMap::default().take(b"+1\n+0\n007\n\0").unwrap());
    }
}
