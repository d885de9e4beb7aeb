//! Everything that a layer can contain, however it was written: as GNU tar and bsdtar write a
//! directory, as Go's archive/tar writes headers, and as nobody should. The directory itself,
//! umoci and a written list say what must come out.

use crate::support;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use support::everything::{Extent, plant, sparse};
use support::image::{Flavour, Image, Packing};
use support::layout::Layout;
use support::proxy::Proxy;
use support::pulled::Pulled;
use support::tar::{self, Entry, TIME, Tar};
use support::unpack;
use support::walk::{Kind, Tree};
use support::{command, run};

fn can_test() -> bool {
    support::is_root("devices, owners and mounts")
        && support::have(&[
            "skopeo", "umoci", "e2fsck", "tar", "bsdtar", "mknod", "setfacl",
        ])
}

/// Converts these tars and gives the tree that the kernel mounts; e2fsck has seen each stack.
fn converted(tars: &[Vec<u8>], scratch: &Path) -> Tree {
    let source = Layout::create(&scratch.join("source"));
    let layers: Vec<_> = tars.iter().map(|tar| (&tar[..], Packing::Zstd)).collect();
    source.add("1", &Image::new(Flavour::Oci, &layers).seal());
    let upstream = format!("oci:{}", source.path().display());
    let proxy = Proxy::start(&upstream, &scratch.join("data"), &[]);
    let out = scratch.join("out");
    let pulled = Pulled::into_layout(&proxy, "demo", "1_obd", &out);
    let tree = pulled.tree().unwrap();
    for directory in ["source", "data", "out"] {
        fs::remove_dir_all(scratch.join(directory)).unwrap();
    }
    tree
}

fn umoci(tars: &[Vec<u8>]) -> Tree {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    layout.add("1", &Image::gzip(tars).seal());
    unpack::umoci(layout.path(), "1")
}

/// What containerd makes of a tree that was packed whole; `cases` has it say so itself.
fn as_containerd_has_it(mut tree: Tree, writer: &str) -> Tree {
    for (path, node) in &mut tree.0 {
        node.xattrs.retain(|name, _| !name.starts_with("trusted."));
        // bsdtar writes access lists as text only, and the group's own permissions beside it.
        if writer == "bsdtar" {
            node.xattrs.retain(|name, _| !name.starts_with("system."));
            if path == "/file-4096" {
                node.mode = 0o644;
            }
        }
        if !(0..i64::MAX / 1_000_000_000).contains(&node.mtime.0) {
            node.mtime = (0, 0);
        }
        if path == "/" {
            (node.mode, node.mtime) = (0o755, (0, 0));
        }
    }
    tree
}

#[test]
fn a_directory_packed_by_any_tool_is_converted_unchanged() {
    if !can_test() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let full = scratch.path().join("full");
    plant(&full, Extent::Full);
    let plain = scratch.path().join("plain");
    plant(&plain, Extent::Plain);
    let rich = ["--xattrs", "--xattrs-include=*", "--acls"];
    let writers: [(&str, &[&str], Extent); 8] = [
        ("tar", &["--format=posix"], Extent::Full),
        (
            "tar",
            &["--format=posix", "--sparse", "--sparse-version=0.0"],
            Extent::Full,
        ),
        (
            "tar",
            &["--format=posix", "--sparse", "--sparse-version=0.1"],
            Extent::Full,
        ),
        (
            "tar",
            &["--format=posix", "--sparse", "--sparse-version=1.0"],
            Extent::Full,
        ),
        ("tar", &["--format=gnu"], Extent::Plain),
        ("tar", &["--format=gnu", "--sparse"], Extent::Plain),
        (
            "bsdtar",
            &["--format=pax", "--xattrs", "--acls", "--read-sparse"],
            Extent::Full,
        ),
        ("bsdtar", &["--format=gnutar"], Extent::Plain),
    ];
    for (writer, options, extent) in writers {
        let root = if extent == Extent::Full {
            &full
        } else {
            &plain
        };
        let file = scratch.path().join("layer.tar");
        let mut tar = command(writer);
        tar.args(["--create", "--numeric-owner"]).args(options);
        if writer == "tar" && extent == Extent::Full {
            tar.args(rich);
        }
        run(tar.arg("--file").arg(&file).arg("-C").arg(root).arg("."));
        let found = converted(&[fs::read(&file).unwrap()], scratch.path());
        let odd_times = match (writer, extent) {
            // libarchive cuts times to what 11 octal digits can say.
            ("bsdtar", Extent::Plain) => &["/file-4096"][..],
            _ => &[],
        };
        let odd_times = odd_times.iter().map(|&path| path.to_owned()).collect();
        let expected = as_containerd_has_it(Tree::of(root), writer);
        found.assert_is(&expected, &odd_times, &format!("{writer} {options:?}"));
    }
}

