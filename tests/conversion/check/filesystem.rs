//! Filesystems that the kernel and the reference's tools wrote, read by `check`.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use overlaybd_proxy::check::{Tree, What};
use overlaybd_proxy::format::blob::{LayerBlob, Stack};
use overlaybd_proxy::format::block::{BlockDevice, BlockDeviceMut, FileDevice, MemDevice};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::trees::*;

/// A loop mount, taken down when dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(image: &Path, at: &Path, options: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        run(
            "mount",
            &["-t", "ext4", "-o", options, text(image), text(at)],
        );
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A child that another test starts has this process's files open until it calls `exec`.
        for _ in 0..50 {
            if Command::new("umount")
                .arg(&self.0)
                .status()
                .unwrap()
                .success()
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        run("umount", &[text(&self.0)]);
    }
}

/// What is hard for a reader of ext4: hashed directories, deep extent trees, attributes in
/// blocks, many names, and what is left where something was removed.
fn hard(root: &Path) {
    everything(&root.join("everything"));
    attributes(&root.join("everything"));
    let many = root.join("many");
    fs::create_dir(&many).unwrap();
    for number in 0..6000 {
        fs::write(
            many.join(format!("name number {number}")),
            format!("{number}"),
        )
        .unwrap();
    }
    for number in (0..6000).step_by(3) {
        fs::remove_file(many.join(format!("name number {number}"))).unwrap();
    }
    for number in 0..300 {
        fs::hard_link(
            many.join("name number 1"),
            many.join(format!("link {number}")),
        )
        .unwrap();
        fs::create_dir(many.join(format!("directory {number}"))).unwrap();
    }
    // Extents that cannot grow together.
    let holes = File::create(root.join("scattered")).unwrap();
    for piece in 0..2000u64 {
        holes
            .write_all_at(&piece.to_le_bytes(), piece * 8192 + 4090)
            .unwrap();
    }
    holes.sync_all().unwrap();
    let allocated = File::create(root.join("allocated")).unwrap();
    nix::fcntl::fallocate(&allocated, nix::fcntl::FallocateFlags::empty(), 0, 1 << 20).unwrap();
    allocated.write_all_at(b"in the middle", 500_000).unwrap();
    for length in [59, 60, 61, 4000] {
        symlink("x".repeat(length), root.join(format!("link{length}"))).unwrap();
    }
    let attributed = root.join("attributed");
    fs::write(&attributed, "x").unwrap();
    for number in 0..20 {
        xattr::set(&attributed, format!("user.a{number}"), &[number; 150]).unwrap();
    }
    for (name, secs) in [("year 1901", -(1i64 << 31)), ("year 2446", 15_032_385_535)] {
        fs::write(root.join(name), "").unwrap();
        set_mtime(&root.join(name), secs, 999_999_999);
    }
}

#[test]
fn a_filesystem_that_the_kernel_wrote_is_read_as_the_kernel_reads_it() {
    if !is_root() || !has("mke2fs") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let at = place.path().join("mount");
    for options in [
        "^has_journal,64bit,sparse_super2,flex_bg",
        "^has_journal,^64bit,metadata_csum,sparse_super",
        "^has_journal,64bit,metadata_csum_seed,^flex_bg,^dir_index",
    ] {
        let image = place.path().join("image");
        File::create(&image).unwrap().set_len(512 << 20).unwrap();
        run(
            "mke2fs",
            &[
                "-q",
                "-t",
                "ext4",
                "-b",
                "4096",
                "-O",
                options,
                text(&image),
            ],
        );
        {
            let mount = Mount::new(&image, &at, "rw,loop");
            hard(&mount.0);
        }
        let seen = {
            let mount = Mount::new(&image, &at, "ro,loop");
            walk(&mount.0)
        };
        let read = Tree::from_filesystem(FileDevice::open(&image).unwrap()).unwrap();
        assert!(read.len() > 4000, "{options}");
        assert_same(&seen, &read);
    }
}

