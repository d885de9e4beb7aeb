//! Tests of what the other tests verify with: each comparison fails where it must.

use crate::support;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use filetime::FileTime;
use support::image::{Flavour, Image, Packing};
use support::layout::Layout;
use support::tar::{self, Entry, Tar};
use support::walk::Tree;
use support::{registry::Registry, run, skopeo, unpack, verifier};

/// Without opening: a FIFO would wait for its other end.
fn set_mtime(path: &Path, seconds: i64, nanos: u32) {
    let time = FileTime::from_unix_time(seconds, nanos);
    filetime::set_symlink_file_times(path, time, time).unwrap();
}

/// A tree with one of each kind.
fn plant(root: &Path) {
    fs::create_dir_all(root.join("dir")).unwrap();
    fs::write(root.join("file"), "content").unwrap();
    fs::hard_link(root.join("file"), root.join("dir/linked")).unwrap();
    fs::write(root.join("single"), "content").unwrap();
    std::os::unix::fs::symlink("file", root.join("soft")).unwrap();
    run(support::command("mknod")
        .arg(root.join("null"))
        .args(["c", "1", "3"]));
    run(support::command("mkfifo").arg(root.join("fifo")));
    xattr::set(root.join("file"), "user.name", b"value").unwrap();
    for name in ["file", "single", "null", "fifo", "dir", "soft", "."] {
        set_mtime(&root.join(name), 1_000, 7);
    }
}

/// Changes a planted tree.
type Change = fn(&Path);

const CHANGES: [(&str, &str, Change); 13] = [
    ("content", "/single", |root| {
        fs::write(root.join("single"), "contenT").unwrap();
        set_mtime(&root.join("single"), 1_000, 7);
    }),
    ("size", "/single", |root| {
        let file = fs::File::options()
            .write(true)
            .open(root.join("single"))
            .unwrap();
        file.set_len(3).unwrap();
        set_mtime(&root.join("single"), 1_000, 7);
    }),
    ("mode", "/file", |root| {
        run(support::command("chmod").arg("4644").arg(root.join("file")));
    }),
    ("uid", "/single", |root| {
        run(support::command("chown").arg("1").arg(root.join("single")));
    }),
    ("gid", "/soft", |root| {
        run(support::command("chown")
            .args(["-h", "0:1"])
            .arg(root.join("soft")));
    }),
    ("a nanosecond", "/single", |root| {
        set_mtime(&root.join("single"), 1_000, 8);
    }),
    ("a directory's time", "/dir", |root| {
        set_mtime(&root.join("dir"), 1_001, 7);
    }),
    ("xattr value", "/file", |root| {
        xattr::set(root.join("file"), "user.name", b"other").unwrap();
    }),
    ("xattr", "/single", |root| {
        xattr::set(root.join("single"), "user.more", b"").unwrap();
    }),
    ("link target", "/soft", |root| {
        fs::remove_file(root.join("soft")).unwrap();
        std::os::unix::fs::symlink("./file", root.join("soft")).unwrap();
        set_mtime(&root.join("soft"), 1_000, 7);
    }),
    ("hard link group", "/dir/linked", |root| {
        fs::remove_file(root.join("dir/linked")).unwrap();
        fs::copy(root.join("file"), root.join("dir/linked")).unwrap();
    }),
    ("device", "/null", |root| {
        fs::remove_file(root.join("null")).unwrap();
        run(support::command("mknod")
            .arg(root.join("null"))
            .args(["c", "1", "4"]));
        set_mtime(&root.join("null"), 1_000, 7);
    }),
    ("one more name", "/more", |root| {
        fs::write(root.join("more"), "").unwrap();
    }),
];