#[test]
fn a_file_over_4_gib_is_converted_unchanged() {
    if !can_test() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    fs::create_dir(&root).unwrap();
    let large = 9 << 30;
    sparse(&root.join("large"), large, [0, 5 << 30, large - 4096]);
    let file = scratch.path().join("layer.tar");
    run(command("tar")
        .args([
            "--create",
            "--format=posix",
            "--sparse",
            "--numeric-owner",
            "--file",
        ])
        .arg(&file)
        .arg("-C")
        .arg(&root)
        .arg("."));
    let found = converted(&[fs::read(&file).unwrap()], scratch.path());
    let expected = as_containerd_has_it(Tree::of(&root), "tar");
    found.assert_is(&expected, &BTreeSet::new(), "9 GiB with holes");
}

/// A header with a number in GNU's base-256 form.
fn with_base256(mut entry: Entry<'_>, fields: &[(std::ops::Range<usize>, i64)]) -> Vec<u8> {
    let data = entry.data;
    entry.size = Some(data.len() as u64);
    let mut header = tar::header(&entry);
    for (field, number) in fields {
        tar::base256(&mut header[field.clone()], *number);
    }
    tar::checksum(&mut header);
    let mut bytes = header.to_vec();
    bytes.extend(data);
    bytes
}

#[test]
fn headers_of_every_tar_format_are_read() {
    if !can_test() {
        return;
    }
    let long = "long/".repeat(30) + "name";
    let target = "target/".repeat(30);
    let mut long_name = Entry::new(b'L', "././@LongLink");
    let terminated = format!("{long}\0");
    long_name.data = terminated.as_bytes();
    let mut long_link = Entry::new(b'K', "././@LongLink");
    let terminated_link = format!("{target}\0");
    long_link.data = terminated_link.as_bytes();

    let mut gnu = Tar::new();
    gnu.raw(&long_name);
    gnu.raw(&Entry::new(tar::FILE, "long/").data(b"gnu long name"));
    gnu.raw(&long_link);
    gnu.raw(&Entry::new(tar::SYMLINK, "gnu-long-link").link("target"));
    let gnu = gnu
        .bytes(&with_base256(
            Entry::new(tar::FILE, "base256").data(b"base256"),
            &[
                (108..116, 4_000_000_000),
                (116..124, 3_000_000_000),
                (124..136, 7),
                (136..148, -86_400),
            ],
        ))
        .finish();

    let pax = Tar::new()
        // A global header, as git archive writes it, says nothing of an entry.
        .bytes(&{
            let comment = tar::pax_record("comment", b"0123456789abcdef");
            let mut bytes =
                tar::header(&Entry::new(b'g', "pax_global_header").data(&comment)).to_vec();
            bytes.extend(&comment);
            bytes
        })
        .entry(
            Entry::new(tar::FILE, "pax-times")
                .pax("mtime", "-1.5")
                .pax("atime", "1")
                .data(b"t"),
        )
        .entry(Entry::new(tar::FILE, "pax-nano").pax("mtime", "1700000000.000000001"))
        .entry(Entry::new(tar::FILE, "pax-more-digits").pax("mtime", "1700000000.1234567899"))
        .entry(Entry::new(tar::FILE, "pax-ids").owner(3_000_000_000, 4_000_000_000))
        .entry(
            Entry::new(tar::FILE, "short")
                .pax("path", "renamed/by/pax")
                .data(b"renamed by pax"),
        )
        .entry(
            Entry::new(tar::SYMLINK, "pax-link")
                .link("short")
                .pax("linkpath", &target),
        )
        .entry(
            Entry::new(tar::FILE, "pax-size")
                .pax("size", "4")
                .data(b"four")
                .size(0),
        )
        .entry(
            Entry::new(tar::FILE, "attrs")
                .xattr("user.a", "1")
                .xattr("user.b", b"\0\x01\xff"),
        )
        .entry(
            Entry::new(tar::FILE, "unknown")
                .pax("VENDOR.thing", "ignored")
                .data(b"u"),
        )
        .finish();

    // Names as some builders write them; old type flags.
    let mut odd = Tar::new()
        .dir("./dotted/")
        .file("./dotted/file", "1")
        .file("/rooted", "2")
        .file("doubled//slash", "3")
        .file("dotted/./inside", "4")
        .dir("trailing");
    odd.raw(&Entry::new(0, "old-file").data(b"type flag NUL"));
    odd.raw(&Entry::new(b'7', "contiguous").data(b"type flag 7"));
    let odd = odd.finish();

    // No end at all, and no blocks but the end.
    let endless = Tar::new().file("endless", "no zero blocks").unfinished();
    let empty = Tar::new().finish();

    let scratch = tempfile::tempdir().unwrap();
    let layers = vec![gnu, pax, odd, endless, empty];
    let found = converted(&layers, scratch.path());

    let file = |path: &str, text: &[u8]| {
        let node = found.node(path);
        let digest = support::sha256(text)["sha256:".len()..].to_owned();
        let size = text.len() as u64;
        assert_eq!(
            node.kind,
            Kind::File {
                size,
                sha256: digest
            },
            "{path}"
        );
        node.clone()
    };
    file(&format!("/{long}"), b"gnu long name");
    assert_eq!(
        found.node("/gnu-long-link").kind,
        Kind::Symlink(target.clone())
    );
    let node = file("/base256", b"base256");
    assert_eq!(
        (node.uid, node.gid, node.mtime),
        (4_000_000_000, 3_000_000_000, (0, 0))
    );
    assert_eq!(file("/pax-times", b"t").mtime, (0, 0));
    assert_eq!(found.node("/pax-nano").mtime, (1_700_000_000, 1));
    assert_eq!(
        found.node("/pax-more-digits").mtime,
        (1_700_000_000, 123_456_789)
    );
    assert_eq!(found.node("/pax-ids").uid, 3_000_000_000);
    file("/renamed/by/pax", b"renamed by pax");
    assert_eq!(found.node("/pax-link").kind, Kind::Symlink(target));
    file("/pax-size", b"four");
    assert_eq!(found.node("/attrs").xattrs["user.b"], "\\x00\\x01\\xff");
    file("/unknown", b"u");
    file("/dotted/file", b"1");
    file("/rooted", b"2");
    file("/doubled/slash", b"3");
    file("/dotted/inside", b"4");
    assert_eq!(found.node("/trailing").kind, Kind::Directory);
    file("/old-file", b"type flag NUL");
    file("/contiguous", b"type flag 7");
    file("/endless", b"no zero blocks");
    assert_eq!(found.node("/").mode, 0o755);
}

