//! Odd layers beside containerd: what it makes of them is what the converted disk must hold, in
//! native and in TurboOCI form, and what it refuses is refused. e2fsck and the kernel's mount read
//! the disks.

use crate::support;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;
use std::time::SystemTime;

use support::containerd::{Containerd, Snapshotter, untimed};
use support::image::{Flavour, Image, Packing, Sealed};
use support::layout::Layout;
use support::proxy::Proxy;
use support::pulled::Pulled;
use support::tar::{self, Entry, Tar};
use support::turbo::Turbo;
use support::walk::Tree;
use support::{command, run};

/// Where nothing shows that aufs kept for hard links.
const AUFS_LINKS: &str = "/.wh..wh.plnk";

struct Bench {
    containerd: Containerd,
    layout: Layout,
    proxy: Proxy,
    scratch: tempfile::TempDir,
}

impl Bench {
    fn start() -> Option<Self> {
        if !support::have(&["skopeo", "e2fsck"]) {
            return None;
        }
        let containerd = Containerd::start()?;
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::create(&scratch.path().join("images"));
        let upstream = format!("oci:{}", layout.path().display());
        let data = scratch.path().join("data");
        let options = ["--hold", "60s", "--on-timeout", "busy"];
        // The files are small, and would be stored in a TurboOCI layer.
        let turbo = ["--turbo-fallback", "error", "--turbo-inline", "0"];
        let options = [&options[..], &turbo].concat();
        let proxy = Proxy::start(&upstream, &data, &options);
        Some(Self {
            containerd,
            layout,
            proxy,
            scratch,
        })
    }

    /// What the converted image holds, or why there is none.
    #[track_caller]
    fn converted(&self, name: &str, image: &Sealed) -> Result<Tree, String> {
        self.layout.add(name, image);
        let answer = self.proxy.get(&format!("demo/manifests/{name}_obd"));
        if answer.status == 400 {
            return Err(answer.json()["errors"][0]["message"].to_string());
        }
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        let out = self.scratch.path().join("out");
        let pulled = Pulled::into_layout(&self.proxy, "demo", &format!("{name}_obd"), &out);
        let tree = pulled.tree().unwrap();
        std::fs::remove_dir_all(out).unwrap();
        Ok(tree)
    }

    /// Converts these layers, bottom first, and compares.
    #[track_caller]
    fn compare(&self, name: &str, tars: &[Vec<u8>], snapshotter: Snapshotter) -> Tree {
        let begin = SystemTime::now();
        let image = seal(tars);
        let expected = self.containerd.unpack(&image, snapshotter);
        let mut expected = expected.unwrap_or_else(|error| panic!("{name}: containerd: {error}"));
        let found = self.converted(name, &image);
        let found = found.unwrap_or_else(|error| panic!("{name}: {error}"));
        let hidden = expected
            .0
            .keys()
            .filter(|path| path.starts_with(AUFS_LINKS));
        let hidden = hidden.count().saturating_sub(1) as u64;
        if hidden > 0 {
            expected = without_aufs_links(expected);
        }
        let any_mtime = untimed(&expected, begin);
        found.assert_is(&expected, &any_mtime, name);
        let origin = |digest: &str| self.layout.blob_path(digest);
        let turbo = Turbo::pull(&self.proxy, "demo", &format!("{name}_turbo"), origin);
        let (turbo, none) = (turbo.tree().unwrap(), BTreeSet::new());
        turbo.assert_is(&found, &none, &format!("{name} as TurboOCI"));
        found
    }

    /// Both refuse the layer; ours with this in its words.
    #[track_caller]
    fn refused(&self, name: &str, tar: Vec<u8>, part: &str) {
        let image = seal(&[tar]);
        let theirs = self.containerd.unpack(&image, Snapshotter::Overlayfs);
        assert!(theirs.is_err(), "{name}: containerd takes it");
        let ours = self.converted(name, &image);
        let ours = ours
            .err()
            .unwrap_or_else(|| panic!("{name}: it is converted"));
        assert!(ours.contains(part), "{name}: no {part:?} in {ours}");
        let turbo = self.proxy.get(&format!("demo/manifests/{name}_turbo"));
        assert_eq!(turbo.status, 400, "{name}: {turbo:?}");
        assert!(turbo.text().contains(part), "{name}: {turbo:?}");
    }
}

