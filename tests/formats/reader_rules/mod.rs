//! Tests of the rules of overlaybd's reader: good blobs keep them, and each is broken once.

#![allow(clippy::cast_possible_truncation)]

mod cases;
mod product;

use crate::overlaybd;
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use overlaybd::build::{Blob, DATA, DISK, Entry, INVALID, UUID, tar};
use overlaybd::{Layer, Rule, Stack, Violation, check};
use sha2::Digest as _;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn disk_digest(stack: &Stack) -> String {
    let file = tempfile::tempfile().unwrap();
    stack.write(&file).unwrap();
    let (mut hasher, mut buffer) = (sha2::Sha256::new(), vec![0; 1 << 20]);
    for at in (0..stack.size()).step_by(1 << 20) {
        file.read_exact_at(&mut buffer, at).unwrap();
        hasher.update(&buffer);
    }
    format!("{:x}", bytes::Bytes::copy_from_slice(&hasher.finalize()))
}

#[test]
fn the_reference_s_blobs_keep_the_rules_and_read_as_their_disk() {
    for set in ["lz4-4", "lz4-64", "zstd-16"] {
        let files: Vec<_> = (0..3).map(|n| golden(&format!("{set}/{n}.obd"))).collect();
        let layers = overlaybd::assert_stack(&files);
        assert_eq!(
            disk_digest(&Stack::new(&layers).unwrap()),
            "de4c4ef41fb5c528d21add2fe4fdf1fdcd8537fa744cadfa6bbc772600e17912",
            "{set}"
        );
    }
}

#[test]
fn the_reference_s_turbo_layers_keep_the_rules() {
    for number in 0..4 {
        let path = golden(&format!("turbo/{number}/ext4.fs.meta"));
        let meta = std::fs::read(&path).unwrap();
        let layer = Layer::open_turbo(&meta).unwrap();
        layer.verify().unwrap();
        assert!(layer.mappings().iter().any(|mapping| mapping.tag == 1));
        // What they map is in another file, which a native layer has not.
        let violation = check(&tar(&meta)).unwrap_err();
        assert_eq!(violation.rule, Rule::LsmtTag);
    }
}

fn layer(blob: &Blob) -> Layer {
    check(&blob.finish()).unwrap()
}

fn above(parent: &str) -> Layer {
    layer(&Blob::new().in_both(93, parent.as_bytes()))
}

fn stacks() -> Vec<(Rule, &'static str, Violation)> {
    let bottom = layer(&Blob::new());
    let small = layer(
        &Blob::new()
            .in_both(48, &((DISK - 8) * 512).to_le_bytes())
            .in_both(93, UUID.as_bytes()),
    );
    let refused = |layers: &[&Layer]| Stack::new(layers.iter().copied()).err().unwrap();
    let top = above(UUID);
    let stranger = above("01234567-89AB-CDEF-0123-456789ABCDE0");
    let high: Vec<&Layer> = std::iter::once(&bottom)
        .chain(std::iter::repeat_n(&top, 255))
        .collect();
    vec![
        (Rule::StackHeight, "256", refused(&high)),
        (Rule::StackHeight, "none", refused(&[])),
        (
            Rule::StackSize,
            "a smaller one",
            refused(&[&bottom, &small]),
        ),
        (
            Rule::StackParent,
            "a stranger",
            refused(&[&bottom, &stranger]),
        ),
        (Rule::StackParent, "none", refused(&[&bottom, &bottom])),
        (
            Rule::StackParent,
            "below the bottom",
            refused(&[&top, &top]),
        ),
    ]
}

#[test]
fn each_rule_refuses_a_blob_that_breaks_only_it() {
    let mut seen = BTreeSet::new();
    for (rule, what, blob) in cases::all() {
        let violation = check(&blob).expect_err(&format!("{rule:?}: {what} was taken"));
        assert_eq!(violation.rule, rule, "{what}: {violation}");
        seen.insert(rule);
    }
    for (rule, what, violation) in stacks() {
        assert_eq!(violation.rule, rule, "{what}: {violation}");
        seen.insert(rule);
    }
    let all = Rule::ALL.iter().copied().collect();
    let unseen: Vec<&Rule> = seen.symmetric_difference(&all).collect();
    assert!(unseen.is_empty(), "{unseen:?} were never seen to refuse");
}

#[test]
fn blobs_at_the_limits_are_accepted() {
    let bottom = layer(&Blob::new());
    let top = above(UUID);
    let high = std::iter::once(&bottom).chain(std::iter::repeat_n(&top, 254));
    assert!(Stack::new(high).is_ok());
    for (name, change) in [
        (
            "the index's sector",
            (|it| it.moffset = 8 + DATA) as fn(&mut Entry),
        ),
        ("the last sector of data", |it| it.moffset = 8 + DATA - 1),
    ] {
        assert!(
            check(&Blob::new().entry(1, change).finish()).is_ok(),
            "{name}"
        );
    }
    let at_the_end = |it: &mut Entry| it.offset = DISK - it.length;
    layer(&Blob::new().entry(2, at_the_end));
    let in_the_last_data = |it: &mut Entry| it.moffset = 8 + DATA - it.length;
    layer(&Blob::new().entry(0, in_the_last_data));
    let null = "00000000-0000-0000-0000-000000000000";
    assert!(Stack::new([&above(null)]).is_ok());

    let mut most = Blob::new().in_trailer(40, &1_000_000_u64.to_le_bytes());
    most.entries.resize(1_000_000, INVALID);
    assert_eq!(layer(&most).mappings().len(), 3);

    for (sizes, block_size) in [
        (vec![65_536, 65_536], 65_536),
        (vec![65_534, 65_536, 65_534], 32_768),
        ([[4000; 14].as_slice(), &[9534, 65_536, 0]].concat(), 4096),
    ] {
        let blob = tar(&cases::stored(&sizes, block_size).finish());
        assert!(check(&blob).is_ok(), "{sizes:?} {:?}", check(&blob));
    }
}

#[test]
fn a_stack_reads_the_topmost_data_of_each_sector() {
    let bottom = Blob::new();
    let mut top = Blob::new().in_both(93, UUID.as_bytes());
    // Cuts the bottom's first mapping in three and hides the beginning of its second.
    top.entries[0] = Entry {
        offset: 20,
        length: 10,
        moffset: 8,
        zeroed: false,
        tag: 0,
    };
    top.entries[1] = Entry {
        offset: 60,
        length: 10,
        moffset: 8,
        zeroed: true,
        tag: 0,
    };
    top.entries[2] = Entry {
        offset: 500,
        length: 20,
        moffset: 18,
        zeroed: false,
        tag: 0,
    };
    let layers = [layer(&bottom), layer(&top)];
    let stack = Stack::new(&layers).unwrap();
    let file = tempfile::tempfile().unwrap();
    stack.write(&file).unwrap();
    let mut disk = vec![0; (DISK * 512) as usize];
    file.read_exact_at(&mut disk, 0).unwrap();

    let mut expected = vec![0; disk.len()];
    for blob in [&bottom, &top] {
        for entry in &blob.entries[..3] {
            let range =
                |first: u64| (first * 512) as usize..((first + entry.length) * 512) as usize;
            let target = &mut expected[range(entry.offset)];
            if entry.zeroed {
                target.fill(0);
            } else {
                target.copy_from_slice(&blob.data[range(entry.moffset - 8)]);
            }
        }
    }
    assert!(disk == expected);
}