#[test]
fn the_references_blobs_hold_what_their_source_layers_make() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let sources = (0..3).map(|number| {
        let file = File::open(golden.join(format!("layer{number}.tar.gz"))).unwrap();
        flate2::read::MultiGzDecoder::new(file)
    });
    let source = Tree::from_layers(sources).unwrap();
    for set in ["lz4-4", "lz4-64", "zstd-16"] {
        let layers = (0..3).map(|number| {
            let path = golden.join(set).join(format!("{number}.obd"));
            let device = FileDevice::open(&path).unwrap();
            Arc::new(LayerBlob::open(Arc::new(device)).unwrap())
        });
        let stack = Stack::new(layers.collect()).unwrap();
        let converted = Tree::from_filesystem(stack).unwrap();
        let differences = source.differences(&converted, 100);
        let lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
        // What the reference does otherwise than the specification has it.
        let known = |line: &&String| line.starts_with("/lost+found: ") || line.starts_with("/: ");
        let unknown: Vec<&String> = lines.iter().filter(|line| !known(line)).collect();
        assert!(unknown.is_empty(), "{set}: {unknown:#?}");
        assert!(
            differences.iter().any(|one| one.what == What::Extra),
            "{set}: {lines:#?}"
        );
    }
}

/// A small filesystem of all kinds, in memory.
fn small() -> Option<MemDevice> {
    if !is_root() || !has("mke2fs") {
        return None;
    }
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    everything(&root);
    attributes(&root);
    let image = place.path().join("image");
    File::create(&image).unwrap().set_len(16 << 20).unwrap();
    run(
        "mke2fs",
        &[
            "-q",
            "-t",
            "ext4",
            "-O",
            "^has_journal",
            "-d",
            text(&root),
            text(&image),
        ],
    );
    let mut bytes = Vec::new();
    File::open(&image).unwrap().read_to_end(&mut bytes).unwrap();
    let mut device = MemDevice::new(bytes.len() as u64);
    device.write_at(0, &bytes).unwrap();
    Some(device)
}

/// Notes what is read.
struct Noting<'a>(&'a MemDevice, RefCell<Vec<(u64, u64)>>);

impl BlockDevice for Noting<'_> {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.1.borrow_mut().push((offset, buf.len() as u64));
        self.0.read_at(offset, buf)
    }
}

#[test]
fn no_damage_makes_the_ext4_reader_panic_or_loop() {
    let Some(device) = small() else {
        return;
    };
    let noting = Noting(&device, RefCell::default());
    let whole = Tree::from_filesystem(&noting).unwrap();
    // Large reads are of files' content.
    let mut reads = noting.1.take();
    reads.retain(|(_, len)| *len <= 1024);
    let change = (0..reads.len(), any::<u64>(), any::<u8>());
    let strategy = prop::collection::vec(change, 1..6);
    let config = ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let (refused, seen) = (Cell::new(0), Cell::new(0));
    TestRunner::new(config)
        .run(&strategy, |changes| {
            let mut damaged = device.clone();
            for (read, at, byte) in changes {
                let (start, len) = reads[read];
                let at = start + at % len;
                let mut sector = [0; 512];
                damaged.read_at(at / 512 * 512, &mut sector).unwrap();
                sector[usize::try_from(at % 512).unwrap()] = byte;
                damaged.write_at(at / 512 * 512, &sector).unwrap();
            }
            match Tree::from_filesystem(&damaged) {
                Err(_) => refused.set(refused.get() + 1),
                Ok(tree) if !whole.differences(&tree, 1).is_empty() => seen.set(seen.get() + 1),
                Ok(_) => {}
            }
            Ok(())
        })
        .unwrap();
    let (refused, seen) = (refused.get(), seen.get());
    println!("{refused} refused, {seen} different");
    assert!(refused > 10 && seen > 10);
}