fn seal(tars: &[Vec<u8>]) -> Sealed {
    let tars: Vec<_> = tars.iter().map(|tar| (&tar[..], Packing::Gzip)).collect();
    Image::new(Flavour::Oci, &tars).seal()
}

/// containerd shows the directory in which aufs kept the targets of hard links. It is no part
/// of the image, so here it does not show, and the links are fewer by its own.
fn without_aufs_links(tree: Tree) -> Tree {
    let of_aufs: Vec<_> = tree
        .0
        .iter()
        .filter(|(path, _)| path.starts_with(AUFS_LINKS))
        .filter_map(|(_, node)| node.links.clone())
        .map(|(first, _)| first)
        .collect();
    let mut tree = tree.without(AUFS_LINKS);
    for first in of_aufs {
        let is_one = |links: &Option<(String, u64)>| {
            links.as_ref().is_some_and(|(group, _)| *group == first)
        };
        let new_first = tree.0.iter().find(|(_, node)| is_one(&node.links));
        let Some(new_first) = new_first.map(|(path, _)| path.clone()) else {
            continue;
        };
        for node in tree.0.values_mut().filter(|node| is_one(&node.links)) {
            let count = node.links.as_ref().map_or(1, |(_, count)| count - 1);
            node.links = (count > 1).then(|| (new_first.clone(), count));
        }
    }
    tree
}

/// The stacks of layers in `tests/cases`, bottom first, by name.
fn stacks() -> BTreeMap<String, Vec<Vec<u8>>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    let mut stacks: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for path in files {
        let name = path.file_name().unwrap().to_str().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let (stem, tar) = if let Some(stem) = name.strip_suffix(".tar.gz") {
            let mut tar = Vec::new();
            let mut inflating = flate2::read::GzDecoder::new(&bytes[..]);
            inflating.read_to_end(&mut tar).unwrap();
            (stem, tar)
        } else if let Some(stem) = name.strip_suffix(".tar") {
            (stem, bytes)
        } else {
            continue;
        };
        let stack = stem.trim_end_matches(|c: char| c == '.' || c.is_ascii_digit());
        stacks.entry(stack.to_owned()).or_default().push(tar);
    }
    stacks
}

#[test]
fn the_small_inputs_convert_to_what_containerd_unpacks() {
    let Some(bench) = Bench::start() else { return };
    let stacks = stacks();
    assert!(stacks.len() >= 10, "{:?}", stacks.keys());
    for (name, tars) in stacks {
        let snapshotter = match &name[..] {
            // The layer leads to what is below it, by a link; overlayfs unpacks each layer apart.
            "link-to-lower-then-whiteout" | "opaque-before-replacing-dir" => Snapshotter::Native,
            _ => Snapshotter::Overlayfs,
        };
        bench.compare(&name, &tars, snapshotter);
    }
}

/// An access list: tags, permissions, ids.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

const NO_ID: u32 = u32::MAX;

/// A list with a named user.
fn named(owner: u16, group: u16, mask: u16, others: u16) -> Vec<u8> {
    acl(&[
        (1, owner, NO_ID),
        (2, 7, 1000),
        (4, group, NO_ID),
        (16, mask, NO_ID),
        (32, others, NO_ID),
    ])
}

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const CAPABILITY: &str = "security.capability";
/// `cap_net_raw+ep`, as ping has it.
const NET_RAW: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn file(name: &str) -> Entry<'_> {
    Entry::new(tar::FILE, name).data(b"data")
}

fn directory(name: &str) -> Entry<'_> {
    Entry::new(tar::DIRECTORY, name)
}

