//! Where in the blob data is.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use super::Workshop;
use super::support::overlaybd::{Layer, assert_stack};
use super::support::tar::Tar;
use super::support::{have, noise, run};

/// The first sector on the disk of each file's data.
fn sectors(raw: &Path, files: &[&str]) -> HashMap<String, u64> {
    let mut found = HashMap::new();
    for file in files {
        let request = format!("blocks {file}");
        let mut debugfs = Command::new("debugfs");
        let said = run(debugfs.args(["-R", &request]).arg(raw)).stdout;
        let text = String::from_utf8(said).unwrap();
        let block: u64 = text.split_whitespace().next().unwrap().parse().unwrap();
        found.insert((*file).to_owned(), block * 8);
    }
    found
}

/// Where in the LSMT a sector of the disk is.
fn moffset(layer: &Layer, sector: u64) -> u64 {
    let mut mappings = layer.mappings().iter();
    let mapping = mappings.find(|it| it.offset <= sector && sector < it.end());
    let mapping = mapping.unwrap();
    assert!(!mapping.zeroed);
    mapping.moffset + (sector - mapping.offset)
}

/// Files of a layer in the order of their data in its blob.
fn order(layer: &Layer, raw: &Path, files: &[&str]) -> Vec<String> {
    let mut places: Vec<(u64, String)> = sectors(raw, files)
        .into_iter()
        .map(|(file, sector)| (moffset(layer, sector), file))
        .collect();
    places.sort_unstable();
    places.into_iter().map(|(_, file)| file).collect()
}

fn content(raw: &Path, file: &str) -> Vec<u8> {
    let request = format!("cat {file}");
    let mut debugfs = Command::new("debugfs");
    run(debugfs.args(["-R", &request]).arg(raw)).stdout
}

#[test]
fn listed_files_come_last_in_the_order_of_the_list_and_the_metadata_behind_them() {
    if !have(&["e2fsck", "debugfs"]) {
        return;
    }
    let workshop = Workshop::new();
    let mut tar = Tar::new()
        .dir("usr/")
        .dir("usr/lib/")
        .soft("lib", "usr/lib");
    let names = [
        "/one",
        "/two",
        "/three",
        "/usr/lib/x",
        "/usr/lib/y",
        "/four",
    ];
    for (seed, name) in (1..).zip(names) {
        tar = tar.file(&name[1..], noise(seed, 50_000));
    }
    workshop.image("1", &[tar.finish()]);
    let raw = workshop.path("raw");
    for (list, expected) in [
        (
            "/four\n/one\n",
            [
                "/two",
                "/three",
                "/usr/lib/x",
                "/usr/lib/y",
                "/four",
                "/one",
            ],
        ),
        // What is below a directory comes in the tar's order, and the directory where it is named.
        (
            "/two\n/usr/lib/\n/one\n",
            [
                "/three",
                "/four",
                "/two",
                "/usr/lib/x",
                "/usr/lib/y",
                "/one",
            ],
        ),
        // By the name that it has through the link.
        (
            "/lib/y\n/three\n",
            [
                "/one",
                "/two",
                "/usr/lib/x",
                "/four",
                "/usr/lib/y",
                "/three",
            ],
        ),
    ] {
        let list = workshop.list("list", list);
        let image = workshop.convert("1", &["--prefetch-list", &list]);
        image.disk(&raw);
        let layer = &assert_stack(&image.blobs)[0];
        assert_eq!(order(layer, &raw, &names), expected);
        let last = sectors(&raw, &expected[5..])[expected[5]];
        // The superblock, as an example of metadata.
        assert!(moffset(layer, 2) > moffset(layer, last), "{expected:?}");
    }
}

#[test]
fn more_wanted_data_than_is_kept_in_memory_comes_in_the_order_of_the_list() {
    if !have(&["e2fsck", "debugfs"]) {
        return;
    }
    let workshop = Workshop::new();
    let names: Vec<String> = (0..12).map(|number| format!("/file{number}")).collect();
    let mut tar = Tar::new();
    for (seed, name) in (1..).zip(&names) {
        tar = tar.file(&name[1..], noise(seed, 1_000_000));
    }
    // One is replaced, and what it had is not stored.
    tar = tar.file("file3", b"little");
    workshop.image("1", &[tar.finish()]);
    let mut wanted: Vec<&str> = names.iter().map(String::as_str).skip(1).collect();
    wanted.reverse();
    let list = workshop.list("list", &wanted.join("\n"));
    let image = workshop.convert("1", &["--prefetch-list", &list]);
    let raw = workshop.path("raw");
    image.disk(&raw);
    super::support::verifier::e2fsck(&raw).unwrap();
    let layer = &assert_stack(&image.blobs)[0];
    let expected = [&["/file0"][..], &wanted].concat();
    let files: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(order(layer, &raw, &files), expected);
    for (seed, name) in (1..).zip(&names) {
        let data = match seed {
            4 => b"little".to_vec(),
            _ => noise(seed, 1_000_000),
        };
        assert!(content(&raw, name) == data, "{name}");
    }
    let blob = image.blobs[0].metadata().unwrap().len();
    assert!(blob < 11_500_000, "{blob} bytes: replaced data is stored");
}

#[test]
fn without_a_list_what_every_start_reads_comes_last() {
    if !have(&["e2fsck", "debugfs"]) {
        return;
    }
    let workshop = Workshop::new();
    let names = [
        "/etc/ld.so.cache",
        "/etc/motd",
        "/usr/bin/env",
        "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
        "/usr/lib/x86_64-linux-gnu/libc.so.6",
        "/usr/lib/x86_64-linux-gnu/libcurl.so.4",
        "/usr/lib/x86_64-linux-gnu/libssl.so.3",
        "/usr/share/doc/curl",
    ];
    let mut tar = Tar::new();
    for (seed, name) in (1..).zip(names) {
        tar = tar.file(&name[1..], noise(seed, 20_000));
    }
    workshop.image("1", &[tar.finish()]);
    let [cache, motd, env, loader, libc, curl, ssl, doc] = names;
    let raw = workshop.path("raw");
    let list = workshop.list("list", "/etc/motd\n/lib/x86_64-linux-gnu/libssl.so.3\n");
    for (more, expected) in [
        (&[][..], [motd, curl, doc, env, ssl, libc, loader, cache]),
        (
            &["--prefetch-list", &list],
            [curl, doc, env, libc, loader, cache, motd, ssl],
        ),
    ] {
        let image = workshop.convert("1", more);
        image.disk(&raw);
        super::support::verifier::e2fsck(&raw).unwrap();
        let layer = &assert_stack(&image.blobs)[0];
        assert_eq!(order(layer, &raw, &names), expected);
        for (seed, name) in (1..).zip(names) {
            assert!(content(&raw, name) == noise(seed, 20_000), "{name}");
        }
    }
}
