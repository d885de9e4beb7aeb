//! The foreign tools: e2fsck on the stacked disk, the kernel's mount, a walk of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use overlaybd_proxy::oci::digest::Digest;

/// Panics unless e2fsck finds nothing at all.
#[track_caller]
pub fn e2fsck(disk: &Path) {
    let output = Command::new("e2fsck")
        .arg("-fn")
        .arg(disk)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "e2fsck: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A read-only loop mount; `None`, and said so, where that is not allowed.
pub struct Mount(PathBuf);

impl Mount {
    pub fn new(disk: &Path, at: &Path) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: mounting needs root");
            return None;
        }
        fs::create_dir_all(at).unwrap();
        let output = Command::new("mount")
            .args(["-o", "ro,loop"])
            .arg(disk)
            .arg(at)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "mount: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Some(Self(at.to_owned()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// One line a name, by path: everything that a rootfs consists of.
pub fn walk(root: &Path) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let mut groups: BTreeMap<u64, String> = BTreeMap::new();
    visit(root, root, &mut lines, &mut groups);
    lines
}

fn visit(
    root: &Path,
    path: &Path,
    lines: &mut BTreeMap<String, String>,
    groups: &mut BTreeMap<u64, String>,
) {
    let name = format!("/{}", path.strip_prefix(root).unwrap().to_string_lossy());
    let metadata = fs::symlink_metadata(path).unwrap();
    let file_type = metadata.file_type();
    let mut line = format!(
        "{:06o} {}:{} {}.{:09}",
        metadata.mode(),
        metadata.uid(),
        metadata.gid(),
        metadata.mtime(),
        metadata.mtime_nsec()
    );
    if file_type.is_file() {
        let content = fs::read(path).unwrap();
        if content.len() <= 16 {
            write!(line, " {:?}", String::from_utf8_lossy(&content)).unwrap();
        } else {
            write!(line, " {} {}", content.len(), Digest::of(&content)).unwrap();
        }
    } else if file_type.is_symlink() {
        write!(line, " -> {}", fs::read_link(path).unwrap().display()).unwrap();
    } else if file_type.is_char_device() || file_type.is_block_device() {
        let device = metadata.rdev();
        write!(
            line,
            " {},{}",
            nix::sys::stat::major(device),
            nix::sys::stat::minor(device)
        )
        .unwrap();
    }
    if !file_type.is_dir() && metadata.nlink() > 1 {
        let first = groups.entry(metadata.ino()).or_insert_with(|| name.clone());
        write!(line, " ={first}x{}", metadata.nlink()).unwrap();
    }
    let mut names: Vec<_> = xattr::list(path).unwrap().collect();
    names.sort();
    for name in names {
        let value = xattr::get(path, &name).unwrap().unwrap_or_default();
        write!(line, " {}={}", name.to_string_lossy(), value.escape_ascii()).unwrap();
    }
    assert!(lines.insert(name, line).is_none());
    if file_type.is_dir() {
        let mut children: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        children.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
        for child in children {
            visit(root, &child, lines, groups);
        }
    }
}

/// Panics with the lines that differ.
#[track_caller]
pub fn same(actual: &BTreeMap<String, String>, expected: &BTreeMap<String, String>) {
    let mut report = String::new();
    for (name, line) in expected {
        match actual.get(name) {
            Some(other) if other == line => {}
            other => {
                let other = other.map_or("nothing", String::as_str);
                writeln!(report, "{name}\n  expected {line}\n  found    {other}").unwrap();
            }
        }
    }
    for name in actual.keys().filter(|name| !expected.contains_key(*name)) {
        writeln!(report, "{name}\n  found though it should not be there").unwrap();
    }
    assert!(report.is_empty(), "{report}");
}

/// Lines of a listing: `path | line`.
pub fn listing(text: &str) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (name, line) = line.split_once(" | ").unwrap();
        lines.insert(name.trim().to_owned(), line.to_owned());
    }
    lines
}
