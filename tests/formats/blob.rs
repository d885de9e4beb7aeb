//! Layer blobs through their public face: the reference's are read, ours read back.

#![allow(clippy::cast_possible_truncation)]

use crate::overlaybd;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use overlaybd_proxy::format::blob::{
    Algorithm, BlockSize, CompressPool, FinishedBlob, LayerBlob, LayerSpec, LayerWriter, Stack,
    export,
};
use overlaybd_proxy::format::block::{BlockDevice, BlockDeviceMut, FileDevice, MemDevice};
use overlaybd_proxy::oci::Digest;
use proptest::prelude::*;

fn golden(set: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(set);
    (0..3).map(|n| directory.join(format!("{n}.obd"))).collect()
}

fn stack(paths: &[PathBuf]) -> Stack {
    let open = |path: &PathBuf| {
        let file = FileDevice::open(path).unwrap();
        Arc::new(LayerBlob::open(Arc::new(file)).unwrap())
    };
    Stack::new(paths.iter().map(open).collect()).unwrap()
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

const GOLDEN_DISK: &str = "sha256:de4c4ef41fb5c528d21add2fe4fdf1fdcd8537fa744cadfa6bbc772600e17912";

#[test]
fn the_reference_s_blobs_read_as_the_disk_they_were_made_from() {
    for set in ["lz4-4", "lz4-64", "zstd-16"] {
        let stack = stack(&golden(set));
        assert_eq!(stack.size(), 1 << 30);
        assert_eq!(disk_digest(&stack).as_str(), GOLDEN_DISK, "{set}");
    }
}

#[test]
fn a_stack_without_its_top_reads_as_another_disk() {
    let stack = stack(&golden("lz4-4")[..2]);
    assert_ne!(disk_digest(&stack).as_str(), GOLDEN_DISK);
}

#[test]
fn an_exported_stack_is_a_sparse_file_with_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("raw");
    let stack = stack(&golden("zstd-16"));
    let mut written = 0;
    export(&stack, &File::create(&path).unwrap(), |bytes| {
        written += bytes;
    })
    .unwrap();
    let digest = sha2_of(&path);
    assert_eq!(digest.as_str(), GOLDEN_DISK);
    let blocks = std::os::unix::fs::MetadataExt::blocks(&path.metadata().unwrap());
    assert!(
        blocks * 512 < 64 << 20 && written > 0,
        "{blocks} sectors taken, {written} bytes reported"
    );
}

fn sha2_of(path: &Path) -> Digest {
    let mut hasher = <sha2::Sha256 as sha2::Digest>::new();
    std::io::copy(
        &mut File::open(path).unwrap(),
        &mut DigestWriter(&mut hasher),
    )
    .unwrap();
    Digest::from_sha256(sha2::Digest::finalize(hasher).into())
}

struct DigestWriter<'a>(&'a mut sha2::Sha256);

