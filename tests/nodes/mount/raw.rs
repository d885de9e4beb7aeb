//! `mount --raw`: the disk as a file, which other programs check, compare and mount.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::mount::{Converted, Mount, can_mount};
use crate::support::tar::Tar;
use crate::support::walk::Tree;
use crate::support::{noise, run, verifier};

#[test]
fn the_disk_as_a_file_is_clean_and_the_kernel_mounts_it() {
    if !can_mount() {
        return;
    }
    let base = Tar::new()
        .dir("data/")
        .file("data/large", noise(1, 3_000_000))
        .file("data/gone", "gone")
        .finish();
    let change = Tar::new()
        .file("data/.wh.gone", "")
        .file("new", "new")
        .finish();
    let image = Converted::new(&[base, change]);
    let expected_disk = image.path("raw");
    verifier::disk(&image.blobs, &expected_disk);
    let at = image.path("at");
    let mount = Mount::start(&["--raw", &image.image()], &at);
    let names: Vec<_> = fs::read_dir(&at)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["disk.img"]);
    let disk = at.join("disk.img");

    let (ours, theirs) = (
        fs::metadata(&disk).unwrap(),
        fs::metadata(&expected_disk).unwrap(),
    );
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.blocks() * 512 < 32 << 20, "{} sectors", ours.blocks());
    verifier::e2fsck(&disk).unwrap();
    // Where there is no data `cp` reads nothing: the disk is 64 GiB.
    let copy = image.path("copy");
    run(crate::support::command("cp")
        .args(["--sparse=auto"])
        .arg(&disk)
        .arg(&copy));
    run(crate::support::command("cmp")
        .arg("-n")
        .arg("134217728")
        .arg(&copy)
        .arg(&expected_disk));
    verifier::e2fsck(&copy).unwrap();

    let through = verifier::Mount::new(&disk, &image.path("through"));
    let plain = verifier::Mount::new(&expected_disk, &image.path("plain"));
    let expected = Tree::of(plain.path());
    Tree::of(through.path()).assert_is(&expected, &std::collections::BTreeSet::new(), "raw");
    drop(through);
    mount.stop();
}
