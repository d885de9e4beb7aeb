//! Verifies a converted image: the stacked disk, e2fsck on it, the kernel's mount of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::overlaybd::{self, Stack};
use super::walk::Tree;

/// The disk that layer blobs make, bottom first, written out as a sparse file by a reader that
/// is not the program's.
#[track_caller]
pub fn disk(blobs: &[PathBuf], raw: &Path) {
    let layers = overlaybd::assert_stack(blobs);
    let stack = Stack::new(&layers).unwrap();
    stack.write(&File::create(raw).unwrap()).unwrap();
}

/// What e2fsck has to say if it is anything but "clean".
pub fn e2fsck(raw: &Path) -> Result<(), String> {
    let mut command = super::command("e2fsck");
    let output = command.arg("-fn").arg(raw).output().unwrap();
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// A read-only loop mount.
pub struct Mount {
    at: PathBuf,
}

impl Mount {
    #[track_caller]
    pub fn new(raw: &Path, at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        let mut command = super::command("mount");
        super::run(
            command
                .args(["-t", "ext4", "-o", "ro,loop"])
                .arg(raw)
                .arg(at),
        );
        Self { at: at.to_owned() }
    }

    pub fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        unmount(&self.at);
    }
}

/// Unmounts, and says so if it cannot.
pub fn unmount(at: &Path) {
    let done = Command::new("umount").arg(at).output().unwrap();
    if !done.status.success() {
        eprintln!("umount: {}", String::from_utf8_lossy(&done.stderr));
    }
}

/// Runs e2fsck after each of the layers, and returns the tree of the whole; `None`, and prints
/// SKIPPED, where mounting is not allowed.
#[track_caller]
pub fn tree(blobs: &[PathBuf]) -> Option<Tree> {
    let scratch = tempfile::tempdir().unwrap();
    let raw = scratch.path().join("raw");
    for count in 1..=blobs.len() {
        disk(&blobs[..count], &raw);
        if let Err(said) = e2fsck(&raw) {
            panic!("after layer {count} of {}: {said}", blobs.len());
        }
    }
    if !super::is_root("mounting") {
        return None;
    }
    let mount = Mount::new(&raw, &scratch.path().join("mount"));
    Some(Tree::of(mount.path()))
}
