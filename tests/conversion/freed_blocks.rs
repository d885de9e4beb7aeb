//! Layers that free blocks of the layers below them: their mappings to zeros hide what was
//! there, and overlaybd's reader is particular about those.

use crate::support;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use support::image::Image;
use support::layout::Layout;
use support::overlaybd::{self, Layer, Stack};
use support::proxy::{Proxy, program};
use support::pulled::Pulled;
use support::tar::Tar;
use support::walk::{Kind, Tree};
use support::{noise, run, unpack, verifier};

fn can_test() -> bool {
    support::is_root("unpacking with owners") && support::have(&["skopeo", "umoci", "e2fsck"])
}

/// Adds a directory of so many files.
fn files(count: u64, mut tar: Tar) -> Tar {
    tar = tar.dir("d/");
    for number in 0..count {
        tar = tar.file(&format!("d/f{number}"), noise(number + 1, 3000));
    }
    tar
}

fn case(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/cases/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut tar = Vec::new();
    let file = File::open(path).unwrap();
    flate2::read::GzDecoder::new(file)
        .read_to_end(&mut tar)
        .unwrap();
    tar
}

/// Images whose upper layers free blocks of those below, by tag.
fn shapes() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let below = |name: &str| {
        Tar::new()
            .dir("k/")
            .file(&format!("k/{name}"), noise(77, 200_000))
            .finish()
    };
    let many = files(300, Tar::new().file("kept", "kept")).finish();
    let mut most = Tar::new().dir("d/");
    for number in 0..300 {
        most = most.file(&format!("d/.wh.f{number}"), "");
    }
    let zeros = vec![0; 200_000];
    vec![
        (
            "a-directory-goes",
            vec![many.clone(), Tar::new().file(".wh.d", "").finish()],
        ),
        (
            "a-directory-is-opaque",
            vec![
                many,
                Tar::new()
                    .dir("d/")
                    .file("d/.wh..wh..opq", "")
                    .file("d/new", "new")
                    .finish(),
            ],
        ),
        (
            "most-files-go",
            vec![files(400, Tar::new()).finish(), most.finish()],
        ),
        (
            "a-file-goes-and-one-of-zeros-comes",
            vec![
                below("x"),
                Tar::new()
                    .dir("k/")
                    .file("k/.wh.x", "")
                    .file("k/zeros", &zeros)
                    .finish(),
            ],
        ),
        (
            "a-file-becomes-zeros",
            vec![
                below("x"),
                Tar::new().dir("k/").file("k/x", &zeros).finish(),
            ],
        ),
        (
            "a-case",
            (0..3)
                .map(|n| case(&format!("frees-blocks-below.{n}.tar.gz")))
                .collect(),
        ),
    ]
}

/// Mappings to zeros in all of these layers.
fn zeroed(layers: &[Layer]) -> usize {
    layers.iter().map(Layer::zeroed).sum()
}

/// The disk of these blobs, written by the checker and by the program, which must agree.
#[track_caller]
fn disk(blobs: &[PathBuf], scratch: &Path) -> PathBuf {
    let (theirs, ours) = (scratch.join("theirs"), scratch.join("ours"));
    verifier::disk(blobs, &theirs);
    run(program()
        .args(["export", "--force", "--output"])
        .arg(&ours)
        .args(blobs));
    let is_same = fs::read(&theirs).unwrap() == fs::read(&ours).unwrap();
    assert!(is_same, "{blobs:?}: the program exports another disk");
    theirs
}

/// Directories that umoci gives the time at which it took something out.
fn directories(tree: &Tree) -> BTreeSet<String> {
    let all = tree.0.iter();
    all.filter(|(_, node)| node.kind == Kind::Directory)
        .map(|(path, _)| path.clone())
        .collect()
}

