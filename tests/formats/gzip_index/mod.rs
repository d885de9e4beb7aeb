//! Indexes of gzip layers: the reference's are read, ours say the same, and reading through them
//! gives the tar.

#![allow(clippy::cast_possible_truncation)]

mod check;
mod damage;
mod distance;
mod writers;

use std::io::{Cursor, Read, Write as _};
use std::sync::Arc;

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use overlaybd_proxy::format::block::FileDevice;
use overlaybd_proxy::format::gzip_index::{
    DEFAULT_SPAN, GzipError, GzipIndex, GzipIndexer, MIN_SPAN,
};
use proptest::prelude::*;

use check::{Random, assert_is_sparse, check, golden, gzip, index, index_of, mixture, read_ranges};

#[test]
fn indexes_say_what_the_reference_s_do_with_less_in_their_windows() {
    let mut kept = (0, 0);
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
            assert_is_sparse(&windows.0[..], &windows.1[..]);
            kept.0 += windows.0.iter().filter(|byte| **byte != 0).count();
            kept.1 += windows.1.iter().filter(|byte| **byte != 0).count();
        }
        read_ranges("the reference's index", &blob, reference, &tar);
        check("a golden layer", &blob, &tar, DEFAULT_SPAN);
    }
    println!(
        "bytes of windows that are not zero: {} of {}",
        kept.0, kept.1
    );
    assert!(kept.0 * 2 < kept.1, "{kept:?}");
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
}
