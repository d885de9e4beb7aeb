//! Damaged indexes and layers are errors, each of which says what is wrong.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use overlaybd_proxy::format::block::BlockDevice as _;
use overlaybd_proxy::format::gzip_index::{GzipIndex, GzipIndexError, GzipTarget, MIN_SPAN};
use proptest::prelude::*;

use super::check::{gzip, index, mixture};

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
