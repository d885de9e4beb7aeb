//! Indexes of gzip layers: the reference's are read, ours say the same, and reading through them
//! gives the tar.

#![allow(clippy::cast_possible_truncation)]

use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
use overlaybd_proxy::format::block::{BlockDevice as _, FileDevice};
use overlaybd_proxy::format::gzip_index::{
    Boundary, BoundaryInflater, DEFAULT_SPAN, GzipError, GzipIndex, GzipIndexError, GzipIndexer,
    GzipTarget, Indexed, MIN_SPAN, WINDOW,
};
use proptest::prelude::*;

/// Ranges that are read through each index, unless `OVERLAYBD_PROXY_TEST_RANGES` says another
/// number.
const RANGES: u64 = 300;

/// xorshift64*: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// Text, noise, zeros and repetitions, as layers have them.
fn mixture(length: usize, seed: u64) -> Vec<u8> {
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
                let words = [
                    "lib", "usr", "share", "\0", "the ", "{", "=\n", "0x", "overlay", "::",
                ];
                let end = data.len() + part;
                while data.len() < end {
                    data.extend_from_slice(words[random.below(10) as usize].as_bytes());
                }
            }
        }
    }
    data.truncate(length);
    data
}

fn gzip(data: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// Gives at most so many bytes at once.
struct Slowly<'a>(&'a [u8], usize);

impl Read for Slowly<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let length = buf.len().min(self.1);
        self.0.read(&mut buf[..length])
    }
}

fn index(blob: &[u8], span: u32) -> Result<(Vec<u8>, Indexed<Vec<u8>>), GzipError> {
    index_of(blob, span)
}