/// Odd numbers and times.
fn numbers() -> Tar {
    let mut tar = Tar::new();
    let ids = [
        "4294967295",
        "-1",
        "-2",
        "4294967294",
        "4294967301",
        "99999999999",
        "-4294967295",
        "9223372036854775807",
        "+5",
        "00000000000000000000000000007",
        "",
    ];
    for (number, id) in ids.into_iter().enumerate() {
        let name = format!("ids/{number}");
        tar = tar.entry(file(&name).owner(7, 8).pax("uid", id).pax("gid", id));
        let name = format!("ids/link-{number}");
        tar = tar.soft(&name, "target");
    }
    let times = [
        "-1",
        "-0.5",
        "-99999999999",
        "0",
        "1.",
        "+7.25",
        "1700000000.1234567899",
        "9223372036.854775807",
        "9223372036.854775808",
        "9223372037",
        "15032385535",
        "9223372036854775807",
        "-9223372036854775808",
        "",
    ];
    for (number, time) in times.into_iter().enumerate() {
        let name = format!("times/{number}");
        tar = tar.entry(file(&name).pax("mtime", time));
        let name = format!("times/directory-{number}/");
        tar = tar.entry(directory(&name).pax("mtime", time));
    }
    for (name, field) in [("b256/uid", 108..116), ("b256/time", 136..148)] {
        let mut header = tar::header(&Entry::new(tar::FILE, name));
        tar::base256(&mut header[field], -1);
        tar::checksum(&mut header);
        tar = tar.bytes(&header);
    }
    tar.entry(directory("twice/").owner(7, 8))
        .entry(directory("twice/").pax("uid", "-1").pax("gid", "-1"))
        .entry(file("linked").owner(7, 8))
        .entry(
            Entry::new(tar::HARD, "linked-too")
                .link("linked")
                .mode(0o600)
                .pax("uid", "-1")
                .owner(0, 9),
        )
        .entry(
            Entry::new(tar::FILE, "size")
                .size(0)
                .data(b"12345")
                .pax("size", "+5"),
        )
        .entry(
            Entry::new(tar::CHAR, "device")
                .device(1, 3)
                .pax("SCHILY.devmajor", "9")
                .pax("SCHILY.devminor", "8"),
        )
        .entry(Entry::new(tar::BLOCK, "disk").device(4095, 0o3_777_777))
}

/// Odd names, and entries of the root.
fn names() -> Tar {
    let global = |name: &'static str, records: &[(&str, &str)]| -> Vec<u8> {
        let records: Vec<u8> = records
            .iter()
            .flat_map(|(key, value)| tar::pax_record(key, value.as_bytes()))
            .collect();
        let mut bytes = tar::header(&Entry::new(b'g', name).data(&records)).to_vec();
        bytes.extend(records);
        bytes
    };
    let long = |kind: u8, name: &'static [u8]| {
        let mut tar = Tar::new();
        tar.raw(&Entry::new(kind, "././@LongLink").data(name));
        tar.unfinished()
    };
    let odd = [
        ("uid", "nobody"),
        ("mtime", "soon"),
        ("GNU.sparse.size", "?"),
    ];
    let mut tar = Tar::new()
        .entry(directory("./").mode(0o700).owner(7, 8).xattr("user.a", "1"))
        .entry(Entry::new(tar::SYMLINK, "/").link("nowhere"))
        .entry(Entry::new(tar::HARD, "a/..").link("nowhere"))
        .file("nowhere/at/all/.wh.x", "")
        .file("neither/here/.wh..wh..opq", "")
        .bytes(&global("made/by/GlobalHead.1", &odd))
        .bytes(&global("g", &[("path", "made/too/by-path")]));
    // What stands before a global header is used up by it.
    let records = tar::pax_record("uid", b"7");
    tar.raw(&Entry::new(b'x', "x").data(&records));
    tar = tar.bytes(&global("g", &[])).file("after-global", "");
    for (name, before) in [
        ("no-long-name", long(b'L', b"\0")),
        ("no-long-name-at-all", long(b'L', b"")),
        ("long-name", long(b'L', b"the-long-name\0")),
    ] {
        tar = tar.bytes(&before);
        tar.raw(&file(name));
    }
    tar = tar.bytes(&long(b'K', b"\0"));
    tar.raw(&Entry::new(tar::SYMLINK, "no-long-link").link("own"));
    tar = tar.bytes(&long(b'L', b"long-before-pax\0"));
    tar = tar.entry(file("short").pax("path", "pax-after-long"));
    tar = tar.bytes(&long(b'L', b"\0"));
    tar = tar.entry(file("short").pax("path", "pax-after-empty-long"));
    let mut old = Entry::new(0, "old-directory/");
    old.mode = 0o711;
    tar.raw(&old);
    tar.entry(file("empty-path").pax("path", ""))
        .entry(
            Entry::new(tar::SYMLINK, "empty-link")
                .link("own")
                .pax("linkpath", ""),
        )
        .entry(file("slash/"))
        .file(".wh..wh.aufs", "")
        .file("x/.wh.none", "")
}

