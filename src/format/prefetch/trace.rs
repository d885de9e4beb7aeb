//! A trace: what overlaybd reads ahead when it opens an image with an acceleration layer.
//! Source: containerd/overlaybd `src/prefetch.cpp`.

use zerocopy::{FromBytes as _, IntoBytes as _};

use super::raw::{RawHeader, RawRecord};
use super::{MAX_LINE_BYTES, MAX_LIST_BYTES};
use crate::format::crc::crc32c;

/// The first bytes of a trace with records, as a number.
const MAGIC: u32 = 3_270_449_184;
/// Bytes of the header, and of each record.
const HEADER: usize = size_of::<RawHeader>();
const RECORD: usize = size_of::<RawRecord>();
/// Most bytes of one record: overlaybd reads them into a buffer of this size, and does not
/// compare.
pub const MAX_COUNT: u64 = 1 << 20;
/// Most records of a trace that is written or read here. overlaybd has no such bound.
pub const MAX_RECORDS: usize = 1 << 16;
/// Most bytes of a trace.
pub const MAX_TRACE_BYTES: usize = HEADER + MAX_RECORDS * RECORD;

/// A range of a layer's uncompressed LSMT file that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Record {
    /// The layer, counted from 0 at the bottom.
    pub layer: u32,
    /// The first byte, counted from the LSMT's start.
    pub offset: u64,
    /// How many bytes.
    pub count: u64,
}

/// What a file is a trace of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trace {
    /// Ranges of the layers, most wanted first.
    Records(Vec<Record>),
    /// Paths, most wanted first, each as its line has it: overlaybd looks for the files'
    /// places itself.
    Paths(Vec<Vec<u8>>),
}

/// Why a file is no trace that overlaybd can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTrace {
    /// It is larger than what is read.
    #[error("the trace has more than {0} bytes, which is the most that is read")]
    TooLong(usize),
    /// The header's size is not that of the records.
    #[error("the trace's header tells of {told} bytes of records, and {found} follow")]
    Size {
        /// What the header says.
        told: u64,
        /// What there is.
        found: u64,
    },
    /// The records are not those that were written.
    #[error("the trace's checksum is {told:#010x}, and that of its records is {found:#010x}")]
    Checksum {
        /// What the header says.
        told: u32,
        /// That of the records.
        found: u32,
    },
    /// A record that overlaybd cannot read, or should not.
    #[error("record {number} of the trace: {problem}")]
    Record {
        /// Its number, counted from 0.
        number: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
}

fn problem(record: &Record, layers: usize) -> Option<&'static str> {
    let end = record.offset.checked_add(record.count);
    if record.count == 0 || record.count > MAX_COUNT {
        Some("it does not read between 1 byte and 1 MiB, which is overlaybd's buffer")
    } else if end.is_none_or(|end| i64::try_from(end).is_err()) {
        Some("its offset is out of range")
    } else if usize::try_from(record.layer).is_ok_and(|layer| layer < layers) {
        None
    } else {
        Some("there is no such layer below")
    }
}

/// A trace of these records, for an image of `layers` layers below the acceleration layer.
///
/// # Errors
/// When there are more than [`MAX_RECORDS`], or one is out of bounds.
pub fn records_to_bytes(records: &[Record], layers: usize) -> Result<Vec<u8>, InvalidTrace> {
    if records.len() > MAX_RECORDS {
        return Err(InvalidTrace::TooLong(MAX_TRACE_BYTES));
    }
    let mut bytes = vec![0; HEADER];
    for (number, record) in records.iter().enumerate() {
        if let Some(problem) = problem(record, layers) {
            return Err(InvalidTrace::Record { number, problem });
        }
        let raw = RawRecord {
            op: b'R',
            padding: [0; 3],
            layer: record.layer.into(),
            count: record.count.into(),
            offset: record.offset.into(),
        };
        bytes.extend_from_slice(raw.as_bytes());
    }
    let (head, data) = bytes.split_at_mut(HEADER);
    let header = RawHeader {
        magic: MAGIC.into(),
        padding: [0; 4],
        data_size: (data.len() as u64).into(),
        checksum: crc32c(0, data).into(),
        end: [0; 4],
    };
    head.copy_from_slice(header.as_bytes());
    Ok(bytes)
}

impl Trace {
    /// Reads a trace of either form, for an image of `layers` layers below the acceleration
    /// layer. Records of writes are passed over, as overlaybd does; so are lines that are no
    /// paths.
    ///
    /// # Errors
    /// When overlaybd would not replay it, or would read out of bounds.
    pub fn parse(bytes: &[u8], layers: usize) -> Result<Self, InvalidTrace> {
        match RawHeader::read_from_prefix(bytes) {
            Ok((header, data)) if header.magic.get() == MAGIC => records(&header, data, layers),
            _ => paths(bytes),
        }
    }
}