fn index_of(input: impl Read, span: u32) -> Result<(Vec<u8>, Indexed<Vec<u8>>), GzipError> {
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
fn boundaries(blob: &[u8]) -> Vec<(Boundary, u8)> {
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
fn chosen(all: &[(Boundary, u8)], end: u64, span: u64) -> Vec<(Boundary, u8)> {
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

fn ranges() -> u64 {
    let ranges = std::env::var("OVERLAYBD_PROXY_TEST_RANGES");
    ranges.map_or(RANGES, |text| text.parse().unwrap())
}

/// Whether the block that begins so many bits before a byte is the last one, and where its data
/// is, if it is a stored one.
/// That is the next whole byte behind three bits, so that several numbers of bits are as good.
fn stored_data(blob: &[u8], compressed: u64, bits: u8) -> Option<(u8, u64)> {
    let start = 8 * compressed - u64::from(bits);
    let bit = |at: u64| blob[at as usize / 8] >> (at % 8) & 1;
    let [last, kind @ ..] = [0, 1, 2].map(|n| bit(start + n));
    (kind == [0, 0]).then_some((last, (start + 3).div_ceil(8)))
}

/// Everything that must hold of a layer of one member.
fn check(name: &str, blob: &[u8], tar: &[u8], span: u32) {
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
        assert!(window[WINDOW - length..] == *before, "{name} {at:?}");
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

fn read_ranges(name: &str, blob: &[u8], index: GzipIndex, tar: &[u8]) {
    let entries = index.entries().to_vec();
    let target = GzipTarget::new(Arc::new(blob.to_vec()), index).unwrap();
    assert_eq!(target.size(), tar.len() as u64);
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut buffer = Vec::new();
    let mut last = 0;
    let whole = [(0, tar.len() as u64), (tar.len() as u64, 0)];
    let starts = entries.iter().map(|entry| (entry.uncompressed, 5));
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

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(path)
}

#[test]
fn indexes_say_what_the_reference_s_do() {
    for layer in 0..4 {
        let blob = std::fs::read(golden(&format!("layer{layer}.tar.gz"))).unwrap();
        let meta = FileDevice::open(&golden(&format!("turbo/{layer}/gzip.meta"))).unwrap();
        let reference = GzipIndex::open(Arc::new(meta)).unwrap();
        let (tar, indexed) = index(&blob, DEFAULT_SPAN).unwrap();
        let ours = GzipIndex::open(Arc::new(indexed.file)).unwrap();
        let (header, expected) = (ours.header(), reference.header());
        assert_eq!(header.span, expected.span);
        assert_eq!(header.entries, expected.entries);
        assert_eq!(header.compressed_size, expected.compressed_size);
        assert_eq!(header.uncompressed_size, expected.uncompressed_size);
        for (entry, expected) in ours.entries().iter().zip(reference.entries()) {
            assert_eq!(entry.uncompressed, expected.uncompressed);
            assert_eq!(entry.compressed, expected.compressed);
            assert_eq!(entry.bits, expected.bits);
            let windows = (
                ours.window(entry).unwrap(),
                reference.window(expected).unwrap(),
            );
            assert!(windows.0 == windows.1);
        }
        read_ranges("the reference's index", &blob, reference, &tar);
        check("a golden layer", &blob, &tar, DEFAULT_SPAN);
    }
}

#[test]
fn the_entries_of_a_layer_of_five_megabytes_are_known() {
    let meta = FileDevice::open(&golden("turbo/3/gzip.meta")).unwrap();
    let index = GzipIndex::open(Arc::new(meta)).unwrap();
    let entries: Vec<(u64, u64, u8)> = index
        .entries()
        .iter()
        .map(|entry| (entry.uncompressed, entry.compressed, entry.bits))
        .collect();
    let expected = [
        (0, 10, 0),
        (915_306, 379_570, 3),
        (1_982_973, 818_650, 5),
        (3_050_447, 1_257_965, 7),
        (4_116_241, 1_696_843, 0),
        (5_211_582, 2_273_360, 0),
    ];
    assert_eq!(entries, expected);
    assert_eq!(index.entry_for(0).compressed, 10);
    assert_eq!(index.entry_for(915_305).compressed, 10);
    assert_eq!(index.entry_for(915_306).compressed, 379_570);
    assert_eq!(index.entry_for(u64::MAX).compressed, 2_273_360);
}

#[test]
fn every_level_of_a_writer_can_be_indexed() {
    let tar = mixture(5 << 20, 1);
    for level in 0..10 {
        check(
            &format!("level {level}"),
            &gzip(&tar, level),
            &tar,
            DEFAULT_SPAN,
        );
        check(
            &format!("level {level}"),
            &gzip(&tar, level),
            &tar,
            MIN_SPAN,
        );
    }
}

#[test]
fn blocks_of_all_kinds_are_found_where_they_begin() {
    // Flushes make empty stored blocks; a small piece makes a fixed one.
    let tar = mixture(2 << 20, 2);
    for every in [64 << 10, 5000, 700] {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        for (n, piece) in tar.chunks(every).enumerate() {
            encoder.write_all(piece).unwrap();
            for _ in 0..n % 3 {
                encoder.flush().unwrap();
            }
        }
        let blob = encoder.finish().unwrap();
        check(&format!("a flush every {every}"), &blob, &tar, MIN_SPAN);
    }
}

#[test]
fn small_layers_have_one_entry() {
    for length in [0, 1, 511, 65_536] {
        let tar = mixture(length, 3);
        for level in [0, 1, 6] {
            check(
                &format!("{length} bytes"),
                &gzip(&tar, level),
                &tar,
                DEFAULT_SPAN,
            );
        }
    }
}

/// What a program makes of standard input; `None`, and said so, where it is not installed.
fn through(program: &str, arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: {program} is not installed");
            return None;
        }
        Err(error) => panic!("{program}: {error}"),
    };
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{program} {arguments:?}");
    Some(output.stdout)
}

#[test]
fn layers_of_real_writers_can_be_indexed() {
    let tar = mixture(5 << 20, 4);
    let levels = ["-1", "-2", "-3", "-4", "-5", "-6", "-7", "-8", "-9"];
    let mut writers: Vec<(&str, Vec<&str>)> =
        levels.iter().map(|level| ("gzip", vec![*level])).collect();
    writers.push(("gzip", vec!["--rsyncable"]));
    writers.push(("pigz", vec![]));
    writers.push(("pigz", vec!["-1"]));
    writers.push(("pigz", vec!["--rsyncable"]));
    writers.push(("pigz", vec!["--independent"]));
    writers.push(("igzip", vec!["-0"]));
    writers.push(("igzip", vec!["-3"]));
    writers.push(("libdeflate-gzip", vec!["-6"]));
    writers.push(("libdeflate-gzip", vec!["-12"]));
    for (program, arguments) in writers {
        if let Some(blob) = through(program, &arguments, &tar) {
            check(
                &format!("{program} {arguments:?}"),
                &blob,
                &tar,
                DEFAULT_SPAN,
            );
        }
    }
    // It reads files only, and takes its time.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tar");
    std::fs::write(&path, &tar[..1 << 20]).unwrap();
    let arguments = ["-c", "--i1", path.to_str().unwrap()];
    if let Some(blob) = through("zopfli", &arguments, b"") {
        check("zopfli", &blob, &tar[..1 << 20], MIN_SPAN);
    }
}

#[test]
fn a_header_s_optional_fields_are_passed() {
    let tar = mixture(100_000, 5);
    let mut encoder = GzBuilder::new()
        .filename("layer.tar")
        .comment(vec![b'c'; 50_000])
        .extra(vec![7; 40_000])
        .write(Vec::new(), Compression::default());
    encoder.write_all(&tar).unwrap();
    let blob = encoder.finish().unwrap();
    let (output, indexed) = index(&blob, DEFAULT_SPAN).unwrap();
    assert!(output == tar);
    let index = GzipIndex::open(Arc::new(indexed.file)).unwrap();
    read_ranges("fields", &blob, index, &tar);

    let mut encoder = GzBuilder::new()
        .comment(vec![b'c'; 200_000])
        .write(Vec::new(), Compression::default());
    encoder.write_all(&tar).unwrap();
    let error = index_of(&encoder.finish().unwrap()[..], DEFAULT_SPAN).unwrap_err();
    assert!(matches!(error, GzipError::Header(_)), "{error}");
}

#[test]
fn what_follows_the_member_is_told() {
    let tar = mixture(300_000, 6);
    let member = gzip(&tar, 6);
    let end = member.len() as u64;
    for zeros in [1, 512, 1 << 20] {
        let blob = [&member[..], &vec![0; zeros]].concat();
        check("padding", &blob, &tar, DEFAULT_SPAN);
    }
    let two = [&member[..], &member].concat();
    let error = index(&two, DEFAULT_SPAN).unwrap_err();
    assert!(
        matches!(error, GzipError::MultipleMembers(at) if at == end),
        "{error}"
    );
    assert!(error.is_unsupported());
    for (tail, at) in [(&b"x"[..], end), (b"\x1f", end), (b"\0\0\x1f\x8b", end + 2)] {
        let blob = [&member[..], tail].concat();
        let error = index(&blob, DEFAULT_SPAN).unwrap_err();
        assert!(
            matches!(error, GzipError::TrailingData(n) if n == at),
            "{error}"
        );
        assert!(!error.is_unsupported());
    }
}

#[test]
fn a_cut_layer_is_truncated_wherever_it_is_cut() {
    let tar = mixture(400_000, 7);
    for level in [0, 6] {
        let blob = gzip(&tar, level);
        let mut random = Random(8);
        let near = (blob.len() - 40..blob.len()).chain(0..40);
        let anywhere = (0..100).map(|_| random.below(blob.len() as u64) as usize);
        for cut in near.chain(anywhere) {
            let error = index(&blob[..cut], DEFAULT_SPAN).unwrap_err();
            assert!(matches!(error, GzipError::Truncated), "{cut}: {error}");
        }
    }
}

#[test]
fn a_wrong_trailer_is_told() {
    let blob = gzip(&mixture(100_000, 9), 6);
    for (from_end, what) in [(8, "CRC-32"), (4, "length")] {
        let mut bad = blob.clone();
        let at = bad.len() - from_end;
        bad[at] ^= 1;
        let error = index(&bad, DEFAULT_SPAN).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn a_read_error_passes_through() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::new(
                std::io::ErrorKind::ConnectionReset,
                "cut",
            ))
        }
    }
    let blob = gzip(&mixture(100_000, 10), 6);
    let input = (&blob[..blob.len() / 2]).chain(Broken);
    let mut indexer = GzipIndexer::new(input, Cursor::new(Vec::new()), DEFAULT_SPAN).unwrap();
    let error = std::io::copy(&mut indexer, &mut std::io::sink()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(indexer.read(&mut [0]).is_err());
    assert!(GzipIndexer::new(&b""[..], Cursor::new(Vec::new()), MIN_SPAN - 1).is_err());
}

/// A good index of some entries.
fn some_index() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let tar = mixture(400_000, 11);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    for piece in tar.chunks(60_000) {
        encoder.write_all(piece).unwrap();
        encoder.flush().unwrap();
    }
    let blob = encoder.finish().unwrap();
    let (_, indexed) = index(&blob, MIN_SPAN).unwrap();
    assert!(indexed.entries > 3);
    (tar, blob, indexed.file)
}

