//! `TurboOCI` layers through their public face: the reference's are read, ours read back.

#![allow(clippy::cast_possible_truncation)]

use std::io::{Cursor, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use overlaybd_proxy::format::blob::{
    Algorithm, BlobError, BlockSize, CompressPool, LayerBlob, LayerSpec, LayerWriter, Stack,
    TurboError, TurboParts, TurboWriter, WriterError, pack_turbo, unpack_turbo,
};
use overlaybd_proxy::format::block::{
    BlockDevice, BlockDeviceMut, FileDevice, MemDevice, SharedDevice,
};
use overlaybd_proxy::format::gzip_index::{GzipIndex, GzipTarget};
use overlaybd_proxy::format::lsmt;
use overlaybd_proxy::oci::Digest;
use proptest::prelude::*;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(path)
}

fn file(path: &str) -> SharedDevice {
    Arc::new(FileDevice::open(&golden(path)).unwrap())
}

/// The tar of a golden layer, inflated.
fn tar(layer: usize) -> Vec<u8> {
    let file = std::fs::File::open(golden(&format!("layer{layer}.tar.gz"))).unwrap();
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(file)
        .read_to_end(&mut tar)
        .unwrap();
    tar
}

/// The tar of a golden layer, read through the reference's index.
fn indexed(layer: usize) -> SharedDevice {
    let index = GzipIndex::open(file(&format!("turbo/{layer}/gzip.meta"))).unwrap();
    let blob = file(&format!("layer{layer}.tar.gz"));
    Arc::new(GzipTarget::new(blob, index).unwrap())
}

fn digest(data: &[u8]) -> Digest {
    let mut hasher = <sha2::Sha256 as sha2::Digest>::new();
    sha2::Digest::update(&mut hasher, data);
    Digest::from_sha256(sha2::Digest::finalize(hasher).into())
}

fn disk_digest(stack: &Stack) -> Digest {
    let mut hasher = <sha2::Sha256 as sha2::Digest>::new();
    let mut buffer = vec![0; 1 << 20];
    for at in (0..stack.size()).step_by(1 << 20) {
        stack.read_at(at, &mut buffer).unwrap();
        sha2::Digest::update(&mut hasher, &buffer);
    }
    Digest::from_sha256(sha2::Digest::finalize(hasher).into())
}

#[test]
fn the_reference_s_layers_read_as_its_own_reader_reads_them() {
    let digests = [
        (
            3,
            "sha256:3c16c6e4497596c1d70ca2df98b40a46487e5feb680fb8a06d5ed875d20ecaa0",
        ),
        (
            4,
            "sha256:56c7a79c418bc60ae3d5f7085890ef06df862f2415f2a05901b8022e3774cf74",
        ),
    ];
    let plain = |layer| -> SharedDevice { Arc::new(tar(layer)) };
    let targets: [&dyn Fn(usize) -> SharedDevice; 2] = [&indexed, &plain];
    for target in targets {
        let mut stack = Stack::default();
        for layer in 0..4 {
            let meta = file(&format!("turbo/{layer}/ext4.fs.meta"));
            let blob = LayerBlob::open_turbo(meta, target(layer)).unwrap();
            stack.push(Arc::new(blob)).unwrap();
            for (layers, digest) in digests {
                if layer + 1 == layers {
                    assert_eq!(stack.size(), 1 << 30);
                    assert_eq!(disk_digest(&stack).as_str(), digest, "{layers} layers");
                }
            }
        }
    }
}

#[test]
fn a_native_layer_takes_no_notice_of_a_target() {
    // Of a native layer all tags are 0, so that it reads the same as a warp file.
    let native = LayerBlob::open(file("lz4-4/0.obd")).unwrap();
    let warp = LayerBlob::open_turbo(file("lz4-4/0.obd"), Arc::new(Vec::new())).unwrap();
    let stacks = [native, warp].map(|blob| Stack::new(vec![Arc::new(blob)]).unwrap());
    assert_eq!(disk_digest(&stacks[0]), disk_digest(&stacks[1]));
}

