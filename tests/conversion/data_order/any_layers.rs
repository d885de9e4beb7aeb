//! Any layers, any list.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::Workshop;
use super::support::tar::Tar;
use super::support::{have, noise, verifier};

const DIRECTORIES: [&str; 3] = ["a", "usr/lib", "b/c"];
const NAMES: u8 = 5;

/// An entry of a layer: what is done to which of the few paths.
#[derive(Debug, Clone)]
enum Step {
    File { path: u8, size: usize, seed: u64 },
    HardLink { path: u8 },
    Whiteout { path: u8 },
    Opaque { directory: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let paths = 0..NAMES * 3;
    let size = prop_oneof![
        Just(0_usize),
        Just(1),
        Just(4096),
        0..70_000_usize,
        Just(300_000)
    ];
    prop_oneof![
        6 => (paths.clone(), size, any::<u64>())
            .prop_map(|(path, size, seed)| Step::File { path, size, seed }),
        2 => paths.clone().prop_map(|path| Step::HardLink { path }),
        1 => paths.prop_map(|path| Step::Whiteout { path }),
        1 => (0..3_usize).prop_map(|directory| Step::Opaque { directory }),
    ]
}

fn split(path: u8) -> (&'static str, u8) {
    (DIRECTORIES[usize::from(path / NAMES) % 3], path % NAMES)
}

fn name(path: u8) -> String {
    let (directory, name) = split(path);
    format!("{directory}/{name}")
}

/// Data with blocks of zeros in it.
fn data(size: usize, seed: u64) -> Vec<u8> {
    let mut data = noise(seed, size);
    for (number, block) in data.chunks_mut(4096).enumerate() {
        if (seed >> (number % 60)).trailing_zeros() >= 2 {
            block.fill(0);
        }
    }
    data
}

fn layer(steps: &[Step]) -> Vec<u8> {
    let mut tar = Tar::new();
    let mut made = BTreeSet::new();
    let mut last = None;
    for step in steps {
        match step {
            Step::File { path, size, seed } => {
                tar = tar.file(&name(*path), data(*size, *seed));
                made.insert(*path);
                last = Some(*path);
            }
            // To the file that was made last, which is there whatever else was done.
            Step::HardLink { path } => {
                if let Some(target) = last.filter(|target| target != path) {
                    tar = tar.hard(&name(*path), &name(target));
                    made.insert(*path);
                }
            }
            Step::Whiteout { path } => {
                let (directory, name) = split(*path);
                tar = tar.file(&format!("{directory}/.wh.{name}"), b"");
            }
            Step::Opaque { directory } => {
                tar = tar.file(&format!("{}/.wh..wh..opq", DIRECTORIES[*directory]), b"");
            }
        }
    }
    tar.finish()
}

fn list() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        6 => (0..NAMES * 3).prop_map(|path| format!("/{}\n", name(path))),
        1 => (0..3_usize).prop_map(|directory| format!("/{}/\n", DIRECTORIES[directory])),
        1 => Just("/*\n".to_owned()),
        1 => Just("/not/there\n".to_owned()),
    ];
    prop::collection::vec(line, 1..8).prop_map(|lines| lines.concat())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_list_changes_the_blobs_and_not_the_disk(
        layers in prop::collection::vec(prop::collection::vec(step(), 1..20), 1..4),
        list in list(),
        settings in prop::sample::select(vec![["lz4", "4"], ["zstd", "16"], ["lz4", "64"]]),
    ) {
        if !have(&["e2fsck"]) {
            return Ok(());
        }
        let workshop = Workshop::new();
        let tars: Vec<_> = layers.iter().map(|steps| layer(steps)).collect();
        workshop.image("1", &tars);
        let [algorithm, bs] = settings;
        let settings = ["--algorithm", algorithm, "--bs", bs];
        let plain = workshop.convert("1", &settings);
        let list = workshop.list("list", &list);
        let ordered = ["--prefetch-list", &list, "--threads", "1"];
        let ordered = workshop.convert("1", &[&settings[..], &ordered].concat());
        prop_assert_ne!(&plain.digest, &ordered.digest);

        let (raw, expected) = (workshop.path("raw"), workshop.path("expected"));
        let is_same = ordered.disk(&raw) == plain.disk(&expected);
        prop_assert!(is_same, "the list changed the disk");
        if let Err(said) = verifier::e2fsck(&raw) {
            return Err(TestCaseError::fail(said));
        }
        let again = ["--prefetch-list", &list, "--threads", "4"];
        let again = workshop.convert("1", &[&settings[..], &again].concat());
        prop_assert_eq!(&again.digest, &ordered.digest);
    }
}