/// Sparse records that make a file sparse, and that do not.
fn sparse() -> Tar {
    let (major, minor) = ("GNU.sparse.major", "GNU.sparse.minor");
    let (map, blocks) = ("GNU.sparse.map", "GNU.sparse.numblocks");
    let (size, real) = ("GNU.sparse.size", "GNU.sparse.realsize");
    let mut tar = Tar::new();
    let shapes: [&[(&str, &str)]; 12] = [
        &[],
        &[(size, "99")],
        &[(real, "odd")],
        &[(major, "2"), (minor, "0")],
        &[(major, "1"), (minor, "1")],
        &[(major, "01"), (minor, "0")],
        &[(major, "1")],
        &[(minor, "0"), (map, "0,4"), (blocks, "1")],
        &[(map, "+1,+4"), (blocks, "+1"), (size, "+9")],
        &[(map, "0,4"), (blocks, "1")],
        &[(map, "0,4"), (blocks, "1"), (size, "7"), (real, "9")],
        &[
            (major, "0"),
            (minor, "1"),
            (map, "3,4"),
            (blocks, "1"),
            (real, "9000"),
        ],
    ];
    for (number, records) in shapes.into_iter().enumerate() {
        let (name, real) = (format!("sparse/{number}"), format!("sparse/real-{number}"));
        let mut entry = file(&name).pax("GNU.sparse.name", &real);
        for (key, value) in records {
            entry = entry.pax(key, value);
        }
        tar = tar.entry(entry);
    }
    let mut in_data = b"+1\n0000010\n4\n".to_vec();
    in_data.resize(512, 0);
    in_data.extend(b"data");
    let entry = Entry::new(tar::FILE, "sparse/in-data").data(&in_data);
    let entry = entry.pax(major, "1").pax(minor, "0");
    tar.entry(entry.clone().pax(real, "100")).entry(Entry {
        name: b"sparse/in-data-of-no-size",
        ..entry
    })
}

