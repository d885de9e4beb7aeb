//! Layers made for the tests, and what must hold of each: other code finds the same blocks, and
//! reading through the index gives the tar.

use std::io::{Cursor, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
use overlaybd_proxy::format::block::BlockDevice as _;
use overlaybd_proxy::format::gzip_index::{
    Boundary, BoundaryInflater, GzipError, GzipIndex, GzipIndexer, GzipTarget, Indexed, WINDOW,
};

/// Ranges that are read through each index, unless `OVERLAYBD_PROXY_TEST_RANGES` says another
/// number.
const RANGES: u64 = 300;

const WORDS: [&str; 10] = [
    "lib", "usr", "share", "\0", "the ", "{", "=\n", "0x", "overlay", "::",
];

/// xorshift64*: the same numbers in every run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// Text, noise, zeros and repetitions, as layers have them.
pub(super) fn mixture(length: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed | 1);
    let mut data = Vec::with_capacity(length + (1 << 16));
    while data.len() < length {
        let part = 1 + random.below(60_000) as usize;
        match random.below(5) {
            0 => data.resize(data.len() + part, 0),
            1 => data.extend((0..part).map(|_| random.next() as u8)),
            2 if data.len() > 100 => {
                let from =
                    data.len() - 1 - random.below(data.len().min(40_000) as u64 - 1) as usize;
                for n in 0..part {
                    data.push(data[from + n]);
                }
            }
            _ => {
                let end = data.len() + part;
                while data.len() < end {
                    data.extend_from_slice(WORDS[random.below(10) as usize].as_bytes());
                }
            }
        }
    }
    data.truncate(length);
    data
}

/// Words and zeros, which compress well. `tests/golden/gzip` has been made of them.
pub(super) fn words(length: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed | 1);
    let mut data = Vec::with_capacity(length + (1 << 16));
    while data.len() < length {
        let end = data.len() + 1 + random.below(20_000) as usize;
        if random.below(3) == 0 {
            data.resize(end, 0);
        }
        while data.len() < end {
            data.extend_from_slice(WORDS[random.below(10) as usize].as_bytes());
        }
    }
    data.truncate(length);
    data
}

pub(super) fn gzip(data: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// Gives at most so many bytes at once.
pub(super) struct Slowly<'a>(&'a [u8], usize);

impl Read for Slowly<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let length = buf.len().min(self.1);
        self.0.read(&mut buf[..length])
    }
}

pub(super) fn index(blob: &[u8], span: u32) -> Result<(Vec<u8>, Indexed<Vec<u8>>), GzipError> {
    index_of(blob, span)
}

pub(super) fn index_of(
    input: impl Read,
    span: u32,
) -> Result<(Vec<u8>, Indexed<Vec<u8>>), GzipError> {
    let mut indexer = GzipIndexer::new(input, Cursor::new(Vec::new()), span)?;
    let mut tar = Vec::new();
    if let Err(error) = indexer.read_to_end(&mut tar) {
        assert!(GzipError::of(&error).is_some(), "{error}");
        return Err(error.downcast().unwrap());
    }
    let indexed = indexer.finish()?;
    Ok((
        tar,
        Indexed {
            file: indexed.file.into_inner(),
            size: indexed.size,
            entries: indexed.entries,
            compressed_size: indexed.compressed_size,
            uncompressed_size: indexed.uncompressed_size,
            max_gap: indexed.max_gap,
        },
    ))
}

/// The boundaries of a member's blocks with their bits, and how long it is, as another decoder
/// finds them.
pub(super) fn boundaries(blob: &[u8]) -> Vec<(Boundary, u8)> {
    let mut decoder = DecompressorOxide::new();
    // None of the writers here has optional fields but a name.
    let mut at = 10;
    if blob[3] & 8 != 0 {
        at += 1 + blob[10..].iter().position(|byte| *byte == 0).unwrap();
    }
    let mut buffer = vec![0; 1 << 16];
    let mut made = 0_usize;
    let mut found = vec![(
        Boundary {
            uncompressed: 0,
            compressed: at as u64,
        },
        0,
    )];
    let flags = inflate_flags::TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY;
    loop {
        let place = made % buffer.len();
        let (status, used, output) =
            decompress(&mut decoder, &blob[at..], &mut buffer, place, flags);
        at += used;
        made += output;
        match status {
            TINFLStatus::BlockBoundary => found.push((
                Boundary {
                    uncompressed: made as u64,
                    compressed: at as u64,
                },
                decoder.block_boundary_state().unwrap().num_bits,
            )),
            TINFLStatus::HasMoreOutput => {}
            TINFLStatus::Done => return found,
            other => panic!("{other:?} at {at}"),
        }
    }
}

/// Which of the boundaries are chosen, as the reference does it.
pub(super) fn chosen(all: &[(Boundary, u8)], end: u64, span: u64) -> Vec<(Boundary, u8)> {
    let mut chosen = Vec::new();
    let mut last = None;
    let mut expected = 0;
    for one in all {
        let at = one.0.uncompressed;
        if at > expected {
            chosen.extend(last.take());
            while expected < at {
                expected += span;
            }
        }
        last = Some(*one);
        if at == expected {
            chosen.extend(last.take());
            expected += span;
        }
    }
    // The reference leaves the last block out, wherever it begins.
    if end > expected {
        chosen.extend(last);
    }
    chosen
}