/// With a header's field and its CRC changed.
fn with_field(file: &[u8], at: usize, value: &[u8]) -> Vec<u8> {
    let mut bad = file.to_vec();
    bad[at..at + value.len()].copy_from_slice(value);
    let crc = overlaybd_proxy::format::crc::crc32c(0, &bad[..329]);
    bad[329..333].copy_from_slice(&crc.to_le_bytes());
    bad
}

#[test]
fn a_wrong_header_is_an_error_that_says_what() {
    let (_, _, file) = some_index();
    let open = |file: Vec<u8>| GzipIndex::open(Arc::new(file)).map(|_| ());
    open(with_field(&file, 0, b"ddgzidx")).unwrap();
    let huge = i64::MAX.to_le_bytes();
    let minus = (-1_i64).to_le_bytes();
    for (at, value, text) in [
        (0, &b"x"[..], "magic"),
        (8, &[2], "version"),
        (10, &[2], "compression"),
        (10, &[0], "table"),
        (13, &[0xff; 4], "span"),
        (17, &[0; 4], "window"),
        (21, &[30], "entry"),
        (25, &huge, "entries"),
        (25, &minus, "entries"),
        (25, &[0; 8], "entries"),
        (33, &minus, "blob"),
        (41, &huge, "bytes"),
        (313, &huge, "table"),
        (313, &[0; 8], "table"),
        (321, &huge, "table"),
        (25, &[3], "longer"),
        (25, &[0xff; 2], "entry"),
    ] {
        let error = open(with_field(&file, at, value)).unwrap_err().to_string();
        assert!(error.contains(text), "{at}: {error}");
    }
    let mut crc = file.clone();
    crc[100] ^= 1;
    assert!(open(crc).unwrap_err().to_string().contains("CRC"));
    for cut in [0, 332, 333, file.len() - 1] {
        open(file[..cut].to_vec()).unwrap_err();
    }
}