#[test]
fn layers_that_free_blocks_below_keep_overlaybds_rules_with_all_settings() {
    if !can_test() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("source"));
    let shapes = shapes();
    for (tag, tars) in &shapes {
        layout.add(tag, &Image::gzip(tars).seal());
    }
    let expected: Vec<Tree> = shapes
        .iter()
        .map(|(tag, _)| unpack::umoci(layout.path(), tag))
        .collect();
    let mut disks: Vec<Vec<u8>> = Vec::new();
    for (algorithm, bs) in [
        ("lz4", "4"),
        ("lz4", "16"),
        ("lz4", "64"),
        ("zstd", "4"),
        ("zstd", "16"),
        ("zstd", "64"),
    ] {
        let data = scratch.path().join(format!("{algorithm}-{bs}"));
        let settings = ["--algorithm", algorithm, "--bs", bs, "--vsize", "64MiB"];
        let upstream = format!("oci:{}", layout.path().display());
        let proxy = Proxy::start(&upstream, &data.join("data"), &settings);
        for (number, (tag, tars)) in shapes.iter().enumerate() {
            let what = format!("{tag} with {algorithm} in blocks of {bs} KiB");
            let out = data.join("out");
            let pulled = Pulled::into_layout(&proxy, "demo", &format!("{tag}_obd"), &out);
            assert_eq!(pulled.layers.len(), tars.len());
            let layers = overlaybd::assert_stack(&pulled.layers);
            assert!(zeroed(&layers[1..]) > 0, "{what}: no zeros are mapped");
            let disk = fs::read(disk(&pulled.layers, &data)).unwrap();
            if let Some(first) = disks.get(number) {
                // Settings decide how a disk is stored, not what is on it.
                assert!(disk == *first, "{what}: another disk");
                continue;
            }
            if let Some(found) = pulled.tree() {
                let any_mtime = directories(&expected[number]);
                found.assert_is(&expected[number], &any_mtime, &what);
            }
            disks.push(disk);
        }
        proxy.stop();
    }
}

/// What a layer does in one of the directories.
#[derive(Debug, Clone)]
enum Change {
    Remove,
    Replace(Vec<(u8, Content)>),
    Add(Vec<(u8, Option<Content>)>),
}

/// A file's content in pieces of 5,000 bytes: noise of that seed, or zeros for 0.
type Content = Vec<u64>;

fn content() -> impl Strategy<Value = Content> {
    prop::collection::vec(prop_oneof![Just(0), 1..1000_u64], 0..12)
}

fn change() -> impl Strategy<Value = Change> {
    let name = 0..5_u8;
    let replaced = prop::collection::vec((name.clone(), content()), 0..3);
    let added = prop::collection::vec((name, prop::option::weighted(0.6, content())), 1..6);
    prop_oneof![
        1 => Just(Change::Remove),
        1 => replaced.prop_map(Change::Replace),
        4 => added.prop_map(Change::Add),
    ]
}

fn bytes(content: &Content) -> Vec<u8> {
    let piece = |seed: &u64| match seed {
        0 => vec![0; 5000],
        seed => noise(*seed, 5000),
    };
    content.iter().flat_map(piece).collect()
}

/// A layer with a change a directory.
fn layer(changes: &[Option<Change>]) -> Vec<u8> {
    let mut tar = Tar::new().file("kept", "kept");
    for (number, change) in changes.iter().enumerate() {
        let directory = format!("d{number}/");
        let mut named = BTreeSet::new();
        match change {
            None => {}
            Some(Change::Remove) => tar = tar.file(&format!(".wh.d{number}"), ""),
            Some(Change::Replace(files)) => {
                tar = tar.dir(&directory);
                tar = tar.file(&format!("{directory}.wh..wh..opq"), "");
                for (name, content) in files.iter().filter(|(name, _)| named.insert(*name)) {
                    tar = tar.file(&format!("{directory}f{name}"), bytes(content));
                }
            }
            Some(Change::Add(files)) => {
                tar = tar.dir(&directory);
                for (name, content) in files.iter().filter(|(name, _)| named.insert(*name)) {
                    tar = match content {
                        Some(content) => tar.file(&format!("{directory}f{name}"), bytes(content)),
                        None => tar.file(&format!("{directory}.wh.f{name}"), ""),
                    };
                }
            }
        }
    }
    tar.finish()
}

