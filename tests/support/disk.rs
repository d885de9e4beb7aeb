//! A disk that is small, full or read-only.

use std::fs;
use std::path::{Path, PathBuf};

/// A file system of its own, in memory.
pub struct Disk(tempfile::TempDir);

impl Disk {
    /// `None`, and prints SKIPPED, where nothing can be mounted.
    pub fn new(size: &str) -> Option<Self> {
        if !super::is_root("a disk of its own") {
            return None;
        }
        let place = tempfile::tempdir().unwrap();
        let mut mount = super::command("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]);
        let mounted = mount.arg(place.path()).output().unwrap();
        if !mounted.status.success() {
            super::skip("a tmpfs cannot be mounted here");
            return None;
        }
        Some(Self(place))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Takes all of the room there is.
    pub fn fill(&self) {
        use std::io::Write as _;
        let mut file = fs::File::create(self.filler()).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        let mut small = fs::File::create(self.path().join("last")).unwrap();
        assert!(small.write_all(b"x").is_err(), "there is room left");
    }

    /// Gives that back.
    pub fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    /// Mounts it anew, `rw` or `ro`.
    pub fn remount(&self, how: &str) {
        let mut mount = super::command("mount");
        let mount = mount.args(["-o", &format!("remount,{how}")]);
        super::run(mount.arg(self.path()));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = super::command("umount").arg("-l").arg(self.path()).output();
    }
}