const DISK: u64 = 1 << 20;

fn spec() -> LayerSpec {
    LayerSpec {
        virtual_size: DISK,
        algorithm: Algorithm::Lz4,
        block_size: BlockSize::KIB_4,
        uuid: "00000000-0000-0000-0000-000000000000".to_owned(),
        parent_uuid: String::new(),
    }
}

fn turbo(lower: &Stack) -> (TurboWriter, std::fs::File) {
    let file = tempfile::tempfile().unwrap();
    let pool = CompressPool::new(1).unwrap();
    let lower = Arc::new(lower.clone());
    let writer = TurboWriter::create(lower, file.try_clone().unwrap(), spec(), &pool).unwrap();
    (writer, file)
}

fn opened(file: std::fs::File, target: SharedDevice) -> LayerBlob {
    LayerBlob::open_turbo(Arc::new(FileDevice::new(file).unwrap()), target).unwrap()
}

/// A native layer of `data` at 0.
fn native(data: &[u8]) -> Arc<LayerBlob> {
    let file = tempfile::tempfile().unwrap();
    let pool = CompressPool::new(1).unwrap();
    let lower = Arc::new(Stack::empty(DISK));
    let mut writer = LayerWriter::create(lower, file.try_clone().unwrap(), spec(), &pool).unwrap();
    writer.write_at(0, data).unwrap();
    writer.finish("").unwrap().seal().unwrap();
    Arc::new(LayerBlob::open(Arc::new(FileDevice::new(file).unwrap())).unwrap())
}

/// No two sectors alike, nor any with that of another `seed`.
fn sectors(count: usize, seed: u8) -> Vec<u8> {
    (0..count * 512)
        .map(|n| {
            let sector = (n / 512) as u8;
            [seed, sector, n as u8 | 1][n % 3]
        })
        .collect()
}

#[test]
fn a_layer_that_only_maps_its_target_keeps_its_tags() {
    let target = sectors(16, 3);
    for (at, lower) in [(0, 0), (4096, 7)] {
        let below = match lower {
            0 => Stack::empty(DISK),
            _ => Stack::new(vec![native(&sectors(64, lower))]).unwrap(),
        };
        let (mut writer, file) = turbo(&below);
        writer.map_target(at, 8192, 0).unwrap();
        let mut expected = vec![0; DISK as usize];
        below.read_at(0, &mut expected).unwrap();
        expected[at as usize..at as usize + 8192].copy_from_slice(&target);
        writer.finish("a tag").unwrap();
        let blob = Arc::new(opened(file, Arc::new(target.clone())));
        assert_eq!(blob.user_tag(), "a tag");
        let mut stack = below;
        stack.push(blob).unwrap();
        let mut read = vec![0; DISK as usize];
        stack.read_at(0, &mut read).unwrap();
        assert!(read == expected);
    }
}

#[test]
fn a_target_s_last_sector_is_filled_up_with_zeros() {
    let target = sectors(1, 5)[..100].to_vec();
    let (mut writer, file) = turbo(&Stack::empty(DISK));
    writer.write_at(4096, &sectors(8, 6)).unwrap();
    writer.map_target(0, 512, 0).unwrap();
    writer.map_target(8192, 512, 512).unwrap();
    writer.finish("").unwrap();
    let stack = Stack::new(vec![Arc::new(opened(file, Arc::new(target.clone())))]).unwrap();
    let mut sector = [1; 512];
    stack.read_at(0, &mut sector).unwrap();
    assert_eq!(sector[..100], target[..]);
    assert_eq!(sector[100..], [0; 412]);
    stack.read_at(200, &mut sector[..100]).unwrap();
    let error = stack.read_at(8192, &mut sector).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    assert!(error.to_string().contains("target"), "{error}");
}

