//! The disk of a layer of which some data is kept until the rest is written.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use overlaybd_proxy::format::blob::{
    Algorithm, BlockSize, CompressPool, LayerBlob, LayerSpec, LayerWriter, SpoolFile, Stack,
};
use overlaybd_proxy::format::block::{BlockDeviceMut as _, FileDevice, Wanted};
use proptest::prelude::*;

use super::support::{noise, verifier};

const SECTORS: u64 = 400;

#[derive(Debug, Clone)]
enum Step {
    /// Data of a file with this rank, or of none that is wanted.
    Write(Range<u64>, Option<u32>, u64),
    Zero(Range<u64>),
    Discard(Range<u64>),
    /// To sectors that begin there, as far as they are others.
    Copy(Range<u64>, u64),
    Place,
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0..SECTORS - 40, 1_u64..40).prop_map(|(start, len)| start..start + len);
    prop_oneof![
        6 => (range(), prop::option::weighted(0.7, 0_u32..4), any::<u64>())
            .prop_map(|(range, rank, seed)| Step::Write(range, rank, seed)),
        1 => range().prop_map(Step::Zero),
        2 => range().prop_map(Step::Discard),
        3 => (range(), 0..SECTORS - 40).prop_map(|(range, to)| Step::Copy(range, to)),
        1 => Just(Step::Place),
    ]
}

fn bytes(range: &Range<u64>) -> Range<usize> {
    let byte = |sector: u64| usize::try_from(sector * 512).unwrap();
    byte(range.start)..byte(range.end)
}

fn uuid(number: usize) -> String {
    format!("00000000-0000-0000-0000-{number:012}")
}

/// A layer over `lower`, written to `path`.
fn write(lower: &Stack, path: &Path, edit: impl FnOnce(&mut LayerWriter)) {
    let mut options = File::options();
    let file = options.create(true).truncate(true).read(true).write(true);
    let spec = LayerSpec {
        virtual_size: SECTORS * 512,
        algorithm: Algorithm::Lz4,
        block_size: BlockSize::KIB_4,
        uuid: uuid(lower.layers().len() + 1),
        parent_uuid: match lower.layers().len() {
            0 => String::new(),
            below => uuid(below),
        },
    };
    let pool = CompressPool::new(2).unwrap();
    let (lower, out) = (Arc::new(lower.clone()), file.open(path).unwrap());
    let writer = LayerWriter::create(lower, out, spec, &pool).unwrap();
    let mut writer = writer.keep_wanted(Box::new(|| {
        Ok(SpoolFile {
            file: tempfile::tempfile()?,
            reserve: Box::new(|_| Ok(())),
        })
    }));
    edit(&mut writer);
    writer.finish("").unwrap().seal().unwrap();
}

/// Does the steps, also to what the disk is to be.
fn apply(steps: &[Step], writer: &mut LayerWriter, disk: &mut [u8], below: &[u8]) {
    for step in steps {
        match step {
            Step::Write(range, rank, seed) => {
                let mut data = noise(*seed, bytes(range).len());
                // Blocks of zeros are not stored.
                if seed % 3 == 0 {
                    data.fill(0);
                }
                let wanted = rank.map(|rank| Wanted {
                    rank,
                    bytes: data.len() as u64,
                });
                writer.set_wanted(wanted);
                writer.write_at(range.start * 512, &data).unwrap();
                writer.set_wanted(None);
                disk[bytes(range)].copy_from_slice(&data);
            }
            Step::Zero(range) => {
                let len = (range.end - range.start) * 512;
                writer.zero_at(range.start * 512, len).unwrap();
                disk[bytes(range)].fill(0);
            }
            Step::Discard(range) => {
                let len = (range.end - range.start) * 512;
                writer.discard_at(range.start * 512, len).unwrap();
                disk[bytes(range)].copy_from_slice(&below[bytes(range)]);
            }
            Step::Copy(range, to) => {
                let len = range.end - range.start;
                if range.start < to + len && *to < range.end {
                    continue;
                }
                let (from, to) = (range.start * 512, to * 512);
                writer.copy_at(from, to, len * 512).unwrap();
                disk.copy_within(bytes(range), usize::try_from(to).unwrap());
            }
            Step::Place => writer.place_wanted().unwrap(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_disk_reads_as_it_was_written_whatever_was_kept(
        below in prop::collection::vec(step(), 0..6),
        steps in prop::collection::vec(step(), 1..30),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let paths = [directory.path().join("0"), directory.path().join("1")];
        let size = usize::try_from(SECTORS * 512).unwrap();
        let zeros = vec![0; size];
        let mut disk = zeros.clone();
        let empty = Stack::empty(SECTORS * 512);
        write(&empty, &paths[0], |writer| apply(&below, writer, &mut disk, &zeros));
        let lower = disk.clone();
        let device = FileDevice::new(File::open(&paths[0]).unwrap()).unwrap();
        let layer = LayerBlob::open(Arc::new(device)).unwrap();
        let stack = Stack::new(vec![Arc::new(layer)]).unwrap();
        write(&stack, &paths[1], |writer| apply(&steps, writer, &mut disk, &lower));

        let raw = directory.path().join("raw");
        verifier::disk(&paths, &raw);
        let read = std::fs::read(&raw).unwrap();
        prop_assert!(read == disk, "the disk reads otherwise");
    }
}