#[test]
fn a_wrong_table_is_an_error_that_says_where() {
    let (_, _, file) = some_index();
    let start = u64::from_le_bytes(file[313..321].try_into().unwrap()) as usize;
    let mut table = Vec::new();
    flate2::read::ZlibDecoder::new(&file[start..])
        .read_to_end(&mut table)
        .unwrap();
    let with_table = |table: &[u8]| {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::new(6));
        encoder.write_all(table).unwrap();
        let stored = encoder.finish().unwrap();
        let bad = [&file[..start], &stored].concat();
        let bad = with_field(&bad, 321, &(stored.len() as u64).to_le_bytes());
        let size = (bad.len() as u64).to_le_bytes();
        GzipIndex::open(Arc::new(with_field(&bad, 41, &size))).map(|_| ())
    };
    with_table(&table).unwrap();
    for (at, byte, text) in [
        (0, 1, "the first"),
        (29, 0, ""),
        (36, 0x80, "de_pos"),
        (35, 1, "end"),
        (8, 0, "en_pos"),
        (15, 0x7f, "en_pos"),
        (24, 8, "bits"),
        (22, 1, "window"),
        (16, 0, "window"),
        (28, 1, "window"),
    ] {
        let mut bad = table.clone();
        bad[at] = byte;
        let result = with_table(&bad);
        if !text.is_empty() {
            let error = result.unwrap_err().to_string();
            assert!(
                error.contains(text) && error.contains("entry"),
                "{at}: {error}"
            );
        }
    }
    with_table(&table[..table.len() - 1]).unwrap_err();
    with_table(&[&table[..], &[0]].concat()).unwrap_err();
}