/// Extended attributes, taken and not.
fn attributes() -> Tar {
    let plain = acl(&[(1, 7, NO_ID), (4, 7, NO_ID), (32, 7, NO_ID)]);
    let masked = acl(&[(1, 7, NO_ID), (4, 7, NO_ID), (16, 7, NO_ID), (32, 7, NO_ID)]);
    let text = "user::rwx,user:1000:rwx,group::r-x,mask::rwx,other::r-x";
    let all = |entry: Entry<'static>| {
        entry
            .xattr("user.a", "1")
            .xattr("user.empty", "")
            .xattr("security.b", "2")
            .xattr("trusted.overlay.opaque", "y")
            .xattr("trusted.c", "3")
            .xattr("com.apple.d", "4")
            .xattr("system.other", "5")
            .pax("LIBARCHIVE.xattr.user.e", "?!")
            .pax("LIBARCHIVE.xattr.user.f", "aGVqCg")
            .pax("SCHILY.acl.access", text)
            .pax("SCHILY.acl.default", text)
    };
    let mut tar = Tar::new()
        .entry(all(file("all/file")))
        .entry(all(directory("all/directory/")))
        .entry(all(Entry::new(tar::FIFO, "all/fifo")))
        .entry(all(Entry::new(tar::CHAR, "all/device").device(1, 3)))
        // Attributes of user. on a link are nobody's.
        .entry(all(Entry::new(tar::SYMLINK, "all/link").link("target")))
        .entry(
            directory("dir-twice/")
                .xattr("user.a", "1")
                .xattr("user.b", "1"),
        )
        .entry(
            directory("dir-twice/")
                .xattr("user.b", "2")
                .xattr("user.c", "2"),
        );
    for mode in [0o600, 0o640, 0o4755, 0o070, 0o777] {
        let name = format!("acl/named-{mode:o}");
        tar = tar.entry(file(&name).mode(mode).xattr(ACCESS, named(6, 4, 7, 4)));
        let name = format!("acl/plain-{mode:o}");
        tar = tar.entry(file(&name).mode(mode).xattr(ACCESS, &plain));
        let name = format!("acl/masked-{mode:o}");
        tar = tar.entry(file(&name).mode(mode).xattr(ACCESS, &masked));
        let name = format!("acl/directory-{mode:o}/");
        tar = tar.entry(directory(&name).mode(mode).xattr(ACCESS, named(6, 4, 7, 4)));
    }
    tar.entry(file("acl/unknown").xattr(ACCESS, "junk"))
        .entry(file("acl/empty").xattr(ACCESS, ""))
        .entry(file("acl/nobody").xattr(ACCESS, acl(&[])))
        .entry(
            Entry::new(tar::SYMLINK, "acl/link")
                .link("t")
                .xattr(ACCESS, named(6, 4, 7, 4)),
        )
        .file("acl/other", "")
        .entry(
            Entry::new(tar::HARD, "acl/hard")
                .link("acl/other")
                .mode(0o640)
                .xattr(ACCESS, named(7, 7, 7, 7)),
        )
        .entry(
            Entry::new(tar::HARD, "acl/harder")
                .link("acl/other")
                .mode(0o604),
        )
        // What directories hand on.
        .entry(directory("given/").xattr(DEFAULT, named(7, 5, 7, 5)))
        .file("given/file", "")
        .file("given/implied/file", "")
        .entry(directory("given/directory/").mode(0o700))
        .entry(Entry::new(tar::SYMLINK, "given/link").link("t"))
        .entry(Entry::new(tar::FIFO, "given/fifo").mode(0o666))
        .entry(file("given/own").xattr(ACCESS, named(4, 4, 4, 4)))
        .entry(file("given/none").xattr(ACCESS, &plain))
        .entry(directory("given/other/").xattr(DEFAULT, named(4, 4, 4, 4)))
        .file("given/other/file", "")
        .entry(directory("plain/").xattr(DEFAULT, &plain))
        .file("plain/implied/file", "")
        .entry(directory("group/").mode(0o2775).owner(0, 50))
        .file("group/implied/file", "")
        .entry(file("group/file").pax("gid", "-1"))
        .entry(directory("group/directory/").pax("gid", "-1"))
        // Capabilities.
        .entry(file("caps/kept").mode(0o755).xattr(CAPABILITY, NET_RAW))
        .entry(file("caps/lost").xattr(CAPABILITY, NET_RAW))
        .hard("caps/lost-too", "caps/lost")
        .entry(file("caps/again").xattr(CAPABILITY, NET_RAW))
        .entry(
            Entry::new(tar::HARD, "caps/again-too")
                .link("caps/again")
                .xattr(CAPABILITY, NET_RAW),
        )
        .entry(directory("caps/directory/").xattr(CAPABILITY, NET_RAW))
        .entry(directory("caps/directory/").mode(0o700))
        .entry(
            Entry::new(tar::SYMLINK, "caps/link")
                .link("t")
                .xattr(CAPABILITY, NET_RAW),
        )
}

#[test]
fn odd_entries_convert_to_what_containerd_unpacks() {
    let Some(bench) = Bench::start() else { return };
    let dangling = {
        let mut tar = Tar::new().file("last", "");
        let records = tar::pax_record("uid", b"7");
        tar.raw(&Entry::new(b'x', "x").data(&records));
        tar
    };
    for (name, tar) in [
        ("numbers", numbers()),
        ("names", names()),
        ("sparse", sparse()),
        ("attributes", attributes()),
        ("dangling", dangling),
    ] {
        bench.compare(name, &[tar.finish()], Snapshotter::Overlayfs);
    }
}

#[test]
fn odd_layers_over_others_convert_to_what_containerd_unpacks() {
    let Some(bench) = Bench::start() else { return };
    let lower = Tar::new()
        .entry(
            directory("d/")
                .mode(0o711)
                .owner(7, 8)
                .xattr("user.old", "1"),
        )
        .entry(directory("given/").xattr(DEFAULT, named(7, 5, 7, 5)))
        .entry(directory("given/below/").mode(0o750))
        .entry(directory("group/").mode(0o2775).owner(0, 50))
        .dir("group/below/")
        .entry(file("f").xattr(CAPABILITY, NET_RAW))
        .file("whited/out", "")
        .finish();
    let upper = Tar::new()
        .entry(directory("./").mode(0o700).owner(7, 8))
        .entry(
            directory("d/")
                .pax("uid", "-1")
                .pax("gid", "-1")
                .xattr("user.new", "1"),
        )
        .file("given/file", "")
        .file("given/implied/file", "")
        .entry(directory("given/below/").mode(0o700))
        .file("group/implied/file", "")
        .entry(directory("group/below/").pax("gid", "-1"))
        .file("whited/.wh.out", "")
        .finish();
    bench.compare("over", &[lower.clone(), upper], Snapshotter::Overlayfs);
    let link = Tar::new()
        .entry(
            Entry::new(tar::HARD, "g")
                .link("f")
                .mode(0o600)
                .pax("uid", "-1"),
        )
        // Of directories that are new, overlayfs lists what is whited out in them.
        .file("whited/more/.wh.out", "")
        .finish();
    bench.compare("link", &[lower, link], Snapshotter::Native);
}