fn records(header: &RawHeader, data: &[u8], layers: usize) -> Result<Trace, InvalidTrace> {
    if data.len() > MAX_RECORDS * RECORD {
        return Err(InvalidTrace::TooLong(MAX_TRACE_BYTES));
    }
    let (told, found) = (header.data_size.get(), data.len() as u64);
    if told != found || !data.len().is_multiple_of(RECORD) {
        return Err(InvalidTrace::Size { told, found });
    }
    let (told, found) = (header.checksum.get(), crc32c(0, data));
    if told != found {
        return Err(InvalidTrace::Checksum { told, found });
    }
    let mut records = Vec::with_capacity(data.len() / RECORD);
    for (number, raw) in data.chunks_exact(RECORD).enumerate() {
        let invalid = |problem| InvalidTrace::Record { number, problem };
        let raw = RawRecord::read_from_bytes(raw).map_err(|_| invalid("it is cut off"))?;
        if raw.op != b'R' {
            continue;
        }
        let record = Record {
            layer: raw.layer.get(),
            offset: raw.offset.get(),
            count: raw.count.get(),
        };
        if let Some(problem) = problem(&record, layers) {
            return Err(invalid(problem));
        }
        records.push(record);
    }
    Ok(Trace::Records(records))
}

/// Whether overlaybd reads a line of a list: it passes over those with anything but letters and
/// digits of ASCII, `_`, `-`, `.` and `/`.
#[must_use]
pub fn is_read_by_overlaybd(line: &[u8]) -> bool {
    let is_taken =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/');
    !line.is_empty() && line.len() <= MAX_LINE_BYTES && line.iter().all(is_taken)
}

fn paths(text: &[u8]) -> Result<Trace, InvalidTrace> {
    if text.len() > MAX_LIST_BYTES {
        return Err(InvalidTrace::TooLong(MAX_LIST_BYTES));
    }
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let is_path = |line: &&[u8]| {
        let mut parts = line.split(|byte| *byte == b'/');
        is_read_by_overlaybd(line) && parts.all(|part| part != b"..")
    };
    Ok(Trace::Paths(
        lines.filter(is_path).map(<[u8]>::to_vec).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: Record = Record {
        layer: 2,
        offset: 4096,
        count: 512,
    };

    #[test]
    fn a_record_has_the_bytes_of_the_reference_s_structs() {
        let record = [
            0x52, 0, 0, 0, 2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0,
        ];
        let mut expected = vec![0x20, 0x18, 0xef, 0xc2, 0, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0];
        // CRC-32C of the record from 0, without inversions, by another program.
        expected.extend_from_slice(&[0x46, 0xe4, 0x6d, 0xd4, 0, 0, 0, 0]);
        expected.extend_from_slice(&record);
        assert_eq!(records_to_bytes(&[ONE], 3).unwrap(), expected);
    }

    #[test]
    fn what_overlaybd_would_not_read_is_refused() {
        let good = records_to_bytes(&[ONE], 3).unwrap();
        let parse = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            Trace::parse(&bytes, 3)
        };
        assert_eq!(parse(&|_| {}), Ok(Trace::Records(vec![ONE])));
        let size = |found| InvalidTrace::Size { told: 24, found };
        assert_eq!(parse(&|bytes| bytes.truncate(47)), Err(size(23)));
        assert_eq!(parse(&|bytes| bytes.push(0)), Err(size(25)));
        for place in [16, 25, 28, 40] {
            let changed = parse(&|bytes| bytes[place] ^= 1);
            assert!(
                matches!(changed, Err(InvalidTrace::Checksum { .. })),
                "{place}"
            );
        }
        for bad in [
            Record { count: 0, ..ONE },
            Record {
                count: MAX_COUNT + 1,
                ..ONE
            },
            Record {
                offset: u64::MAX - 100,
                ..ONE
            },
            Record {
                offset: 1 << 63,
                ..ONE
            },
            Record { layer: 3, ..ONE },
        ] {
            let refused = records_to_bytes(&[ONE, bad], 3);
            assert!(
                matches!(refused, Err(InvalidTrace::Record { number: 1, .. })),
                "{bad:?}"
            );
        }
        assert!(records_to_bytes(&vec![ONE; MAX_RECORDS + 1], 3).is_err());
    }

    #[test]
    fn writes_and_lines_that_are_no_paths_are_passed_over() {
        let mut bytes = records_to_bytes(&[ONE], 3).unwrap();
        bytes[HEADER] = b'W';
        let checksum = crc32c(0, &bytes[HEADER..]);
        bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(Trace::parse(&bytes, 3), Ok(Trace::Records(Vec::new())));
        let text = b" /bin/sh \n\n/a/../b\n/lib/libstdc++.so.6\n/opt/*\nusr/lib/\n";
        let paths = vec![b"/bin/sh".to_vec(), b"usr/lib/".to_vec()];
        assert_eq!(Trace::parse(text, 0), Ok(Trace::Paths(paths)));
        assert!(Trace::parse(&vec![b'/'; MAX_LIST_BYTES + 1], 0).is_err());
    }

    proptest! {
        #[test]
        fn records_read_back_as_they_were_written(
            parts in proptest::collection::vec((0..255_u32, 0..1_u64 << 40, 1..=MAX_COUNT), 0..200)
        ) {
            let records: Vec<Record> = parts
                .into_iter()
                .map(|(layer, offset, count)| Record { layer, offset, count })
                .collect();
            let bytes = records_to_bytes(&records, 255).unwrap();
            prop_assert_eq!(bytes.len(), HEADER + RECORD * records.len());
            prop_assert_eq!(Trace::parse(&bytes, 255), Ok(Trace::Records(records)));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Trace::parse(&bytes, 2);
            let mut with_magic = MAGIC.to_le_bytes().to_vec();
            with_magic.extend_from_slice(&bytes);
            let _ = Trace::parse(&with_magic, 2);
        }
    }
}
