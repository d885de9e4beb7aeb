//! Trees of every kind of file, and the programs that pack and unpack them.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::Command;

use filetime::FileTime;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use overlaybd_proxy::check::Tree;

/// Whether this user may make any file; prints SKIPPED if not.
pub fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: this takes the rights of root");
    }
    is_root
}

/// Whether a program is installed; prints SKIPPED if not.
pub fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

/// Runs a program, which must succeed.
pub fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Says when a path was modified, links not followed.
pub fn set_mtime(path: &Path, secs: i64, nanos: u32) {
    let time = FileTime::from_unix_time(secs, nanos);
    filetime::set_symlink_file_times(path, time, time).unwrap();
}

/// A tree with something of every kind; the times of all are set. Takes root.
pub fn everything(root: &Path) {
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0\n").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("big"), vec![0xa5; 300_001]).unwrap();
    chown(root.join("big"), Some(3_000_000_000), Some(70_000)).unwrap();
    fs::write(root.join("suid"), "#!").unwrap();
    let modes = [("suid", 0o6755), ("etc/passwd", 0o640), ("etc", 0o1777)];
    for (name, mode) in modes {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    let deep = root
        .join("deep")
        .join("d".repeat(120))
        .join("e".repeat(120));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("f".repeat(200)), "long names").unwrap();
    fs::write(
        root.join(std::ffi::OsStr::from_bytes(b"not \xff utf-8\n")),
        "odd",
    )
    .unwrap();

    symlink("etc/passwd", root.join("link")).unwrap();
    symlink("/nowhere//./..", root.join("dangling")).unwrap();
    symlink("t".repeat(300), root.join("long-link")).unwrap();
    lchown(root.join("link"), Some(5), Some(6)).unwrap();
    fs::hard_link(root.join("big"), root.join("etc/big-too")).unwrap();
    fs::hard_link(root.join("big"), root.join("zz")).unwrap();
    fs::hard_link(root.join("link"), root.join("link-too")).unwrap();

    let all = Mode::from_bits_truncate(0o620);
    mknod(&root.join("fifo"), SFlag::S_IFIFO, all, 0).unwrap();
    mknod(&root.join("null"), SFlag::S_IFCHR, all, makedev(1, 3)).unwrap();
    mknod(
        &root.join("disk"),
        SFlag::S_IFBLK,
        all,
        makedev(259, 70_000),
    )
    .unwrap();

    let mut sparse = File::create(root.join("sparse")).unwrap();
    for at in [0u64, 1 << 20, 5_000_000, (5 << 20) + 4096] {
        sparse.seek(SeekFrom::Start(at)).unwrap();
        sparse.write_all(&vec![(at % 200) as u8 + 1; 5000]).unwrap();
    }
    sparse.set_len(9_000_001).unwrap();
    let mut many = File::create(root.join("many-holes")).unwrap();
    for piece in 0..60u8 {
        many.seek(SeekFrom::Start(u64::from(piece) * 16384 + 8192))
            .unwrap();
        many.write_all(&[piece + 1; 4096]).unwrap();
    }
    File::create(root.join("all-hole"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();

    let old: u64 = 1_000_000_007;
    for (number, path) in paths(root)
        .into_iter()
        .enumerate()
        .collect::<Vec<_>>()
        .iter()
        .rev()
    {
        let secs = i64::try_from(old + *number as u64).unwrap();
        set_mtime(path, secs, 123_456_789 - u32::try_from(*number).unwrap());
    }
}

/// Gives some of the tree attributes that layers keep; whether the filesystem takes them.
pub fn plain_attributes(root: &Path) -> bool {
    let set = |name: &str, key: &str, value: &[u8]| xattr::set(root.join(name), key, value);
    // A value with the bytes that end pax records, and `setcap cap_net_raw+ep`.
    let capability =
        b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let taken = set("empty", "user.text", b"line\n12 x=y\n\0end")
        .and_then(|()| set("empty", "user.none", b""))
        .and_then(|()| set("suid", "security.capability", capability));
    if let Err(error) = &taken {
        eprintln!(
            "SKIPPED: attributes, which {} does not take: {error}",
            root.display()
        );
    }
    taken.is_ok()
}

/// Gives some of the tree attributes and access lists, also such as layers do not keep;
/// whether the filesystem takes them.
pub fn attributes(root: &Path) -> bool {
    if !plain_attributes(root) {
        return false;
    }
    xattr::set(root.join("etc"), "trusted.secret", &[0x0a; 64]).unwrap();
    if has("setfacl") {
        run(
            "setfacl",
            &["-m", "u:1000:rwx,g:70000:r", text(&root.join("etc/passwd"))],
        );
        run(
            "setfacl",
            &[
                "-d",
                "-m",
                "u::rwx,g::rx,o::-,u:77:x",
                text(&root.join("deep")),
            ],
        );
        run(
            "setfacl",
            &["-d", "-m", "u::rwx,g::rx,o::-", text(&root.join("etc"))],
        );
    }
    true
}

/// All paths of a tree, the root last.
fn paths(root: &Path) -> Vec<std::path::PathBuf> {
    let mut all = vec![root.to_owned()];
    let mut at = 0;
    while let Some(path) = all.get(at).cloned() {
        at += 1;
        if path.is_dir() && !path.is_symlink() {
            let mut below: Vec<_> = fs::read_dir(&path)
                .unwrap()
                .map(|e| e.unwrap().path())
                .collect();
            below.sort();
            all.extend(below);
        }
    }
    all
}

pub fn walk(root: &Path) -> Tree {
    Tree::from_directory(root).unwrap()
}

pub fn layers(tars: &[&[u8]]) -> Tree {
    Tree::from_layers(tars.iter().copied()).unwrap()
}

/// Fails with what is different.
pub fn assert_same(expected: &Tree, found: &Tree) {
    let differences = expected.differences(found, 20);
    let lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}
