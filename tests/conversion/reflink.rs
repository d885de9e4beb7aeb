//! A layout on a file system whose files can share blocks: what a store that stays has is not stored
//! twice.

use crate::support;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use support::image::Image;
use support::layout::Layout;
use support::noise;
use support::proxy::program;
use support::tar::Tar;

/// A file system of its own, in a file.
struct Disk {
    place: PathBuf,
    _scratch: tempfile::TempDir,
}

impl Disk {
    /// `None`, and prints SKIPPED, where such a one cannot be made or mounted.
    fn new(make: &[&str]) -> Option<Self> {
        if !support::is_root("a disk of its own") || !support::have(&[make[0], "filefrag"]) {
            return None;
        }
        let scratch = tempfile::tempdir().unwrap();
        let (image, place) = (scratch.path().join("image"), scratch.path().join("disk"));
        let file = fs::File::create(&image).unwrap();
        file.set_len(400 << 20).unwrap();
        fs::create_dir(&place).unwrap();
        support::run(support::command(make[0]).args(&make[1..]).arg(&image));
        let mut mount = support::command("mount");
        mount.args(["-o", "loop"]).arg(&image).arg(&place);
        let mounted = mount.output().unwrap();
        if !mounted.status.success() {
            support::skip(&format!("{} cannot be mounted here: {mounted:?}", make[0]));
            return None;
        }
        Some(Self {
            place,
            _scratch: scratch,
        })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let umount = support::command("umount").arg(&self.place).output();
        assert!(umount.is_ok_and(|umount| umount.status.success()));
    }
}

/// Whether another file has the same blocks, as the kernel says (FIEMAP).
fn shares_blocks(file: &Path) -> bool {
    support::run(support::command("sync").arg("-f").arg(file));
    let said = support::run(support::command("filefrag").arg("-v").arg(file));
    String::from_utf8_lossy(&said.stdout).contains("shared")
}

#[test]
fn a_layout_shares_the_blocks_of_the_data_directory() {
    for make in [
        &["mkfs.xfs", "-q", "-m", "reflink=1"][..],
        &["mkfs.btrfs", "-q"],
    ] {
        let Some(disk) = Disk::new(make) else {
            continue;
        };
        let from = Layout::create(&disk.place.join("from"));
        let tar = Tar::new().file("file", noise(1, 3 << 20)).finish();
        from.add("1", &Image::gzip(&[tar]).seal());
        let (data, to) = (disk.place.join("data"), disk.place.join("to"));
        let mut convert = program();
        convert.args(["convert", "-q", "--data-dir"]).arg(&data);
        convert.arg(format!("oci:{}:1", from.path().display()));
        convert.arg(format!("oci:{}:1", to.display()));
        support::run(&mut convert);

        let mut layers = 0;
        for entry in fs::read_dir(to.join("blobs/sha256")).unwrap() {
            let path = entry.unwrap().path();
            let hex = path.file_name().unwrap().to_str().unwrap();
            let bytes = fs::read(&path).unwrap();
            assert_eq!(support::sha256(&bytes), format!("sha256:{hex}"));
            let kept = data.join("blobs/sha256").join(&hex[..2]).join(hex);
            let (kept_is, there) = (fs::metadata(&kept), fs::metadata(&path).unwrap());
            if bytes.len() > 1 << 20 {
                layers += 1;
                let kept_is = kept_is.unwrap();
                assert_ne!((kept_is.ino(), kept_is.mode()), (there.ino(), there.mode()));
                assert!(shares_blocks(&path), "{make:?} {}", path.display());
                assert!(shares_blocks(&kept), "{make:?} {}", kept.display());
                // What is done to the layout's file is not done to the store's.
                fs::write(&path, "changed").unwrap();
                assert_eq!(fs::read(&kept).unwrap(), bytes);
            }
        }
        assert_eq!(layers, 1, "{make:?}");
    }
}