#[test]
fn what_was_mapped_is_not_read_back_and_what_is_not_aligned_not_mapped() {
    let (mut writer, _file) = turbo(&Stack::empty(DISK));
    writer.map_target(4096, 512, 512).unwrap();
    writer.read_at(0, &mut [0; 4096]).unwrap();
    writer.read_at(4000, &mut [0; 4096]).unwrap_err();
    writer.read_at(DISK, &mut [0; 1]).unwrap_err();
    for (offset, len, target) in [(1, 512, 0), (0, 1, 0), (0, 512, 1), (DISK, 512, 0)] {
        writer.map_target(offset, len, target).unwrap_err();
    }
}

#[test]
fn a_layer_with_more_mappings_than_readers_take_is_refused() {
    let file = tempfile::tempfile().unwrap();
    let pool = CompressPool::new(1).unwrap();
    let spec = LayerSpec {
        virtual_size: 2 << 30,
        ..spec()
    };
    let lower = Arc::new(Stack::empty(spec.virtual_size));
    let mut writer = TurboWriter::create(lower, file, spec, &pool).unwrap();
    for n in 0..1_000_000 {
        writer.map_target(n * 1024, 512, n * 2048).unwrap();
    }
    let error = writer.finish("").unwrap_err();
    assert!(matches!(error, WriterError::TooManyMappings(n) if n > 1_000_000));
}

/// The LSMT in a warp file with one mapping of each kind, and its index.
fn warp_file() -> (Vec<u8>, usize) {
    let (mut writer, file) = turbo(&Stack::new(vec![native(&sectors(64, 1))]).unwrap());
    writer.write_at(0, &sectors(8, 2)).unwrap();
    writer.zero_at(4096, 4096).unwrap();
    writer.map_target(8192, 4096, 1024).unwrap();
    let zfile = writer.finish("").unwrap();
    let zfile_size = zfile.geometry.original_size;
    let reader =
        overlaybd_proxy::format::zfile::ZFileReader::open(Arc::new(FileDevice::new(file).unwrap()))
            .unwrap();
    let mut bytes = vec![0; zfile_size as usize];
    reader.read_at(0, &mut bytes).unwrap();
    let index = u64::from_le_bytes(bytes[bytes.len() - 4096 + 32..][..8].try_into().unwrap());
    (bytes, index as usize)
}

fn sources(bytes: Vec<u8>) -> Result<Vec<lsmt::Source>, String> {
    let target: SharedDevice = Arc::new(Vec::new());
    let layer = lsmt::Layer::open_warp(bytes, target).map_err(|error| error.to_string())?;
    let mappings = layer.mappings().iter();
    Ok(mappings.map(|mapping| layer.source(mapping)).collect())
}

#[test]
fn tags_count_from_the_smallest() {
    use lsmt::Source::{Data, Remote, Zeros};
    let (bytes, index) = warp_file();
    assert_eq!(sources(bytes.clone()).unwrap(), [Data(8), Zeros, Remote(2)]);
    let with_tags = |tags: [u8; 3]| {
        let mut bytes = bytes.clone();
        for (n, tag) in tags.into_iter().enumerate() {
            bytes[index + n * 16 + 15] = tag;
        }
        sources(bytes)
    };
    assert_eq!(with_tags([7, 7, 8]).unwrap(), [Data(8), Zeros, Remote(2)]);
    assert_eq!(
        with_tags([255, 254, 255]).unwrap(),
        [Remote(8), Zeros, Remote(2)]
    );
    let error = with_tags([0, 0, 2]).unwrap_err();
    assert!(error.contains("third file"), "{error}");
    // As the reference misreads it, too: it is out of the data.
    assert!(with_tags([1, 1, 1]).unwrap_err().contains("outside"));
}

#[test]
fn a_native_layer_s_tags_mean_nothing() {
    let (mut bytes, index) = warp_file();
    bytes[index + 15] = 1;
    bytes[index + 32 + 15] = 0;
    // Not in the data: what is at sector 2 is the header.
    assert!(lsmt::Layer::open(bytes.clone()).is_err());
    bytes[index + 32 + 8] = 8;
    let layer = lsmt::Layer::open(bytes).unwrap();
    let first = layer.mappings()[0];
    assert_eq!(
        (first.tag, layer.source(&first)),
        (1, lsmt::Source::Data(8))
    );
}