#[test]
fn acls_and_capabilities_of_tar_tools_convert_to_what_containerd_unpacks() {
    if !support::have(&["bsdtar", "setfacl", "tar"]) {
        return;
    }
    let Some(bench) = Bench::start() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("tree");
    std::fs::create_dir_all(root.join("directory/below")).unwrap();
    for name in ["list", "capable", "linked", "directory/file"] {
        std::fs::write(root.join(name), name).unwrap();
    }
    std::fs::hard_link(root.join("capable"), root.join("capable-too")).unwrap();
    std::fs::hard_link(root.join("linked"), root.join("directory/linked")).unwrap();
    xattr::set(root.join("capable"), CAPABILITY, NET_RAW).unwrap();
    xattr::set(root.join("list"), "trusted.secret", b"s").unwrap();
    let facl = |args: [&str; 2], name: &str| {
        run(command("setfacl").args(args).arg(root.join(name)));
    };
    facl(["-m", "u:1000:rwx,g:70000:r-x,m::rwx"], "list");
    facl(["-dm", "u:33:r-x"], "directory");
    for (name, writer, options) in [
        (
            "gnu",
            "tar",
            &["--xattrs", "--xattrs-include=*", "--acls"][..],
        ),
        ("bsd", "bsdtar", &["--xattrs", "--acls"]),
    ] {
        let path = scratch.path().join(name);
        let mut pack = command(writer);
        pack.args(["--create", "--format=pax", "--numeric-owner"])
            .args(options);
        run(pack.arg("--file").arg(&path).arg("-C").arg(&root).arg("."));
        let tar = std::fs::read(&path).unwrap();
        let found = bench.compare(name, &[tar], Snapshotter::Overlayfs);
        let has_list = found.node("/list").xattrs.contains_key(ACCESS);
        assert_eq!(has_list, writer == "tar", "{name}");
    }
}

#[test]
fn what_containerd_refuses_is_refused() {
    let Some(bench) = Bench::start() else { return };
    let unsorted = acl(&[(4, 4, NO_ID), (1, 6, NO_ID), (32, 4, NO_ID)]);
    let (map, size) = ("GNU.sparse.map", "GNU.sparse.size");
    let entries = [
        ("acl", file("f").xattr(ACCESS, &unsorted), ACCESS),
        ("acl-cut", file("f").xattr(ACCESS, "abc"), ACCESS),
        (
            "default",
            directory("d/").xattr(DEFAULT, &unsorted),
            DEFAULT,
        ),
        (
            "capability",
            file("f").xattr(CAPABILITY, "junk"),
            CAPABILITY,
        ),
        ("uid", file("f").pax("uid", "9223372036854775808"), "uid"),
        ("gid", file("f").pax("gid", "0x1"), "gid"),
        ("size", file("f").pax("size", "-1"), "size"),
        ("mtime", file("f").pax("mtime", ".25"), "mtime"),
        (
            "uncounted",
            file("f").pax(map, "0,4").pax(size, "9"),
            "numblocks",
        ),
        (
            "directory-map",
            directory("d/")
                .pax("GNU.sparse.numblocks", "1")
                .pax(map, "0,0"),
            "sparse",
        ),
        ("whiteout", file("a/.wh.."), "means nothing"),
        ("symlink", Entry::new(tar::SYMLINK, "s"), "target"),
    ];
    for (name, entry, part) in entries {
        bench.refused(name, Tar::new().entry(entry).finish(), part);
    }
    let mut signed = tar::header(&Entry::new(tar::FILE, "f"));
    signed[108..116].copy_from_slice(b"+5\0\0\0\0\0\0");
    tar::checksum(&mut signed);
    bench.refused("signed", Tar::new().bytes(&signed).finish(), "uid");
}