/// Layers upon each other, and what each path must be in the end.
fn rules() -> (Vec<Vec<u8>>, Vec<(&'static str, &'static str)>) {
    let lower = Tar::new()
        .dir("usr/")
        .dir("usr/bin/")
        .dir("usr/lib/")
        .dir("data/")
        .soft("bin", "usr/bin")
        .soft("abs", "/usr/lib")
        .soft("chain", "abs")
        .file("usr/bin/old", "old")
        .file("gone", "x")
        .file("gone-tree/a/b", "x")
        .file("kept", "kept")
        .dir("opaque/")
        .file("opaque/lower", "x")
        .file("opaque/both", "lower")
        .dir("opaque-late/")
        .file("opaque-late/lower", "x")
        .file("file-to-dir", "x")
        .file("dir-to-file/below", "x")
        .file("file-to-soft", "x")
        .soft("soft-to-file", "kept")
        .soft("soft-to-dir", "usr")
        .dir("dir-to-soft/")
        .file("dir-to-soft/x", "x")
        .entry(
            Entry::new(tar::DIRECTORY, "merged/")
                .mode(0o700)
                .xattr("user.old", "1"),
        )
        .file("merged/lower", "stays")
        .file("linked", "linked")
        .hard("linked-too", "linked")
        .soft("link-source", "dangling")
        .entry(Entry::new(tar::CHAR, "null").device(1, 3).mode(0o666))
        .file("wh-then-new", "x")
        .file("new-then-wh", "x")
        .file("back/and/forth", "x")
        .finish();
    let upper = Tar::new()
        // Through links: relative, absolute, in a chain.
        .file("bin/new", "through relative")
        .file("abs/new", "through absolute")
        .file("chain/more", "through chain")
        .file(".wh.gone", "")
        .file(".wh.gone-tree", "")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/both", "upper")
        // The mark after what it must not hide.
        .file("opaque-late/upper", "upper")
        .file("opaque-late/.wh..wh..opq", "")
        .dir("file-to-dir/")
        .file("file-to-dir/below", "below")
        .file("dir-to-file", "now a file")
        .soft("file-to-soft", "kept")
        .file("soft-to-file", "now a file")
        .dir("soft-to-dir/")
        .file("soft-to-dir/own", "own")
        .soft("dir-to-soft", "data")
        .entry(
            Entry::new(tar::DIRECTORY, "merged/")
                .mode(0o755)
                .owner(5, 6),
        )
        // Links across layers; to a symbolic link; one whose attributes count.
        .hard("data/linked", "linked")
        .hard("data/soft-again", "link-source")
        .entry(Entry::new(tar::HARD, "data/null").link("null").mode(0o666))
        .file("first", "first")
        .entry(
            Entry::new(tar::HARD, "second")
                .link("first")
                .mode(0o600)
                .owner(9, 9),
        )
        // A whiteout hides lower layers only, whichever comes first.
        .file(".wh.wh-then-new", "")
        .file("wh-then-new", "new")
        .file("new-then-wh", "new")
        .file(".wh.new-then-wh", "")
        .file("back/.wh.and", "")
        .file("twice", "one")
        .file("twice", "two")
        .file("implicit/parents/file", "x")
        .file(".wh.never-was", "")
        .finish();
    let top = Tar::new()
        .file("back", "a file now")
        .file("file-to-dir/.wh.below", "")
        .finish();
    let again = Tar::new()
        .dir("back/")
        .file("back/forth", "a directory again")
        .finish();
    let expected = vec![
        ("/usr/bin/new", "through relative"),
        ("/usr/lib/new", "through absolute"),
        ("/usr/lib/more", "through chain"),
        ("/usr/bin/old", "old"),
        ("/bin", "-> usr/bin"),
        ("/abs", "-> /usr/lib"),
        ("/chain", "-> abs"),
        ("/gone", ""),
        ("/gone-tree", ""),
        ("/kept", "kept"),
        ("/opaque/lower", ""),
        ("/opaque/both", "upper"),
        ("/opaque-late/lower", ""),
        ("/opaque-late/upper", "upper"),
        ("/file-to-dir", "/"),
        ("/file-to-dir/below", ""),
        ("/dir-to-file", "now a file"),
        ("/file-to-soft", "-> kept"),
        ("/soft-to-file", "now a file"),
        ("/soft-to-dir", "/"),
        ("/soft-to-dir/own", "own"),
        ("/usr/own", ""),
        ("/dir-to-soft", "-> data"),
        ("/data/x", ""),
        ("/merged", "/"),
        ("/merged/lower", "stays"),
        ("/data/linked", "linked"),
        ("/data/soft-again", "-> dangling"),
        ("/second", "first"),
        ("/wh-then-new", "new"),
        ("/new-then-wh", "new"),
        ("/back", "/"),
        ("/back/and", ""),
        ("/back/forth", "a directory again"),
        ("/twice", "two"),
        ("/implicit/parents", "/"),
        ("/implicit/parents/file", "x"),
        ("/never-was", ""),
    ];
    (vec![lower, upper, top, again], expected)
}