#[test]
fn a_damaged_warp_file_is_an_error() {
    let meta = std::fs::read(golden("turbo/0/ext4.fs.meta")).unwrap();
    for cut in [0, 100, 600, meta.len() / 2] {
        let target: SharedDevice = Arc::new(Vec::new());
        LayerBlob::open_turbo(Arc::new(meta[..cut].to_vec()), target).unwrap_err();
    }
    let target: SharedDevice = Arc::new(Vec::new());
    let error = LayerBlob::open_turbo(Arc::new(b"PK".to_vec()), target).unwrap_err();
    assert!(matches!(error, BlobError::Wrapping(_)), "{error}");
}

#[derive(Debug, Clone)]
enum Action {
    Write(u64, u64, bool),
    Zero(u64, u64),
    Discard(u64, u64),
    Map(u64, u64, u64),
    Copy(u64, u64, u64),
}

fn action() -> impl Strategy<Value = Action> {
    let range = || (0_u64..200, 1_u64..40);
    prop_oneof![
        (range(), any::<bool>()).prop_map(|((at, len), zeros)| Action::Write(at, len, zeros)),
        range().prop_map(|(at, len)| Action::Zero(at, len)),
        range().prop_map(|(at, len)| Action::Discard(at, len)),
        (range(), 0_u64..200).prop_map(|((at, len), target)| Action::Map(at, len, target)),
        (0_u64..100, 1_u64..40, 140_u64..200).prop_map(|(at, len, to)| Action::Copy(at, len, to)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_layer_reads_back_as_what_was_written_and_mapped(
        layers in prop::collection::vec(prop::collection::vec(action(), 0..12), 1..4)
    ) {
        let mut stack = Stack::new(vec![native(&sectors(100, 9))]).unwrap();
        let mut model = MemDevice::new(DISK);
        model.write_at(0, &sectors(100, 9)).unwrap();
        for (n, actions) in layers.iter().enumerate() {
            let target = sectors(256, 100 + n as u8);
            let below = model.clone();
            let (mut writer, file) = turbo(&stack);
            for (m, action) in actions.iter().enumerate() {
                match *action {
                    Action::Write(at, len, zeros) => {
                        let mut data = sectors(len as usize, (20 * n + m) as u8);
                        if zeros {
                            data[..(len as usize / 2) * 512].fill(0);
                        }
                        writer.write_at(at * 512, &data).unwrap();
                        model.write_at(at * 512, &data).unwrap();
                    }
                    Action::Zero(at, len) => {
                        writer.zero_at(at * 512, len * 512).unwrap();
                        model.zero_at(at * 512, len * 512).unwrap();
                    }
                    Action::Discard(at, len) => {
                        writer.discard_at(at * 512, len * 512).unwrap();
                        let mut data = vec![0; len as usize * 512];
                        below.read_at(at * 512, &mut data).unwrap();
                        model.write_at(at * 512, &data).unwrap();
                    }
                    Action::Map(at, len, from) => {
                        writer.map_target(at * 512, len * 512, from * 512).unwrap();
                        let from = from as usize * 512;
                        let data = &target[from..from + len as usize * 512];
                        model.write_at(at * 512, data).unwrap();
                    }
                    Action::Copy(from, len, to) => {
                        writer.copy_at(from * 512, to * 512, len * 512).unwrap();
                        let mut data = vec![0; len as usize * 512];
                        model.read_at(from * 512, &mut data).unwrap();
                        model.write_at(to * 512, &data).unwrap();
                    }
                }
            }
            writer.finish("").unwrap();
            stack.push(Arc::new(opened(file, Arc::new(target)))).unwrap();
            let (mut read, mut expected) = (vec![0; 300 * 512], vec![0; 300 * 512]);
            stack.read_at(0, &mut read).unwrap();
            model.read_at(0, &mut expected).unwrap();
            prop_assert!(read == expected);
        }
    }
}

fn packed(parts: &TurboParts<'_>) -> Vec<u8> {
    let mut blob = Vec::new();
    let packed = pack_turbo(parts, &mut blob).unwrap();
    assert_eq!(packed.size, blob.len() as u64);
    assert_eq!(packed.digest, digest(&blob));
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(&blob[..])
        .read_to_end(&mut tar)
        .unwrap();
    assert_eq!(packed.diff_id, digest(&tar));
    blob
}

#[test]
fn a_blob_has_its_files_in_order_and_reads_back() {
    let meta = std::fs::read(golden("turbo/3/ext4.fs.meta")).unwrap();
    let index = std::fs::read(golden("turbo/3/gzip.meta")).unwrap();
    for gzip_meta in [None, Some(&index)] {
        let parts = TurboParts {
            filesystem: "ext4",
            fs_meta: &meta,
            gzip_meta: gzip_meta.map(|index| index as &dyn BlockDevice),
        };
        let blob = packed(&parts);
        assert!(blob == packed(&parts));

        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&blob[..]));
        let mut names = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!(header.mtime().unwrap(), 0);
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            assert_eq!(header.mode().unwrap(), 0o644);
            names.push(entry.path().unwrap().to_str().unwrap().to_owned());
        }
        let mut expected = vec!["ext4.fs.meta", ".turbo.ociv1"];
        expected.extend(gzip_meta.map(|_| "gzip.meta"));
        assert_eq!(names, expected);

        let (mut first, mut second) = (Vec::new(), Vec::new());
        let unpacked = unpack_turbo(&blob[..], "ext4", 1 << 20, &mut first, &mut second).unwrap();
        assert_eq!(unpacked.is_gzip, gzip_meta.is_some());
        assert_eq!(unpacked.size, (first.len() + second.len()) as u64);
        assert!(first == meta);
        assert!(gzip_meta.is_none_or(|index| second == *index));
    }
}