impl std::io::Write for DigestWriter<'_> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        sha2::Digest::update(self.0, data);
        Ok(data.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Every byte of a reference blob decides: none can be changed without an error or without
/// being one that nobody reads.
#[test]
fn a_flipped_byte_is_an_error_or_changes_nothing() {
    let bytes = std::fs::read(&golden("lz4-64")[1]).unwrap();
    let read = |bytes: Vec<u8>| -> Result<Vec<u8>, String> {
        let blob = LayerBlob::open(Arc::new(bytes)).map_err(|error| error.to_string())?;
        let mappings = blob.mappings().to_vec();
        let stack = Stack::new(vec![Arc::new(blob)]).map_err(|error| error.to_string())?;
        let mut data = Vec::new();
        for mapping in mappings {
            let mut part = vec![0; usize::try_from(mapping.length * 512).unwrap()];
            stack
                .read_at(mapping.offset * 512, &mut part)
                .map_err(|error| error.to_string())?;
            data.extend(mapping.offset.to_le_bytes());
            data.extend(part);
        }
        Ok(data)
    };
    let good = read(bytes.clone()).unwrap();
    let mut errors = 0;
    for at in (0..bytes.len()).step_by(97).chain(0..3 * 512) {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        match read(bad) {
            Ok(data) => assert!(data == good, "byte {at} changed what is read"),
            Err(_) => errors += 1,
        }
    }
    assert!(
        errors > bytes.len() / 97 * 9 / 10,
        "only {errors} were noticed"
    );
}

#[test]
fn a_blob_cut_off_anywhere_is_an_error() {
    let bytes = std::fs::read(&golden("lz4-4")[1]).unwrap();
    for len in [
        0,
        1,
        511,
        512,
        1535,
        1536,
        2048,
        bytes.len() / 2,
        bytes.len() - 2048,
    ] {
        let error = LayerBlob::open(Arc::new(bytes[..len].to_vec())).unwrap_err();
        assert!(!error.to_string().is_empty(), "{len}");
    }
}

const DISK: u64 = 16 << 20;

fn spec(algorithm: Algorithm, block_size: BlockSize) -> LayerSpec {
    LayerSpec {
        virtual_size: DISK,
        algorithm,
        block_size,
        uuid: "01234567-89AB-CDEF-0123-456789ABCDEF".into(),
        parent_uuid: String::new(),
    }
}

fn write(
    lower: &Stack,
    spec: LayerSpec,
    threads: usize,
    path: &Path,
    edit: impl FnOnce(&mut LayerWriter),
) -> FinishedBlob {
    let file = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let pool = CompressPool::new(threads).unwrap();
    let mut writer = LayerWriter::create(Arc::new(lower.clone()), file, spec, &pool).unwrap();
    edit(&mut writer);
    let finished = writer.finish("a tag").unwrap().seal().unwrap();
    assert_eq!(finished.digest, sha2_of(path));
    assert_eq!(finished.size, path.metadata().unwrap().len());
    overlaybd::assert_blob(path.display(), &std::fs::read(path).unwrap());
    finished
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    let directory = tempfile::tempdir().unwrap();
    for (algorithm, kib) in [
        (Algorithm::Lz4, "4"),
        (Algorithm::Zstd, "64"),
        (Algorithm::Lz4, "64"),
    ] {
        let block_size = kib.parse().unwrap();
        let digests: Vec<Digest> = [1, 2, 7]
            .into_iter()
            .map(|threads| {
                let path = directory.path().join(threads.to_string());
                write(
                    &Stack::empty(DISK),
                    spec(algorithm, block_size),
                    threads,
                    &path,
                    |disk| {
                        for n in 0..40 {
                            let mut data = noise(n, 150_000 / 512 * 512);
                            if n % 2 == 0 {
                                data.fill(n as u8);
                            }
                            disk.write_at(n * 200 * 1024, &data).unwrap();
                        }
                    },
                )
                .digest
            })
            .collect();
        assert!(
            digests.iter().all(|digest| *digest == digests[0]),
            "{algorithm} {kib}"
        );
    }
}

#[test]
fn incompressible_data_falls_back_to_blocks_that_the_reference_can_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blob");
    for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
        for before in [0, 3 << 20] {
            let data = noise(9, 2 << 20);
            let spec = spec(algorithm, BlockSize::KIB_64);
            let finished = write(&Stack::empty(DISK), spec, 3, &path, |disk| {
                disk.write_at(4 << 20, &vec![7; before]).unwrap();
                disk.write_at(0, &data).unwrap();
                disk.write_at(12 << 20, &vec![8; 512]).unwrap();
            });
            assert_eq!(finished.zfile.block_size, BlockSize::KIB_32);
            let stack = stack(std::slice::from_ref(&path));
            let mut read = vec![0; data.len()];
            stack.read_at(0, &mut read).unwrap();
            assert!(read == data);
            let mut read = vec![0; before];
            stack.read_at(4 << 20, &mut read).unwrap();
            assert!(read.iter().all(|byte| *byte == 7));
        }
    }
}

#[test]
fn compressible_data_keeps_its_64_kib_blocks() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blob");
    let finished = write(
        &Stack::empty(DISK),
        spec(Algorithm::Lz4, BlockSize::KIB_64),
        1,
        &path,
        |disk| {
            disk.write_at(0, &vec![3; 1 << 20]).unwrap();
        },
    );
    assert_eq!(finished.zfile.block_size, BlockSize::KIB_64);
}

#[test]
fn an_empty_layer_is_a_valid_blob() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blob");
    write(
        &Stack::empty(DISK),
        spec(Algorithm::Lz4, BlockSize::KIB_4),
        1,
        &path,
        |_| {},
    );
    let stack = stack(&[path]);
    assert_eq!(stack.layers()[0].mappings(), []);
    assert_eq!(stack.layers()[0].user_tag(), "a tag");
    let mut read = vec![1; 4096];
    stack.read_at(DISK - 4096, &mut read).unwrap();
    assert_eq!(read, [0; 4096]);
}

/// A disk that claims to be long, and has a header and then bytes of one kind.
struct Claim {
    header: [u8; 512],
    size: u64,
    fill: u8,
    read: AtomicU64,
}

impl BlockDevice for Claim {
    fn size(&self) -> u64 {
        self.size
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        buf.fill(self.fill);
        if offset == 0 {
            let count = buf.len().min(512);
            buf[..count].copy_from_slice(&self.header[..count]);
        }
        Ok(())
    }
}