/// `OVERLAYBD_PROXY_TEST_STACKS=2000 cargo test --test conversion freed_blocks::random` is the long run.
#[test]
fn random_stacks_keep_overlaybds_rules_and_equal_their_sources() {
    if !can_test() {
        return;
    }
    let zeros = AtomicUsize::new(0);
    let layers = prop::collection::vec(
        prop::collection::vec(prop::option::weighted(0.7, change()), 3),
        2..5,
    );
    let settings = (
        prop::sample::select(vec!["lz4", "zstd"]),
        prop::sample::select(vec!["4", "8", "32", "64"]),
    );
    let cases = std::env::var("OVERLAYBD_PROXY_TEST_STACKS");
    let mut runner = TestRunner::new(Config {
        cases: cases.map_or(16, |text| text.parse().unwrap()),
        max_shrink_iters: 40,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&(layers, settings), |(stack, (algorithm, bs))| {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::create(&scratch.path().join("source"));
        let tars: Vec<_> = stack.iter().map(|changes| layer(changes)).collect();
        layout.add("1", &Image::gzip(&tars).seal());
        let out = Layout::open(&scratch.path().join("out"));
        let at = |layout: &Layout| format!("oci:{}:1", layout.path().display());
        run(program()
            .args(["convert", "--quiet", "--vsize", "64MiB"])
            .args(["--algorithm", algorithm, "--bs", bs])
            .args([at(&layout), at(&out)]));
        let manifest = out.manifest("1");
        let blobs: Vec<PathBuf> = manifest["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|layer| out.blob_path(layer["digest"].as_str().unwrap()))
            .collect();
        let layers = overlaybd::assert_stack(&blobs);
        zeros.fetch_add(zeroed(&layers[1..]), Ordering::Relaxed);
        Stack::new(&layers).unwrap();
        disk(&blobs, scratch.path());
        let expected = unpack::umoci(layout.path(), "1");
        let found = verifier::tree(&blobs).unwrap();
        found.assert_is(&expected, &directories(&expected), "a random stack");
        Ok(())
    });
    outcome.unwrap();
    let zeros = zeros.into_inner();
    assert!(zeros > 0, "no zeros were mapped: nothing was tested");
}

#[test]
fn a_layer_that_overlaybd_refuses_is_converted_again() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("source"));
    let (_, tars) = shapes().pop().unwrap();
    layout.add("1", &Image::gzip(&tars).seal());
    let data = scratch.path().join("data");
    let convert = |name: &str| {
        let out = Layout::open(&scratch.path().join(name));
        let output = run(program()
            .args(["convert", "--json", "--data-dir"])
            .arg(&data)
            .arg(format!("oci:{}:1", layout.path().display()))
            .arg(format!("oci:{}:1", out.path().display())));
        let output = String::from_utf8(output.stdout).unwrap();
        let done: serde_json::Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
        let count = |what: &str| done[what].as_u64().unwrap();
        (count("converted"), count("found"), out.manifest("1"))
    };
    let (converted, _, first) = convert("first");
    assert_eq!(converted, 3);

    // The middle one becomes what version 1 made of it, and whatever named it names this.
    let digest = first["layers"][1]["digest"].as_str().unwrap();
    let blob = |digest: &str| {
        let hex = digest.strip_prefix("sha256:").unwrap();
        data.join("blobs/sha256").join(&hex[..2]).join(hex)
    };
    let old = overlaybd::build::version_1(&fs::read(blob(digest)).unwrap());
    let old_digest = support::sha256(&old);
    fs::create_dir_all(blob(&old_digest).parent().unwrap()).unwrap();
    fs::write(blob(&old_digest), &old).unwrap();
    let index = rusqlite::Connection::open(data.join("index.sqlite")).unwrap();
    let size = i64::try_from(old.len()).unwrap();
    let renamed = index.execute(
        "UPDATE overlaybd_proxy_chains SET data_digest = ?2, data_size = ?3 WHERE data_digest = ?1",
        rusqlite::params![digest, old_digest, size],
    );
    assert_eq!(renamed.unwrap(), 1);
    index
        .execute("DELETE FROM overlaybd_proxy_manifests", [])
        .unwrap();
    drop(index);

    let (converted, found, second) = convert("second");
    assert_eq!((converted, found), (1, 2));
    assert_eq!(second, first);
}
