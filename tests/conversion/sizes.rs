//! What converted blobs may weigh, and what readers can take.

use crate::support;
use std::path::Path;

use support::image::Image;
use support::layout::Layout;
use support::noise;
use support::proxy::Proxy;
use support::pulled::Pulled;
use support::tar::Tar;
use support::walk::Kind;

/// Pulls the image of these tars through a proxy with these settings.
fn pull(tars: &[Vec<u8>], more: &[&str], scratch: &Path) -> Pulled {
    let layout = Layout::create(&scratch.join("source"));
    layout.add("1", &Image::gzip(tars).seal());
    let upstream = format!("oci:{}", layout.path().display());
    let proxy = Proxy::start(&upstream, &scratch.join("data"), more);
    Pulled::into_layout(&proxy, "demo", "1_obd", &scratch.join("out"))
}

fn size(path: &Path) -> u64 {
    path.metadata().unwrap().len()
}

#[test]
fn the_empty_filesystem_of_64_gib_takes_less_than_128_kib() {
    if !support::have(&["skopeo", "e2fsck"]) {
        return;
    }
    for settings in [&[][..], &["--algorithm", "zstd", "--bs", "16"]] {
        let scratch = tempfile::tempdir().unwrap();
        let pulled = pull(&[Tar::new().finish()], settings, scratch.path());
        assert_eq!(
            zfile(&pulled.layers[0]).virtual_size,
            64 << 30,
            "the default disk"
        );
        let weight = size(&pulled.layers[0]);
        assert!(weight < 128 << 10, "{settings:?}: {weight} bytes");
        pulled.tree();
    }
}

#[test]
fn a_layer_of_one_8_kib_file_over_100_mb_takes_less_than_64_kib() {
    if !support::have(&["skopeo", "e2fsck"]) {
        return;
    }
    let mut base = Tar::new();
    for directory in 0..20 {
        base = base.dir(&format!("dir{directory}/"));
        for file in 0..50 {
            let seed = directory * 50 + file;
            base = base.file(&format!("dir{directory}/{file}"), noise(seed, 100_000));
        }
    }
    let top = Tar::new()
        .file("dir7/added", noise(5_000, 8 << 10))
        .finish();
    let scratch = tempfile::tempdir().unwrap();
    let pulled = pull(&[base.finish(), top], &[], scratch.path());
    let (base, added) = (size(&pulled.layers[0]), size(&pulled.layers[1]));
    assert!(base > 100_000_000, "{base} bytes");
    assert!((8 << 10..64 << 10).contains(&added), "{added} bytes");
    if let Some(tree) = pulled.tree() {
        let kind = &tree.node("/dir7/added").kind;
        assert!(matches!(kind, Kind::File { size: 8192, .. }), "{kind:?}");
    }
}

/// What a reader by the published format finds in a blob; no code of the program's.
struct ZFile {
    block_size: u32,
    /// Stored sizes of the blocks, checksums included.
    stored: Vec<u32>,
    virtual_size: u64,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().unwrap()
}

fn zfile(path: &Path) -> ZFile {
    let blob = std::fs::read(path).unwrap();
    assert_eq!(blob[156], b'x', "a pax header comes first");
    let record = std::str::from_utf8(&blob[512..1024]).unwrap();
    let (_, length) = record.split_once(" size=").unwrap();
    let length: usize = length.split('\n').next().unwrap().parse().unwrap();
    let zfile = &blob[1536..1536 + length];
    let trailer = &zfile[zfile.len() - 512..];
    for part in [zfile, trailer] {
        assert_eq!(&part[..8], b"ZFile\0\x01\0");
    }
    let index_at = usize::try_from(u64::from_le_bytes(number(trailer, 40))).unwrap();
    let entries = usize::try_from(u64::from_le_bytes(number(trailer, 48))).unwrap();
    let stored: Vec<u32> = zfile[index_at..index_at + entries * 4]
        .chunks(4)
        .map(|entry| u32::from_le_bytes(number(entry, 0)))
        .collect();
    assert_eq!(512 + stored.iter().sum::<u32>() as usize, index_at);
    // The first block holds the LSMT's header, which has the disk's size at 48.
    let first = &zfile[512..512 + stored[0] as usize - 4];
    let algorithm = trailer[76];
    let header = match algorithm {
        1 => lz4_flex::block::decompress(first, 1 << 20).unwrap(),
        2 => zstd::decode_all(first).unwrap(),
        other => panic!("algorithm {other}"),
    };
    assert_eq!(&header[..4], b"LSMT");
    ZFile {
        block_size: u32::from_le_bytes(number(trailer, 72)),
        stored,
        virtual_size: u64::from_le_bytes(number(&header, 48)),
    }
}

#[test]
fn blocks_of_64_kib_are_stored_in_at_most_65_536_bytes() {
    if !support::have(&["skopeo", "e2fsck"]) {
        return;
    }
    for algorithm in ["lz4", "zstd"] {
        let settings = ["--bs", "64", "--algorithm", algorithm];
        let scratch = tempfile::tempdir().unwrap();
        let data = noise(11, 5_000_000);
        let tar = Tar::new().file("noise", &data).finish();
        let pulled = pull(&[tar], &settings, scratch.path());
        let hard = zfile(&pulled.layers[0]);
        let longest = *hard.stored.iter().max().unwrap();
        assert!(longest <= 65_536, "{algorithm}: {longest} bytes");
        assert!(hard.stored.iter().map(|&size| u64::from(size)).sum::<u64>() > 5_000_000);
        if let Some(tree) = pulled.tree() {
            let Kind::File { sha256, .. } = &tree.node("/noise").kind else {
                panic!("no file");
            };
            assert_eq!(support::sha256(&data), format!("sha256:{sha256}"));
        }

        // What does compress gets the blocks that were asked for.
        let scratch = tempfile::tempdir().unwrap();
        let tar = Tar::new().file("text", "line\n".repeat(100_000)).finish();
        let pulled = pull(&[tar], &settings, scratch.path());
        assert_eq!(zfile(&pulled.layers[0]).block_size, 65_536);
    }
}

#[test]
fn a_blob_has_the_configured_block_size_and_algorithm() {
    if !support::have(&["skopeo", "e2fsck"]) {
        return;
    }
    let text = "what compresses well\n".repeat(40_000);
    for algorithm in ["lz4", "zstd"] {
        for kib in [4_u32, 8, 16, 32, 64] {
            let bs = kib.to_string();
            let settings = ["--bs", &bs, "--algorithm", algorithm, "--vsize", "1"];
            let scratch = tempfile::tempdir().unwrap();
            let tar = Tar::new().file("text", &text).finish();
            let pulled = pull(&[tar], &settings, scratch.path());
            let found = zfile(&pulled.layers[0]);
            assert_eq!(found.block_size, kib << 10, "{settings:?}");
            assert_eq!(found.virtual_size, 1 << 30);
            if let Some(tree) = pulled.tree() {
                let Kind::File { sha256, .. } = &tree.node("/text").kind else {
                    panic!("no file");
                };
                assert_eq!(support::sha256(text.as_bytes()), format!("sha256:{sha256}"));
            }
        }
    }
}