#[test]
fn an_index_is_of_one_blob() {
    let (_, blob, file) = some_index();
    let index = GzipIndex::open(Arc::new(file)).unwrap();
    let error = GzipTarget::new(Arc::new(blob[1..].to_vec()), index).unwrap_err();
    assert!(matches!(error, GzipIndexError::OtherBlob { .. }), "{error}");
}

#[test]
fn a_longer_claim_than_the_data_is_an_error_of_reading() {
    let (tar, blob, file) = some_index();
    let claim = (tar.len() as u64 + 10).to_le_bytes();
    let index = GzipIndex::open(Arc::new(with_field(&file, 49, &claim))).unwrap();
    let target = GzipTarget::new(Arc::new(blob), index).unwrap();
    target.read_at(tar.len() as u64 - 10, &mut [0; 10]).unwrap();
    let error = target
        .read_at(tar.len() as u64 - 10, &mut [0; 20])
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_layer_reads_back(
        length in 0_usize..700_000,
        seed: u64,
        level in 0_u32..10,
        flushes in prop::collection::vec(0_usize..700_000, 0..20),
        span in prop::sample::select(vec![MIN_SPAN, MIN_SPAN + 1, 200_000]),
    ) {
        let tar = mixture(length, seed);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
        let mut places: Vec<usize> = flushes.into_iter().filter(|at| *at < length).collect();
        places.sort_unstable();
        let mut done = 0;
        for at in places {
            encoder.write_all(&tar[done..at]).unwrap();
            encoder.flush().unwrap();
            done = at;
        }
        encoder.write_all(&tar[done..]).unwrap();
        check("a random layer", &encoder.finish().unwrap(), &tar, span);
    }

    #[test]
    fn a_damaged_index_never_makes_a_panic(
        damages in prop::collection::vec((0_usize..100_000, any::<u8>()), 1..6),
        crc: bool,
    ) {
        let (tar, blob, mut file) = some_index();
        let length = file.len();
        for (at, byte) in damages {
            file[at % length] = byte;
        }
        if crc {
            file = with_field(&file, 0, b"ddgzidx");
        }
        let Ok(index) = GzipIndex::open(Arc::new(file)) else {
            return Ok(());
        };
        let Ok(target) = GzipTarget::new(Arc::new(blob), index) else {
            return Ok(());
        };
        let mut buffer = [0; 100];
        for at in (0..tar.len() as u64).step_by(50_000) {
            let _ = target.read_at(at, &mut buffer);
        }
    }

    #[test]
    fn a_damaged_layer_never_makes_a_panic(
        damages in prop::collection::vec((0_usize..1_000_000, any::<u8>()), 1..4),
        level in 0_u32..10,
    ) {
        let tar = mixture(300_000, 12);
        let mut blob = gzip(&tar, level);
        let length = blob.len();
        for (at, byte) in damages {
            blob[at % length] = byte;
        }
        if let Ok((output, _)) = index(&blob, MIN_SPAN) {
            prop_assert!(output == tar);
        }
    }
}