#[test]
fn a_false_index_length_takes_no_memory() {
    let read = |blocks: u64, index_offset: u64, size: u64, fill: u8| {
        let mut header = [0; 512];
        header[..24].copy_from_slice(b"ZFile\0\x01\0tuji.yyf@Alibaba");
        header[24..28].copy_from_slice(&96_u32.to_le_bytes());
        // Of a data file, final, without a digest of itself.
        header[32..40].copy_from_slice(&0b1011_u64.to_le_bytes());
        header[40..48].copy_from_slice(&index_offset.to_le_bytes());
        header[48..56].copy_from_slice(&blocks.to_le_bytes());
        header[56..64].copy_from_slice(&(blocks * 4096).to_le_bytes());
        header[72..76].copy_from_slice(&4096_u32.to_le_bytes());
        header[76] = 1;
        header[88] = 1;
        let claim = Arc::new(Claim {
            header,
            size,
            fill,
            read: AtomicU64::new(0),
        });
        let error = LayerBlob::open_readable(Arc::clone(&claim) as _).unwrap_err();
        let read = claim.read.load(Ordering::Relaxed);
        assert!(read <= 3 << 20, "{error}: {read} bytes were read");
        error.to_string()
    };
    for (blocks, index_offset, size, fill, expected) in [
        (1 << 40, 1 << 50, 1 << 60, 0, "the limit is"),
        (1 << 28, 512, 1 << 60, 0, "too early"),
        (1 << 28, 5 << 28, 1 << 60, 0, "too early"),
        (
            1 << 28,
            1 << 40,
            (1 << 40) + (1 << 29),
            0,
            "beyond the end of the file",
        ),
        (1 << 28, 1 << 40, 1 << 60, 0, "a stored size of 0"),
        (1 << 28, 6 << 28, 1 << 60, 4, "a stored size of 67372036"),
    ] {
        let error = read(blocks, index_offset, size, fill);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[derive(Debug, Clone)]
enum Edit {
    Write(u64, Vec<u8>),
    Zero(u64, u64),
    /// From, to, and how many bytes.
    Copy(u64, u64, u64),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let sector = 0..DISK / 512 / 64;
    let edit = prop_oneof![
        3 => (sector.clone(), 1_u64..80, any::<u64>(), any::<bool>()).prop_map(|(at, len, seed, zeros)| {
            let mut data = noise(seed, usize::try_from(len * 512).unwrap());
            if zeros {
                let (from, to) = (data.len() / 3, data.len() / 3 * 2);
                data[from..to].fill(0);
            }
            Edit::Write(at * 512, data)
        }),
        1 => (sector.clone(), 1_u64..80).prop_map(|(at, len)| Edit::Zero(at * 512, len * 512)),
        2 => (sector.clone(), sector, 1_u64..80).prop_map(|(from, to, len)| {
            Edit::Copy(from * 512, to * 512, len.min(from.abs_diff(to)) * 512)
        }),
    ];
    prop::collection::vec(edit, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_stack_reads_as_a_disk_with_the_same_writes(
        layers in prop::collection::vec(edits(), 1..5),
        zstd in any::<bool>(),
        kib in prop::sample::select(vec!["4", "8", "16", "32", "64"]),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let algorithm = if zstd { Algorithm::Zstd } else { Algorithm::Lz4 };
        let mut model = MemDevice::new(DISK);
        let mut paths: Vec<PathBuf> = Vec::new();
        for edits in layers {
            let lower = if paths.is_empty() { Stack::empty(DISK) } else { stack(&paths) };
            let path = directory.path().join(paths.len().to_string());
            write(&lower, spec(algorithm, kib.parse().unwrap()), 2, &path, |disk| {
                for edit in &edits {
                    match edit {
                        Edit::Write(at, data) => {
                            disk.write_at(*at, data).unwrap();
                            model.write_at(*at, data).unwrap();
                        }
                        Edit::Zero(at, len) => {
                            disk.zero_at(*at, *len).unwrap();
                            model.zero_at(*at, *len).unwrap();
                        }
                        Edit::Copy(from, to, len) => {
                            disk.copy_at(*from, *to, *len).unwrap();
                            model.copy_at(*from, *to, *len).unwrap();
                        }
                    }
                }
            });
            paths.push(path);
            let stack = stack(&paths);
            let (mut read, mut expected) = (vec![0; 1 << 20], vec![0; 1 << 20]);
            for at in (0..DISK).step_by(1 << 20) {
                stack.read_at(at, &mut read).unwrap();
                model.read_at(at, &mut expected).unwrap();
                prop_assert!(read == expected, "at {}", at);
            }
            for at in [1, 511, 513, 70_001] {
                stack.read_at(at, &mut read[..777]).unwrap();
                model.read_at(at, &mut expected[..777]).unwrap();
                prop_assert!(read[..777] == expected[..777]);
            }
        }
        // The same by a reader that knows nothing of the writer.
        let layers: Vec<_> = paths
            .iter()
            .map(|path| overlaybd::assert_blob(path.display(), &std::fs::read(path).unwrap()))
            .collect();
        let disk = tempfile::tempfile().unwrap();
        overlaybd::Stack::of_one_disk(&layers).unwrap().write(&disk).unwrap();
        let (mut read, mut expected) = (vec![0; DISK as usize], vec![0; DISK as usize]);
        disk.read_exact_at(&mut read, 0).unwrap();
        model.read_at(0, &mut expected).unwrap();
        prop_assert!(read == expected);
    }
}