fn targz(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut builder = tar::Builder::new(gzip);
    for (name, kind, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        if *kind == tar::EntryType::Symlink {
            header.set_link_name("/etc/passwd").unwrap();
        }
        builder.append_data(&mut header, name, *content).unwrap();
    }
    let mut gzip = builder.into_inner().unwrap();
    gzip.flush().unwrap();
    gzip.finish().unwrap()
}

#[test]
fn another_blob_is_an_error_that_says_what() {
    use tar::EntryType::{Regular, Symlink};
    let many: Vec<_> = (0..100).map(|_| ("x", Regular, &b""[..])).collect();
    for (blob, text) in [
        (targz(&[]), "no ext4.fs.meta"),
        (
            targz(&[("erofs.fs.meta", Regular, b"x")]),
            "no ext4.fs.meta",
        ),
        (targz(&[("ext4.fs.meta", Symlink, b"")]), "plain file"),
        (
            targz(&[
                ("ext4.fs.meta", Regular, b"x"),
                ("ext4.fs.meta", Regular, b"y"),
            ]),
            "two",
        ),
        (targz(&[("ext4.fs.meta", Regular, &[1; 1001])]), "1000"),
        (
            targz(&[
                ("a", Regular, &[1; 999]),
                ("ext4.fs.meta", Regular, &[1; 2]),
            ]),
            "1000",
        ),
        (targz(&many), "entries"),
    ] {
        let mut sink = Cursor::new(Vec::new());
        let mut other = Vec::new();
        let error = unpack_turbo(&blob[..], "ext4", 1000, &mut sink, &mut other).unwrap_err();
        assert!(error.to_string().contains(text), "{text}: {error}");
    }
    let blob = targz(&[("ext4.fs.meta", Regular, &[1; 500])]);
    for cut in [0, 20, blob.len() / 2] {
        let error = unpack_turbo(&blob[..cut], "ext4", 1000, &mut Vec::new(), &mut Vec::new());
        let error = error.unwrap_err();
        assert!(
            matches!(error, TurboError::Tar(_) | TurboError::Content(_)),
            "{cut}: {error}"
        );
    }
}