#[test]
fn the_walk_detects_every_kind_of_difference() {
    if !support::is_root("making devices and foreign owners") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let good = scratch.path().join("good");
    plant(&good);
    let expected = Tree::of(&good);
    for (number, (what, path, change)) in CHANGES.iter().enumerate() {
        let other = scratch.path().join(number.to_string());
        plant(&other);
        let same = Tree::of(&other).differences(&expected, &BTreeSet::new());
        assert!(same.is_empty(), "planted alike, {same:?}");
        change(&other);
        let lines = Tree::of(&other).differences(&expected, &BTreeSet::new());
        assert!(
            lines
                .iter()
                .any(|line| line.starts_with(&format!("{path}:"))),
            "{what} was not seen at {path}: {lines:?}"
        );
        fs::remove_dir_all(&other).unwrap();
    }
    fs::remove_file(good.join("fifo")).unwrap();
    let lines = Tree::of(&good).differences(&expected, &BTreeSet::from(["/".to_owned()]));
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn e2fsck_detects_a_damaged_disk() {
    if !support::have(&["mkfs.ext4", "e2fsck", "debugfs"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let raw = scratch.path().join("raw");
    let mut mkfs = support::command("mkfs.ext4");
    fs::File::create(&raw).unwrap().set_len(16 << 20).unwrap();
    run(mkfs.args(["-q", "-O", "^has_journal"]).arg(&raw));
    verifier::e2fsck(&raw).unwrap();
    run(support::command("debugfs")
        .args(["-w", "-R", "clri lost+found"])
        .arg(&raw));
    verifier::e2fsck(&raw).unwrap_err();
}

/// Layers on which both foreign extractors must agree.
fn layers() -> Vec<Vec<u8>> {
    let bottom = Tar::new()
        .entry(Entry::new(tar::DIRECTORY, "etc/").mode(0o750).owner(3, 4))
        .file("etc/gone", "x")
        .file("etc/kept", "kept")
        .entry(
            Entry::new(tar::FILE, "etc/suid")
                .mode(0o4755)
                .owner(70_000, 3_000_000_000)
                .data(b"s"),
        )
        .entry(Entry::new(tar::FILE, "etc/nano").pax("mtime", "1600000000.123456789"))
        .dir("opaque/")
        .file("opaque/old", "old")
        .soft("lib", "usr/lib")
        .dir("usr/")
        .dir("usr/lib/")
        .entry(Entry::new(tar::CHAR, "null").device(1, 3))
        .entry(Entry::new(tar::FIFO, "fifo"))
        .entry(
            Entry::new(tar::FILE, "attrs")
                .xattr("user.a", "b")
                .data(b"a"),
        )
        .finish();
    let top = Tar::new()
        .file("etc/.wh.gone", "")
        .dir("opaque/")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "new")
        .file("lib/through", "went through the link")
        .hard("etc/second", "etc/kept")
        .file("implicit/parent/file", "f")
        .finish();
    vec![bottom, top]
}

#[test]
fn umoci_and_gnu_tar_agree_on_layers_that_both_can_read() {
    if !support::is_root("unpacking with owners") || !support::have(&["umoci", "tar"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    let layers = layers();
    layout.add("demo", &Image::gzip(&layers).seal());
    let umoci = unpack::umoci(layout.path(), "demo");
    let gnu = unpack::gnu_tar_of(&layers);
    let implicit = ["/", "/implicit", "/implicit/parent"].map(str::to_owned);
    umoci.assert_is(&gnu, &BTreeSet::from(implicit), "umoci beside GNU tar");
    assert_eq!(gnu.node("/etc/suid").gid, 3_000_000_000);
    assert_eq!(gnu.node("/etc/nano").mtime.1, 123_456_789);
    assert_eq!(gnu.node("/etc").mtime, (tar::TIME, 0));
    assert!(gnu.0.contains_key("/usr/lib/through") && !gnu.0.contains_key("/opaque/old"));
}

#[test]
fn images_of_the_test_builder_are_accepted_by_a_registry_and_skopeo() {
    let Some(registry) = Registry::start() else {
        return;
    };
    if !support::have(&["skopeo"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let layers = layers();
    for (number, packing) in [
        Packing::Plain,
        Packing::Gzip,
        Packing::GzipMembers,
        Packing::Zstd,
    ]
    .into_iter()
    .enumerate()
    {
        let tars: Vec<_> = layers.iter().map(|tar| (&tar[..], packing)).collect();
        let image = Image::new(Flavour::Oci, &tars).seal();
        let layout = Layout::create(&scratch.path().join(format!("out{number}")));
        layout.add("demo", &image);
        let name = format!("docker://{}/demo:{number}", registry.address());
        skopeo::copied(&skopeo::layout(layout.path(), "demo"), &name, &[]);
        let back = scratch.path().join(format!("back{number}"));
        skopeo::copied(&name, &skopeo::layout(&back, "demo"), &[]);
        let manifest = Layout::open(&back).manifest("demo");
        let digest = manifest["layers"][1]["digest"].as_str().unwrap();
        assert_eq!(Layout::open(&back).blob(digest), image.blobs[2].bytes);
    }
    let docker = Image::new(Flavour::Docker, &[(&layers[0], Packing::Gzip)]).seal();
    registry.push("docker", "1", &docker);
    let back = format!("dir:{}", scratch.path().join("docker").display());
    skopeo::copied(
        &format!("docker://{}/docker:1", registry.address()),
        &back,
        &[],
    );
    assert!(registry.count("GET", "/v2/docker/manifests/1") >= 1);
    assert_eq!(registry.count("GET", "/v2/nothing/"), 0);
}