#[test]
fn layers_over_each_other_follow_the_image_spec_s_rules() {
    if !can_test() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (layers, expected) = rules();
    let found = converted(&layers, scratch.path());
    for (path, what) in expected {
        let Some(node) = found.0.get(path) else {
            assert_eq!(what, "", "{path} is missing");
            continue;
        };
        let is = match (&node.kind, what) {
            (_, "") => panic!("{path} should not be there: {node}"),
            (Kind::Directory, "/") => true,
            (Kind::Symlink(target), what) => what == format!("-> {target}"),
            (Kind::File { sha256, .. }, what) => {
                support::sha256(what.as_bytes()) == format!("sha256:{sha256}")
            }
            _ => false,
        };
        assert!(is, "{path} should be {what:?}: {node}");
        assert!(!path.contains(".wh."));
    }
    assert!(!found.0.keys().any(|path| path.contains(".wh.")));

    let merged = found.node("/merged");
    assert_eq!((merged.mode, merged.uid, merged.gid), (0o755, 5, 6));
    let first = found.node("/first");
    assert_eq!(
        (first.mode, first.uid),
        (0o600, 9),
        "a hard link's attributes count"
    );
    let group = |path: &str| found.node(path).links.clone().map(|(first, _)| first);
    assert_eq!(group("/linked-too"), group("/data/linked"));
    assert_eq!(group("/linked"), Some("/data/linked".to_owned()));
    assert_eq!(group("/data/soft-again"), group("/link-source"));
    assert_eq!(group("/data/null"), group("/null"));
    assert!(group("/null").is_some());
    assert!(group("/link-source").is_some());
    let implicit = found.node("/implicit/parents");
    assert_eq!((implicit.mode, implicit.mtime), (0o755, (0, 0)));
    // What was made or removed below a directory is no change of its own.
    assert_eq!(found.node("/usr/bin").mtime, (TIME, 0));

    // umoci, where it goes by the same rules.
    let umoci = umoci(&layers);
    let any_mtime: BTreeSet<String> = ["/", "/implicit", "/implicit/parents", "/gone-tree"]
        .map(str::to_owned)
        .into();
    let lines = found.differences(&umoci, &any_mtime);
    let is_unexpected = |line: &&String| {
        !DIFFERENT
            .iter()
            .any(|path| line.starts_with(&format!("{path}:")))
    };
    let unexpected: Vec<_> = lines.iter().filter(is_unexpected).collect();
    assert!(unexpected.is_empty(), "beside umoci: {unexpected:#?}");
}

/// Where umoci goes by other rules, which the list above decides instead.
/// containerd gives a hard link's own mode and owner to the file, umoci does not.
const DIFFERENT: [&str; 2] = ["/first", "/second"];

#[test]
fn a_directory_of_100_000_names_is_converted_and_some_are_removed() {
    if !can_test() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut lower = Tar::new().dir("many/");
    for number in 0..100_000 {
        lower = lower.file(&format!("many/entry-{number}"), "");
    }
    let mut upper = Tar::new();
    for number in (0..100_000).step_by(997) {
        upper = upper.file(&format!("many/.wh.entry-{number}"), "");
    }
    let found = converted(&[lower.finish(), upper.finish()], scratch.path());
    let left: BTreeSet<_> = found
        .0
        .keys()
        .filter(|path| path.starts_with("/many/"))
        .collect();
    let gone = (0..100_000).step_by(997).count();
    assert_eq!(left.len(), 100_000 - gone);
    assert!(!found.0.contains_key("/many/entry-997") && found.0.contains_key("/many/entry-998"));
}