pub(super) fn ranges() -> u64 {
    let ranges = std::env::var("OVERLAYBD_PROXY_TEST_RANGES");
    ranges.map_or(RANGES, |text| text.parse().unwrap())
}

/// Whether the block that begins so many bits before a byte is the last one, and where its data
/// is, if it is a stored one.
/// That is the next whole byte behind three bits, so that several numbers of bits are as good.
pub(super) fn stored_data(blob: &[u8], compressed: u64, bits: u8) -> Option<(u8, u64)> {
    let start = 8 * compressed - u64::from(bits);
    let bit = |at: u64| blob[at as usize / 8] >> (at % 8) & 1;
    let [last, kind @ ..] = [0, 1, 2].map(|n| bit(start + n));
    (kind == [0, 0]).then_some((last, (start + 3).div_ceil(8)))
}

/// Everything that must hold of a layer of one member.
pub(super) fn check(name: &str, blob: &[u8], tar: &[u8], span: u32) {
    let (output, indexed) = index(blob, span).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(output == tar, "{name}: another tar");
    assert_eq!(indexed.file.len() as u64, indexed.size);
    assert_eq!(indexed.compressed_size, blob.len() as u64);
    assert_eq!(indexed.uncompressed_size, tar.len() as u64);

    let all = boundaries(blob);
    let mut inflater = BoundaryInflater::new(blob);
    let mut found = Vec::new();
    while let Some(step) = inflater.step().unwrap() {
        found.extend(step.boundary);
    }
    let places: Vec<Boundary> = all.iter().map(|(boundary, _)| *boundary).collect();
    assert_eq!(found, places, "{name}");
    let starts = places.iter().map(|boundary| boundary.uncompressed);
    let ends = starts.clone().skip(1).chain([tar.len() as u64]);
    let gap = starts.zip(ends).map(|(start, end)| end - start).max();
    assert_eq!(indexed.max_gap, gap.unwrap(), "{name}");

    let index = GzipIndex::open(Arc::new(indexed.file.clone())).unwrap();
    let expected = chosen(&all, tar.len() as u64, u64::from(span));
    assert_eq!(index.entries().len(), expected.len(), "{name}");
    for (entry, (boundary, bits)) in index.entries().iter().zip(expected) {
        let at = Boundary {
            uncompressed: entry.uncompressed,
            compressed: entry.compressed,
        };
        assert_eq!(at, boundary, "{name}");
        let data = |bits| stored_data(blob, entry.compressed, bits);
        assert!(
            entry.bits == bits || data(bits).is_some() && data(entry.bits) == data(bits),
            "{name} {at:?} {bits} {}",
            entry.bits
        );
        let window = index.window(entry).unwrap();
        let length = (at.uncompressed as usize).min(WINDOW);
        assert!(window[..WINDOW - length].iter().all(|byte| *byte == 0));
        let before = &tar[at.uncompressed as usize - length..at.uncompressed as usize];
        assert_is_sparse(&window[WINDOW - length..], before);
    }
    read_ranges(name, blob, index, tar);

    for step in [1 << 12, 70_001] {
        let (output, again) = index_of(Slowly(blob, step), span).unwrap();
        assert!(
            output == tar && again.file == indexed.file,
            "{name}: {step}"
        );
    }
}

pub(super) fn read_ranges(name: &str, blob: &[u8], index: GzipIndex, tar: &[u8]) {
    let entries = index.entries().to_vec();
    let target = GzipTarget::new(Arc::new(blob.to_vec()), index).unwrap();
    assert_eq!(target.size(), tar.len() as u64);
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut buffer = Vec::new();
    let mut last = 0;
    let whole = [(0, tar.len() as u64), (tar.len() as u64, 0)];
    // Backwards, so that reading begins anew, and farther than what windows are for.
    let starts = entries.iter().rev();
    let starts = starts.map(|entry| (entry.uncompressed, WINDOW as u64 + 5_000));
    let starts: Vec<(u64, u64)> = whole.into_iter().chain(starts).collect();
    for n in 0..starts.len() as u64 + ranges() {
        #[allow(clippy::single_match_else)]
        let (start, length) = match starts.get(n as usize) {
            Some(range) => *range,
            // Where the last one ended, a little later, or anywhere.
            None => {
                let start = match random.below(4) {
                    0 => last,
                    1 => last + random.below(100_000),
                    _ => random.below(tar.len() as u64),
                };
                (start, random.below([1, 5000, 200_000][n as usize % 3]))
            }
        };
        let start = start.min(tar.len() as u64);
        let length = length.min(tar.len() as u64 - start);
        buffer.resize(length as usize, 0);
        target.read_at(start, &mut buffer).unwrap();
        last = start + length;
        assert!(
            buffer == tar[start as usize..last as usize],
            "{name}: {length} at {start}"
        );
    }
    assert!(target.read_at(tar.len() as u64, &mut [0]).is_err());
}

/// Whether a window is that of these bytes, but for zeros where nothing refers to it.
#[track_caller]
pub(super) fn assert_is_sparse(window: &[u8], before: &[u8]) {
    assert_eq!(window.len(), before.len());
    for (byte, before) in window.iter().zip(before) {
        assert!(*byte == 0 || byte == before);
    }
}

pub(super) fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(path)
}
