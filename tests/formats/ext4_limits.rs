//! The ext4 engine at its limits: sizes, counts, names, and disks that are full.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::single_range_in_vec_init
)]

use crate::{ext4_support, overlaybd, verifier};
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Instant;

use ext4_support::{Lab, Layer, Tree, fill, format, plain, write};
use overlaybd_proxy::format::blob::{
    Algorithm, BlockSize, CompressPool, LayerBlob, LayerSpec, LayerWriter, Stack, export,
};
use overlaybd_proxy::format::block::{BlockDevice, FileDevice, MemDevice};
use overlaybd_proxy::format::ext4::{
    Attributes, Error, FileType, Filesystem, FormatOptions, NodeKind, Timestamp,
};

fn finish(mut fs: Filesystem<MemDevice>) -> MemDevice {
    fs.flush().unwrap();
    fs.replace_device(MemDevice::new(0))
}

#[test]
fn a_disk_of_any_size_is_formatted_and_clean() {
    let lab = Lab::new();
    let group = 128 << 20;
    for size in [
        1 << 20,
        (1 << 20) + 4095,
        16 << 20,
        group,
        group + 4096,
        group + (1 << 20),
        group + (4 << 20),
        2 * group,
        2 * group + (5 << 20),
        16 * group + (1 << 20),
        16 * group + (5 << 20),
        17 * group,
        64 << 30,
        (64 << 30) + (3 << 20),
    ] {
        let mut fs = format(size);
        write(&mut fs, 2, b"f", &[7; 10_000]);
        let disk = finish(fs);
        lab.assert_clean(&disk);
        let mut fs = Filesystem::open(disk).unwrap();
        assert_eq!(fs.view(3 + 8).content, [7; 10_000]);
    }
    let mut rng = ext4_support::Rng(9);
    for _ in 0..25 {
        let scale = 20 + rng.below(13);
        let size = rng.below(3 << scale) + (1 << 20);
        let mut fs = format(size);
        let used = fs.create(2, b"d", &NodeKind::Directory, &plain());
        assert!(used.is_ok());
        lab.assert_clean(&finish(fs));
    }
    for (size, expected) in [
        (0, "too small"),
        ((1 << 20) - 1, "too small"),
        (1 << 60, "too large"),
    ] {
        let error = Filesystem::format(MemDevice::new(size), &FormatOptions::default());
        let error = error.err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn formatting_a_large_disk_writes_little_but_bitmaps() {
    let layer = Layer::over(MemDevice::new(1 << 40));
    let mut fs = Filesystem::format(layer, &FormatOptions::default()).unwrap();
    fs.flush().unwrap();
    let (groups, flex) = (8192, 8192 / 16);
    let written = fs.device_mut().written_bytes();
    // Inode bitmaps, the block bitmaps of groups with tables, three sets of descriptors.
    let expected = groups + flex + 3 * groups / 64;
    assert!(
        (expected..expected + 16).contains(&(written / 4096)),
        "{}",
        written / 4096
    );
}

fn spec(size: u64, algorithm: Algorithm, block_size: BlockSize) -> LayerSpec {
    LayerSpec {
        virtual_size: size,
        algorithm,
        block_size,
        uuid: "01234567-89AB-CDEF-0123-456789ABCDEF".into(),
        parent_uuid: String::new(),
    }
}

/// Makes one layer's blob over `lower`: its size, and the blob.
fn blob(
    lower: &Stack,
    algorithm: Algorithm,
    block_size: BlockSize,
    change: impl FnOnce(LayerWriter) -> LayerWriter,
) -> (u64, Arc<LayerBlob>) {
    let pool = CompressPool::new(2).unwrap();
    let out = tempfile::tempfile().unwrap();
    let spec = spec(lower.size(), algorithm, block_size);
    let written = out.try_clone().unwrap();
    let writer = LayerWriter::create(Arc::new(lower.clone()), written, spec, &pool).unwrap();
    let finished = change(writer).finish("").unwrap().seal().unwrap();
    let device = FileDevice::new(out).unwrap();
    let mut bytes = vec![0; finished.size as usize];
    device.read_at(0, &mut bytes).unwrap();
    overlaybd::assert_blob("a layer", &bytes);
    (
        finished.size,
        Arc::new(LayerBlob::open(Arc::new(device)).unwrap()),
    )
}

fn empty_writer() -> LayerWriter {
    let pool = CompressPool::new(1).unwrap();
    let lower = Arc::new(Stack::empty(0));
    let spec = spec(0, Algorithm::Lz4, BlockSize::KIB_4);
    LayerWriter::create(lower, tempfile::tempfile().unwrap(), spec, &pool).unwrap()
}

#[test]
fn the_empty_filesystem_is_small_and_so_is_a_small_change() {
    let lab = Lab::new();
    for (algorithm, block_size) in [
        (Algorithm::Lz4, BlockSize::KIB_4),
        (Algorithm::Lz4, BlockSize::KIB_64),
        (Algorithm::Zstd, BlockSize::KIB_32),
    ] {
        let mut stack = Stack::empty(64 << 30);
        let (size, layer) = blob(&stack, algorithm, block_size, |writer| {
            let mut fs = Filesystem::format(writer, &FormatOptions::default()).unwrap();
            fs.flush().unwrap();
            fs.replace_device(empty_writer())
        });
        println!("empty filesystem of 64 GiB: {size} bytes");
        assert!(size < 128 << 10, "{size}");
        stack.push(layer).unwrap();

        let (size, layer) = blob(&stack, algorithm, block_size, |writer| {
            let mut fs = Filesystem::open(writer).unwrap();
            let content = ext4_support::Rng(1).bytes(1 << 20);
            for n in 0..100 {
                write(&mut fs, 2, format!("file {n}").as_bytes(), &content);
            }
            fs.flush().unwrap();
            fs.replace_device(empty_writer())
        });
        assert!(size > 100 << 20, "{size}");
        stack.push(layer).unwrap();

        let (size, layer) = blob(&stack, algorithm, block_size, |writer| {
            let mut fs = Filesystem::open(writer).unwrap();
            write(&mut fs, 2, b"new", &ext4_support::Rng(2).bytes(8 << 10));
            fs.flush().unwrap();
            fs.replace_device(empty_writer())
        });
        println!("8 KiB more: {size} bytes");
        assert!(size < 64 << 10, "{size}");
        stack.push(layer).unwrap();

        let (size, _) = blob(&stack, algorithm, block_size, |writer| {
            let mut fs = Filesystem::open(writer).unwrap();
            fs.flush().unwrap();
            fs.replace_device(empty_writer())
        });
        assert!(size < 10 << 10, "{size}");
        let raw = lab.path("stack");
        export(&stack, &File::create(&raw).unwrap(), |_| {}).unwrap();
        verifier::e2fsck(&raw);
    }
}

#[test]
fn a_hundred_thousand_names_in_one_directory_are_added_and_removed() {
    let start = Instant::now();
    let lab = Lab::new();
    let mut fs = Filesystem::format(
        Layer::over(MemDevice::new(64 << 30)),
        &FormatOptions::default(),
    )
    .unwrap();
    let dir = fs.create(2, b"d", &NodeKind::Directory, &plain()).unwrap();
    let name = |n: u32| format!("some-file-{n}.js").into_bytes();
    for n in 0..100_000 {
        assert!(fs.lookup(dir, &name(n)).unwrap().is_none());
        let ino = fs.create(dir, &name(n), &NodeKind::File, &plain()).unwrap();
        fs.allocate(ino, 500, &[0..500]).unwrap();
    }
    fs.flush().unwrap();
    println!("100,000 files: {:?}", start.elapsed());
    let disk = fs.replace_device(Layer::over(MemDevice::new(0))).finish();
    lab.assert_clean(&disk);

    let mut fs = Filesystem::open(Layer::over(disk)).unwrap();
    for n in (0..100_000).filter(|n| n % 3 != 0) {
        fs.unlink(dir, &name(n)).unwrap();
    }
    assert_eq!(fs.entries(dir).unwrap().len(), 33_334);
    for n in 0..100_000 {
        assert_eq!(fs.lookup(dir, &name(n)).unwrap().is_some(), n % 3 == 0);
    }
    fs.flush().unwrap();
    let disk = fs.replace_device(Layer::over(MemDevice::new(0))).finish();
    lab.assert_clean(&disk);

    let mut fs = Filesystem::open(Layer::over(disk)).unwrap();
    fs.remove_tree(2, b"d").unwrap();
    fs.flush().unwrap();
    let disk = fs.replace_device(Layer::over(MemDevice::new(0))).finish();
    lab.assert_clean(&disk);
    println!("and gone: {:?}", start.elapsed());
}

#[test]
fn more_metadata_than_the_cache_holds_is_written_correctly() {
    let lab = Lab::new();
    let layer = Layer::over(MemDevice::new(64 << 30));
    let mut fs = Filesystem::format(layer, &FormatOptions::default()).unwrap();
    let name = |n: u32| format!("n{n}").into_bytes();
    // Two rounds, so that what was put away is needed again. Each 68,000 inodes are 4,250
    // blocks.
    let dirs: Vec<_> = (0..4)
        .map(|n| {
            fs.create(2, &name(n), &NodeKind::Directory, &plain())
                .unwrap()
        })
        .collect();
    for dir in &dirs {
        for n in 0..68_000 {
            fs.create(*dir, &name(n), &NodeKind::Fifo, &plain())
                .unwrap();
        }
    }
    for dir in &dirs {
        for n in (0..68_000).step_by(5) {
            fs.unlink(*dir, &name(n)).unwrap();
        }
    }
    fs.flush().unwrap();
    let disk = fs.replace_device(Layer::over(MemDevice::new(0))).finish();
    lab.assert_clean(&disk);
    let mut fs = Filesystem::open(disk).unwrap();
    for dir in dirs {
        let names = fs.children(dir);
        assert!((0..68_000).all(|n| names.contains_key(&name(n)) == (n % 5 != 0)));
    }
}

#[test]
fn an_index_of_several_levels_is_clean() {
    // Long names in small blocks: four a block, so that levels come soon.
    for (options, names) in [
        (
            &["-t", "ext4", "-b", "1024", "-O", "^has_journal"][..],
            16_000,
        ),
        (
            &["-t", "ext4", "-b", "1024", "-O", "^has_journal,large_dir"],
            40_000,
        ),
    ] {
        let lab = Lab::new();
        let options = [options, &["-N", "50000"]].concat();
        let disk = lab.mke2fs(128 << 20, &options);
        let mut fs = Filesystem::open(disk).unwrap();
        let dir = fs.create(2, b"d", &NodeKind::Directory, &plain()).unwrap();
        let target = fs.create(2, b"f", &NodeKind::Fifo, &plain()).unwrap();
        let name = |n: u32| format!("{n:0>240}").into_bytes();
        for n in 0..names {
            fs.link(dir, &name(n), target).unwrap();
        }
        let disk = finish(fs);
        lab.assert_clean(&disk);
        let (_, said) = lab.debugfs(&disk, "htree_dump /d\n");
        let levels = said
            .lines()
            .find(|line| line.contains("Indirect levels"))
            .unwrap();
        println!("{levels}");
        let expected = if names > 20_000 { 2 } else { 1 };
        assert!(levels.ends_with(&expected.to_string()), "{levels}");
        let mut fs = Filesystem::open(disk).unwrap();
        for n in 0..names {
            assert_eq!(fs.lookup(dir, &name(n)).unwrap().unwrap().ino, target);
        }
    }
}

#[test]
fn a_full_directory_is_an_error() {
    let disk = Lab::new().mke2fs(
        256 << 20,
        &["-t", "ext4", "-b", "1024", "-O", "^has_journal"],
    );
    let mut fs = Filesystem::open(disk).unwrap();
    let target = fs.create(2, b"f", &NodeKind::Fifo, &plain()).unwrap();
    let mut error = None;
    for n in 0..65_000 {
        if let Err(refused) = fs.link(2, format!("{n:0>255}").as_bytes(), target) {
            error = Some(refused);
            break;
        }
    }
    assert!(matches!(error, Some(Error::DirectoryFull)), "{error:?}");
}

#[test]
fn over_65_000_directories_in_one_stop_being_counted() {
    let lab = Lab::new();
    let mut fs = format(4 << 30);
    let dir = fs.create(2, b"d", &NodeKind::Directory, &plain()).unwrap();
    let name = |n: u32| format!("{n}").into_bytes();
    let mut made = 0;
    let mut disk = None;
    for count in [64_996, 64_997, 64_998, 64_999, 65_010] {
        while made < count {
            fs.create(dir, &name(made), &NodeKind::Directory, &plain())
                .unwrap();
            made += 1;
        }
        fs.flush().unwrap();
        let links = fs.metadata(dir).unwrap().links;
        assert_eq!(links, if count + 2 < 65_000 { count + 2 } else { 1 });
        if count >= 64_997 {
            let now = fs.replace_device(MemDevice::new(0));
            lab.assert_clean(&now);
            fs.replace_device(now.clone());
            disk = Some(now);
        }
    }
    // Both from memory and from the disk.
    let mut again = Filesystem::open(disk.unwrap()).unwrap();
    for fs in [&mut fs, &mut again] {
        for n in (64_990..made).rev() {
            fs.remove_tree(dir, &name(n)).unwrap();
            let links = fs.metadata(dir).unwrap().links;
            assert_eq!(links, if n + 2 < 65_000 { n + 2 } else { 1 });
        }
        fs.flush().unwrap();
    }
    let disk = again.replace_device(MemDevice::new(0));
    lab.assert_clean(&disk);
    assert_eq!(
        ext4_support::digest(&disk),
        ext4_support::digest(&fs.replace_device(MemDevice::new(0)))
    );
}

#[test]
fn a_file_has_65_000_links_and_no_more() {
    let mut fs = format(64 << 20);
    let ino = write(&mut fs, 2, b"f", b"data");
    for n in 1..65_000 {
        fs.link(2, format!("{n}").as_bytes(), ino).unwrap();
    }
    assert!(matches!(fs.link(2, b"more", ino), Err(Error::TooManyLinks)));
    assert_eq!(fs.metadata(ino).unwrap().links, 65_000);
    let disk = finish(fs);
    Lab::new().assert_clean(&disk);
    let mut fs = Filesystem::open(disk).unwrap();
    fs.unlink(2, b"77").unwrap();
    fs.link(2, b"more", ino).unwrap();
    Lab::new().assert_clean(&finish(fs));
}

#[test]
fn symbolic_links_are_kept_to_the_byte_up_to_4095() {
    let mut fs = format(16 << 20);
    let targets: Vec<Vec<u8>> = [1, 58, 59, 60, 61, 4094, 4095]
        .iter()
        .map(|length| (0..*length).map(|n| (n % 254 + 1) as u8).collect())
        .collect();
    for target in &targets {
        let kind = NodeKind::Symlink(target.clone());
        let name = target.len().to_string();
        fs.create(2, name.as_bytes(), &kind, &plain()).unwrap();
    }
    for (target, problem) in [
        (vec![b'x'; 4096], "4,095"),
        (Vec::new(), "empty"),
        (b"a\0b".to_vec(), "NUL"),
    ] {
        let error = fs.create(2, b"bad", &NodeKind::Symlink(target), &plain());
        let error = error.unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
    let mut fs = format(16 << 20);
    for target in &targets {
        let kind = NodeKind::Symlink(target.clone());
        let name = target.len().to_string();
        fs.create(2, name.as_bytes(), &kind, &plain()).unwrap();
    }
    let lab = Lab::new();
    let disk = finish(fs);
    lab.assert_clean(&disk);
    let mut fs = Filesystem::open(disk.clone()).unwrap();
    for target in &targets {
        let found = fs
            .lookup(2, target.len().to_string().as_bytes())
            .unwrap()
            .unwrap();
        assert_eq!(fs.read_link(found.ino).unwrap(), *target);
    }
    if let Some(mount) = verifier::Mount::new(&lab.raw(&disk), &lab.path("mount")) {
        verifier::same(&verifier::walk(mount.path()), &fs.lines());
    }
}

#[test]
fn names_are_any_bytes_up_to_255() {
    let mut fs = format(16 << 20);
    for name in [&[0xff; 255][..], b" ", b"\n", b"...", b"\xe9"] {
        fs.create(2, name, &NodeKind::Fifo, &plain()).unwrap();
        let again = fs.create(2, name, &NodeKind::Fifo, &plain());
        assert!(matches!(again, Err(Error::Exists(_))));
    }
    for name in [&[b'x'; 256][..], b"", b".", b"..", b"a/b", b"a\0b"] {
        let error = fs.create(2, name, &NodeKind::Fifo, &plain());
        assert!(matches!(error, Err(Error::Name { .. })), "{error:?}");
        assert!(fs.lookup(2, name).unwrap().is_none());
    }
    Lab::new().assert_clean(&finish(fs));
}

#[test]
fn attributes_of_any_size_that_fits_are_stored() {
    let lab = Lab::new();
    let mut fs = format(32 << 20);
    let pair = |name: &str, size: usize| {
        let value = (0..size).map(|n| n as u8).collect::<Vec<u8>>();
        (name.as_bytes().to_vec(), value)
    };
    // What an inode holds beside one entry with a name of one byte: 92 bytes less two ends,
    // an entry of 20. A block: 4096 less 36 and the entry.
    // The kernel looks into this one: VFS_CAP_REVISION_2, effective, and one bit.
    let mut capability = vec![1, 0, 0, 2, 0, 4];
    capability.resize(20, 0);
    let sets = [
        vec![pair("user.a", 0)],
        vec![pair("user.a", 68)],
        vec![pair("user.a", 69)],
        vec![pair("user.a", 4040)],
        vec![pair("user.a", 4040), pair("user.b", 0), pair("user.c", 20)],
        vec![
            pair("trusted.b", 50),
            (b"security.capability".to_vec(), capability),
            pair("user.c", 3),
        ],
        vec![pair(&format!("user.{}", "n".repeat(250)), 100)],
        vec![(b"user.\xe9\xff".to_vec(), vec![0xff; 200])],
        (0..100)
            .map(|n| pair(&format!("user.{n}"), n % 20))
            .collect(),
    ];
    for (n, xattrs) in sets.iter().enumerate() {
        let attributes = Attributes {
            xattrs: xattrs.clone(),
            ..plain()
        };
        let name = format!("f{n}");
        fs.create(2, name.as_bytes(), &NodeKind::File, &attributes)
            .unwrap();
    }
    let mut expected = fs.lines();
    let disk = finish(fs);
    lab.assert_clean(&disk);
    let mut fs = Filesystem::open(disk.clone()).unwrap();
    verifier::same(&fs.lines(), &expected);
    if let Some(mount) = verifier::Mount::new(&lab.raw(&disk), &lab.path("mount")) {
        verifier::same(&verifier::walk(mount.path()), &expected);
    }
    // And each in place of another.
    for n in 0..sets.len() {
        let ino = fs
            .lookup(2, format!("f{n}").as_bytes())
            .unwrap()
            .unwrap()
            .ino;
        let xattrs = sets[(n + 3) % sets.len()].clone();
        fs.set_attributes(ino, &Attributes { xattrs, ..plain() })
            .unwrap();
    }
    expected = fs.lines();
    let disk = finish(fs);
    lab.assert_clean(&disk);
    verifier::same(&Filesystem::open(disk).unwrap().lines(), &expected);

    for (xattrs, problem) in [
        (vec![pair("user.a", 4041)], "does not fit"),
        (
            vec![pair("user.a", 4040), pair("user.b", 69)],
            "does not fit",
        ),
        (vec![pair("user.a", 70_000)], "longer"),
        (vec![pair("user.", 1)], "name"),
        (vec![pair(&format!("user.{}", "n".repeat(251)), 1)], "name"),
        (vec![pair("com.apple.a", 1)], "prefix"),
        (vec![pair("user.a", 1), pair("user.a", 2)], "twice"),
        (vec![pair("system.posix_acl_access", 12)], "POSIX ACL"),
    ] {
        let mut fs = format(16 << 20);
        let error = fs.create(2, b"f", &NodeKind::File, &Attributes { xattrs, ..plain() });
        let error = error.unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn device_numbers_and_times_are_stored_up_to_their_limits() {
    let lab = Lab::new();
    let mut fs = format(16 << 20);
    for (n, (major, minor)) in [
        (0, 0),
        (1, 3),
        (255, 255),
        (256, 0),
        (0, 256),
        (4095, 0xf_ffff),
    ]
    .into_iter()
    .enumerate()
    {
        let kind = NodeKind::CharDevice { major, minor };
        fs.create(2, format!("d{n}").as_bytes(), &kind, &plain())
            .unwrap();
    }
    for (n, secs) in [
        -(1_i64 << 31),
        -1,
        0,
        (1 << 31) - 1,
        1 << 31,
        (1 << 32) - 1,
        1 << 32,
        3 << 32,
        (1 << 34) - (1 << 31) - 1,
    ]
    .into_iter()
    .enumerate()
    {
        for nanos in [0, 1, 999_999_999] {
            let attributes = Attributes {
                mtime: Timestamp { secs, nanos },
                ..plain()
            };
            let name = format!("t{n} {nanos}");
            fs.create(2, name.as_bytes(), &NodeKind::Fifo, &attributes)
                .unwrap();
        }
    }
    let expected = fs.lines();
    assert!(expected["/t8 1"].contains("15032385535.000000001"));
    assert!(expected["/d5"].contains("4095,1048575"));
    let disk = finish(fs);
    lab.assert_clean(&disk);
    if let Some(mount) = verifier::Mount::new(&lab.raw(&disk), &lab.path("mount")) {
        verifier::same(&verifier::walk(mount.path()), &expected);
    }
    let mut fs = format(16 << 20);
    for (major, minor) in [(4096, 0), (0, 1 << 20)] {
        let kind = NodeKind::BlockDevice { major, minor };
        let error = fs.create(2, b"x", &kind, &plain());
        assert!(matches!(error, Err(Error::Device { .. })), "{error:?}");
    }
}

#[test]
fn a_fragmented_file_has_a_deep_extent_tree() {
    let lab = Lab::new();
    for block_size in ["1024", "4096"] {
        for csum in ["metadata_csum", "^metadata_csum"] {
            let features = format!("^has_journal,{csum}");
            let options = ["-t", "ext4", "-b", block_size, "-O", &features];
            let mut fs = Filesystem::open(lab.mke2fs(256 << 20, &options)).unwrap();
            let block = u64::from(fs.block_size());
            let mut inos = Vec::new();
            for pieces in [4, 5, 84, 85, 336, 337, 340, 341, 1360, 1361, 29_000] {
                if block == 4096 && pieces > 20_000 {
                    continue;
                }
                let ranges: Vec<_> = (0..pieces)
                    .map(|n| n * 2 * block..(n * 2 + 1) * block)
                    .collect();
                let size = (pieces * 2 * block) as usize;
                let data: Vec<u8> = (0..size)
                    .map(|at| {
                        if (at as u64 / block).is_multiple_of(2) {
                            (at as u64 / block / 2 % 255) as u8 + 1
                        } else {
                            0
                        }
                    })
                    .collect();
                let name = format!("p{pieces}");
                let ino = fs
                    .create(2, name.as_bytes(), &NodeKind::File, &plain())
                    .unwrap();
                fill(&mut fs, ino, &data, &ranges);
                inos.push((name, ino, data));
            }
            fs.flush().unwrap();
            let mut disk = fs.replace_device(MemDevice::new(0));
            lab.assert_clean(&disk);
            if let Some(mount) = verifier::Mount::new(&lab.raw(&disk), &lab.path("mount")) {
                for (name, _, data) in &inos {
                    assert!(
                        std::fs::read(mount.path().join(name)).unwrap() == *data,
                        "{name}"
                    );
                }
            }
            let mut fs = Filesystem::open(disk).unwrap();
            for (name, ino, data) in &inos {
                let mut read = vec![0; data.len()];
                fs.read_file(*ino, 0, &mut read).unwrap();
                assert!(read == *data, "{name}");
                let odd = data.len() / 3;
                fs.read_file(*ino, odd as u64, &mut read[odd..]).unwrap();
                assert!(read == *data, "{name}");
                fs.unlink(2, name.as_bytes()).unwrap();
            }
            disk = finish(fs);
            lab.assert_clean(&disk);
        }
    }
}

#[test]
fn files_are_limited_to_the_maximum_of_ext4() {
    let lab = Lab::new();
    let mut fs = format(16 << 30);
    let most = (u64::from(u32::MAX)) * 4096;
    for (name, size, range) in [
        ("5 GiB", 5 << 30, 0..5 << 30),
        ("hole", 3 << 30, 0..0),
        ("most", most, most - 10..most),
        ("2 GiB", 1 << 31, (1 << 31) - 5..1 << 31),
    ] {
        let ino = fs
            .create(2, name.as_bytes(), &NodeKind::File, &plain())
            .unwrap();
        let ranges = if range.is_empty() {
            vec![]
        } else {
            vec![range.clone()]
        };
        let extents = fs.allocate(ino, size, &ranges).unwrap();
        let blocks: u64 = extents.iter().map(|extent| u64::from(extent.blocks)).sum();
        assert_eq!(blocks, range.end.div_ceil(4096) - range.start / 4096);
        // Long files stay nearly in one piece: an extent holds 128 MiB.
        assert!(
            extents.len() as u64 <= blocks / 32_768 + 8,
            "{}",
            extents.len()
        );
    }
    let ino = fs
        .create(2, b"too long", &NodeKind::File, &plain())
        .unwrap();
    let error = fs.allocate(ino, most + 1, &[]);
    assert!(
        matches!(error, Err(Error::FileTooLarge { .. })),
        "{error:?}"
    );
    for ranges in [&[5..5][..], &[0..11], &[4..6, 5..7], &[6..8, 2..4]] {
        assert!(matches!(
            fs.allocate(ino, 10, ranges),
            Err(Error::Ranges(10))
        ));
    }
    fs.unlink(2, b"too long").unwrap();
    let disk = finish(fs);
    lab.assert_clean(&disk);
    if let Some(mount) = verifier::Mount::new(&lab.raw(&disk), &lab.path("mount")) {
        for (name, size, blocks) in [
            ("5 GiB", 5 << 30, 5 << 21),
            ("most", most, 8),
            ("hole", 3 << 30, 0),
        ] {
            let metadata = std::fs::metadata(mount.path().join(name)).unwrap();
            assert_eq!(metadata.len(), size);
            // The blocks of the tree count as well.
            assert!((blocks..=blocks + 8).contains(&metadata.blocks()), "{name}");
        }
    }
    let mut fs = Filesystem::open(disk).unwrap();
    for name in ["5 GiB", "hole", "most", "2 GiB"] {
        fs.unlink(2, name.as_bytes()).unwrap();
    }
    lab.assert_clean(&finish(fs));
}

#[test]
fn a_full_disk_is_an_error() {
    let mut fs = format(16 << 20);
    let mut n = 0;
    let error = loop {
        let name = format!("f{n}");
        let ino = fs
            .create(2, name.as_bytes(), &NodeKind::File, &plain())
            .unwrap();
        // Of growing sizes, so that what is left is in pieces.
        if let Err(error) = fs.allocate(ino, n * 5000 + 1, &[0..n * 5000 + 1]) {
            break error;
        }
        n += 1;
    };
    assert_eq!(
        error.to_string(),
        "the disk of 16.00 MiB is full: raise --vsize"
    );

    // Every block can be taken, in whatever pieces, and given back.
    let mut fs = format(16 << 20);
    let small: Vec<String> = (0..500).map(|n| format!("s{n}")).collect();
    for name in &small {
        let ino = fs
            .create(2, name.as_bytes(), &NodeKind::File, &plain())
            .unwrap();
        fs.allocate(ino, 4096 * 7, &[0..4096 * 7]).unwrap();
    }
    for name in small.iter().step_by(2) {
        fs.unlink(2, name.as_bytes()).unwrap();
    }
    let lab = Lab::new();
    let disk = finish(fs);
    let (_, said) = lab.debugfs(&disk, "stats\n");
    let line = said
        .lines()
        .find(|line| line.starts_with("Free blocks:"))
        .unwrap();
    let free: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    let mut fs = Filesystem::open(disk).unwrap();
    let ino = fs.create(2, b"rest", &NodeKind::File, &plain()).unwrap();
    // One block is for the tree.
    let size = (free - 1) * 4096;
    let extents = fs.allocate(ino, size, &[0..size]).unwrap();
    assert!(extents.len() > 200);
    let disk = finish(fs);
    lab.assert_clean(&disk);
    let mut fs = Filesystem::open(disk).unwrap();
    assert!(matches!(
        fs.allocate(ino, size + 8192, &[0..size + 8192]),
        Err(Error::NoSpace { .. })
    ));

    let mut fs = format(1 << 20);
    let mut made = 0;
    let error = loop {
        let name = format!("{made}");
        match fs.create(2, name.as_bytes(), &NodeKind::Fifo, &plain()) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, Error::NoInodes { inodes: 64, .. }),
        "{error}"
    );
    assert_eq!(made, 64 - 10);
}

#[test]
fn blocks_freed_in_the_same_layer_take_no_space() {
    let mut fs = format(256 << 20);
    fs.flush().unwrap();
    let disk = fs.replace_device(MemDevice::new(0));
    let mut fs = Filesystem::open(Layer::over(disk)).unwrap();
    for n in 0..10 {
        write(&mut fs, 2, format!("{n}").as_bytes(), &vec![1; 1 << 20]);
    }
    for n in 0..10 {
        fs.unlink(2, format!("{n}").as_bytes()).unwrap();
    }
    fs.flush().unwrap();
    let layer = fs.device_mut();
    assert!(
        layer.written_bytes() < 64 << 10,
        "{}",
        layer.written_bytes()
    );
    assert_eq!(fs.metadata(2).unwrap().file_type, FileType::Directory);
}
