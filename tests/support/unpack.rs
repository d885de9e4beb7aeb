//! What the layers of an image come to, by programs that have nothing to do with this one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use filetime::FileTime;

use super::walk::Tree;

/// The tree that umoci makes of an image in a layout. Umoci reads gzip and plain layers.
///
/// Directories that no layer has an entry for get the time of the unpacking.
#[track_caller]
pub fn umoci(layout: &Path, tag: &str) -> Tree {
    let scratch = tempfile::tempdir().unwrap();
    let rootfs = scratch.path().join("rootfs");
    let image = format!("{}:{tag}", layout.display());
    let mut command = super::command("umoci");
    super::run(
        command
            .args(["raw", "unpack", "--image", &image])
            .arg(&rootfs),
    );
    with_plain_root(Tree::of(&rootfs))
}

/// containerd does not heed what a layer says of the root.
fn with_plain_root(mut tree: Tree) -> Tree {
    if let Some(root) = tree.0.get_mut("/") {
        (root.mode, root.uid, root.gid, root.mtime) = (0o755, 0, 0, (0, 0));
        root.xattrs.clear();
    }
    tree
}

/// The tree that GNU tar makes of layer tars, bottom first, whiteouts done by hand.
///
/// Follows symbolic links on the way to an entry as the kernel does, so layers whose entries
/// go through absolute ones are refused. Directories that no layer has an entry for get
/// 0755, root and 1970.
#[track_caller]
pub fn gnu_tar(tars: &[PathBuf]) -> Tree {
    let scratch = tempfile::tempdir().unwrap();
    let rootfs = scratch.path().join("rootfs");
    fs::create_dir(&rootfs).unwrap();
    implicit(&rootfs);
    for tar in tars {
        apply(tar, &rootfs);
    }
    with_plain_root(Tree::of(&rootfs))
}

/// As [`gnu_tar`], of layers that are no files yet.
#[track_caller]
pub fn gnu_tar_of(layers: &[Vec<u8>]) -> Tree {
    let scratch = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = layers
        .iter()
        .enumerate()
        .map(|(number, tar)| {
            let path = scratch.path().join(format!("{number}.tar"));
            fs::write(&path, tar).unwrap();
            path
        })
        .collect();
    gnu_tar(&files)
}

fn implicit(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    filetime::set_file_mtime(directory, FileTime::zero()).unwrap();
}

/// The entries of a tar: what is said of each with `options`.
fn list(tar: &Path, options: &[&str]) -> Vec<String> {
    let mut command = super::command("tar");
    command
        .args(["--list", "--quoting-style=literal"])
        .args(options);
    let listing = super::run(command.arg("--file").arg(tar));
    let text = String::from_utf8(listing.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn apply(tar: &Path, rootfs: &Path) {
    let names: Vec<PathBuf> = list(tar, &[])
        .iter()
        .map(|name| Path::new(name).components())
        .map(|name| name.filter(|part| *part != Component::CurDir).collect())
        .collect();
    for name in &names {
        refuse_absolute_links(rootfs, name);
    }
    let before = directory_times(rootfs);
    for name in &names {
        whiteout(rootfs, name);
    }
    // GNU tar puts nothing in a directory's place, or with --recursive-unlink too much.
    let kinds = list(tar, &["--verbose"]);
    assert_eq!(kinds.len(), names.len(), "a name with a newline");
    for (name, kind) in names.iter().zip(&kinds) {
        if !kind.starts_with('d') {
            remove_directory(&rootfs.join(name));
        }
    }
    super::run(
        super::command("tar")
            .args(["--extract", "--preserve-permissions", "--same-owner"])
            .args([
                "--numeric-owner",
                "--xattrs",
                "--xattrs-include=*",
                "--acls",
            ])
            .args(["--wildcards", "--exclude=.wh.*", "--warning=no-timestamp"])
            .arg("--file")
            .arg(tar)
            .arg("-C")
            .arg(rootfs),
    );
    // Making and removing entries is no change of the directory's own.
    let named: BTreeSet<_> = names.iter().map(|name| rootfs.join(name)).collect();
    for directory in directory_times(rootfs).into_keys() {
        match before.get(&directory) {
            _ if named.contains(&directory) => {}
            Some(time) => filetime::set_file_mtime(&directory, *time).unwrap(),
            None => implicit(&directory),
        }
    }
}

fn refuse_absolute_links(rootfs: &Path, name: &Path) {
    let mut path = rootfs.to_owned();
    for component in name.parent().into_iter().flat_map(Path::components) {
        assert!(
            !matches!(component, Component::ParentDir | Component::RootDir),
            "{} cannot be unpacked here",
            name.display()
        );
        path.push(component);
        if let Ok(target) = fs::read_link(&path) {
            assert!(
                target.is_relative(),
                "{} goes through {}: it cannot be unpacked here",
                name.display(),
                path.display()
            );
        }
    }
}

fn directory_times(root: &Path) -> BTreeMap<PathBuf, FileTime> {
    let mut times = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            todo.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            times.insert(path, FileTime::from_last_modification_time(&metadata));
        }
    }
    times
}

fn whiteout(rootfs: &Path, name: &Path) {
    let Some(last) = name.file_name() else { return };
    let parent = rootfs.join(name.parent().unwrap());
    if last.as_bytes().starts_with(b".wh.") {
        // The parents are made, as those of any entry.
        let _ = fs::create_dir_all(&parent);
    }
    if last == ".wh..wh..opq" {
        for child in fs::read_dir(&parent).into_iter().flatten() {
            remove(&child.unwrap().path());
        }
    } else if let Some(hidden) = last.as_bytes().strip_prefix(b".wh.") {
        remove(&parent.join(std::ffi::OsStr::from_bytes(hidden)));
    }
}

/// Removes what is a directory itself, not a link to one.
fn remove_directory(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        fs::remove_dir_all(path).unwrap();
    }
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}
