//! More hard links than ext4 counts: what no longer fits is another file with the same content.

use crate::support;
use std::path::Path;
use std::process::Command;

use support::image::{Flavour, Image, Packing};
use support::layout::Layout;
use support::proxy::{Proxy, program};
use support::pulled::Pulled;
use support::tar::{self, Entry, Tar};
use support::walk::{Kind, Tree};
use support::{noise, sha256, verifier};

/// Hard links that ext4 counts of one file.
const MAX_LINKS: u64 = 65_000;

fn can_test() -> bool {
    support::is_root("mounts") && support::have(&["skopeo", "e2fsck"])
}

/// Converts these layers, and has `check` compare the image with its source.
#[track_caller]
fn convert<T>(tars: &[Vec<u8>], inspect: impl FnOnce(&Pulled) -> T) -> T {
    let scratch = tempfile::tempdir().unwrap();
    let source = Layout::create(&scratch.path().join("source"));
    let layers: Vec<_> = tars.iter().map(|tar| (&tar[..], Packing::Zstd)).collect();
    source.add("1", &Image::new(Flavour::Oci, &layers).seal());
    let upstream = format!("oci:{}", source.path().display());
    let proxy = Proxy::start(&upstream, &scratch.path().join("data"), &[]);
    let out = scratch.path().join("out");
    let pulled = Pulled::into_layout(&proxy, "demo", "1_obd", &out);
    let image = |path: &Path, tag: &str| format!("oci:{}:{tag}", path.display());
    let mut check: Command = program();
    check.arg("check").arg(image(&out, "1_obd"));
    support::run(check.arg("--source").arg(image(source.path(), "1")));
    inspect(&pulled)
}

/// The kernel's view of these layers.
#[track_caller]
fn converted(tars: &[Vec<u8>]) -> Tree {
    convert(tars, Pulled::tree).unwrap()
}

/// How many names each file has that is called `link…`, and that all have this content.
#[track_caller]
fn groups(tree: &Tree, size: u64, digest: &str) -> Vec<u64> {
    let mut groups = std::collections::BTreeMap::<_, u64>::new();
    for (path, node) in &tree.0 {
        if !path.starts_with("/link") || node.kind == Kind::Directory {
            continue;
        }
        let Kind::File { size: its, sha256 } = &node.kind else {
            panic!("{path}: {node:?}");
        };
        assert_eq!((*its, &sha256[..]), (size, digest), "{path}");
        let file = node.links.as_ref().map_or(path, |(first, _)| first);
        *groups.entry(file.clone()).or_default() += 1;
        let count = node.links.as_ref().map_or(1, |(_, count)| *count);
        assert!(count <= MAX_LINKS, "{path}: {count}");
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_unstable_by(|a, b| b.cmp(a));
    groups
}

fn digest(data: &[u8]) -> String {
    sha256(data)["sha256:".len()..].to_owned()
}

#[test]
fn over_65_000_links_to_a_file_of_the_same_layer_make_two_files() {
    if !can_test() {
        return;
    }
    // Data, a block of zeros, data, and half a block.
    let mut data = noise(1, 20_000);
    data[4096..8192].fill(0);
    let mut tar = Tar::new().file("link", &data);
    for number in 1..MAX_LINKS + 10 {
        tar = tar.hard(&format!("links/{number}"), "link");
    }
    let tree = converted(&[tar.finish()]);
    assert_eq!(groups(&tree, 20_000, &digest(&data)), [MAX_LINKS, 10]);
}

#[test]
fn over_65_000_links_across_layers_make_two_files_and_holes_stay() {
    if !can_test() {
        return;
    }
    let (first, last) = (noise(2, 4096), noise(3, 4096));
    let stored = [&first[..], &last].concat();
    let mut whole = vec![0; 64 << 10];
    whole[4096..8192].copy_from_slice(&first);
    whole[48 << 10..(48 << 10) + 4096].copy_from_slice(&last);
    let sparse = Entry::new(tar::FILE, "link")
        .data(&stored)
        .pax("GNU.sparse.major", "0")
        .pax("GNU.sparse.minor", "1")
        .pax("GNU.sparse.name", "link")
        .pax("GNU.sparse.size", (64 << 10).to_string())
        .pax("GNU.sparse.numblocks", "2")
        .pax("GNU.sparse.map", format!("4096,4096,{},4096", 48 << 10));
    let mut lower = Tar::new().entry(sparse);
    for number in 1..MAX_LINKS - 5 {
        lower = lower.hard(&format!("links/{number}"), "link");
    }
    let mut upper = Tar::new();
    for number in 0..20 {
        upper = upper.hard(&format!("links/more-{number}"), "link");
        // What else is removed has nothing to do with it.
        upper = upper.file(&format!("file-{}", number % 3), "");
    }
    let mut top = Tar::new();
    for number in 0..4 {
        top = top.hard(&format!("links/most-{number}"), "links/more-19");
    }
    let tree = converted(&[lower.finish(), upper.finish(), top.finish()]);
    assert_eq!(groups(&tree, 64 << 10, &digest(&whole)), [MAX_LINKS, 19]);
}

#[test]
fn over_65_000_links_to_a_device_or_a_symbolic_link_make_two() {
    if !can_test() {
        return;
    }
    let mut device = Entry::new(tar::CHAR, "null");
    device.device = (1, 3);
    let mut tar = Tar::new().entry(device).soft("soft", "null");
    for number in 1..=MAX_LINKS {
        tar = tar.hard(&format!("nulls/{number}"), "null");
        tar = tar.hard(&format!("softs/{number}"), "soft");
    }
    let tree = converted(&[tar.finish()]);
    let last = |name: &str| tree.node(&format!("/{name}/{MAX_LINKS}"));
    assert_eq!(last("nulls").kind, tree.node("/null").kind);
    assert_eq!(last("softs").kind, tree.node("/soft").kind);
    for name in ["nulls", "softs"] {
        assert_eq!(last(name).links, None);
    }
}

#[test]
fn over_65_000_directories_in_one_are_created_and_removed() {
    if !can_test() {
        return;
    }
    let name = |number: u64| format!("many/{number}");
    let mut lower = Tar::new().dir("many/");
    for number in 0..MAX_LINKS + 10 {
        lower = lower.dir(&name(number));
    }
    let mut upper = Tar::new();
    // Across the limit and back, and for good.
    for number in 0..3 {
        for gone in 0..15 {
            upper = upper.file(&name(gone), "").dir(&name(gone));
        }
        upper = upper.file(&format!("many/.wh.{}", 100 + number), "");
    }
    for number in 200..220 {
        upper = upper.file(&format!("many/.wh.{number}"), "");
    }
    convert(&[lower.finish(), upper.finish()], |pulled| {
        let scratch = tempfile::tempdir().unwrap();
        let raw = scratch.path().join("raw");
        for count in 1..=2 {
            verifier::disk(&pulled.layers[..count], &raw);
            verifier::e2fsck(&raw).unwrap();
        }
        let mount = verifier::Mount::new(&raw, &scratch.path().join("mount"));
        let names = std::fs::read_dir(mount.path().join("many")).unwrap();
        assert_eq!(names.count() as u64, MAX_LINKS + 10 - 23);
    });
}
