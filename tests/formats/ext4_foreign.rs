//! Filesystems that others made or broke: the kernel's, the reference tools', hostile ones.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::single_range_in_vec_init
)]

use crate::{ext4_support, verifier};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ext4_support::model::Model;
use ext4_support::{Lab, Layer, Rng, Tree, digest, format, load, plain, write};
use overlaybd_proxy::format::blob::{LayerBlob, Stack, export};
use overlaybd_proxy::format::block::{
    BlockDevice, BlockDeviceMut, FileDevice, MemDevice, ReadOnly,
};
use overlaybd_proxy::format::ext4::{Attributes, Error, Filesystem, NodeKind};

fn run(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
}

/// A filesystem that the kernel filled: every kind of file, an indexed directory, attributes
/// that files share, a file in many pieces.
fn by_the_kernel(lab: &Lab, options: &[&str]) -> Option<MemDevice> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: mounting needs root");
        return None;
    }
    let disk = lab.mke2fs(96 << 20, options);
    let (raw, at) = (lab.raw(&disk), lab.path("kernel"));
    std::fs::create_dir_all(&at).unwrap();
    let (raw, at) = (raw.display(), at.display());
    run(&format!(
        r"
        mount -o loop,rw {raw} {at}
        trap 'cd /; umount {at}' EXIT
        cd {at}
        mkdir -p a/b/c many
        for n in $(seq 800); do echo $n > many/a-rather-long-name-for-a-file-$n; done
        head -c 3000000 /dev/urandom > big
        for n in $(seq 0 2 160); do dd if=big of=pieces bs=1024 skip=$n seek=$n count=1 conv=notrunc 2>/dev/null; done
        truncate -s 90000000 sparse; echo end >> sparse
        ln big a/hard; ln -s short soft; ln -s $(head -c 300 /dev/zero | tr '\0' x) long
        mknod null c 1 3; mknod wide b 300 70000; mkfifo pipe
        value=$(head -c 600 /dev/zero | tr '\0' v)
        for n in 1 2 3; do touch x$n; setfattr -n user.shared -v $value x$n; done
        setfattr -n trusted.small -v s a; setfacl -m u:1000:rx a/b; setfacl -d -m g:5:r a/b
        chown 70000:80000 x1; chmod 6755 x2; touch -d '1950-01-01 00:00:00.5' x3
        "
    ));
    Some(load(Path::new(&raw.to_string())))
}

#[test]
fn filesystems_written_by_the_kernel_are_read_and_changed() {
    for (seed, options) in (0..).zip([
        &["-t", "ext4", "-b", "4096", "-O", "^has_journal"][..],
        &[
            "-t",
            "ext4",
            "-b",
            "1024",
            "-O",
            "^has_journal,^metadata_csum,uninit_bg",
        ],
        &["-t", "ext4", "-b", "1024"],
        &["-t", "ext2", "-b", "1024", "-I", "256"],
        &["-t", "ext3", "-b", "4096"],
    ]) {
        let lab = Lab::new();
        let Some(disk) = by_the_kernel(&lab, options) else {
            return;
        };
        lab.assert_clean(&disk);
        // Read as the kernel reads it.
        let mut fs = Filesystem::open(ReadOnly::new(disk.clone())).unwrap();
        let lines = fs.lines();
        let mount = verifier::Mount::new(&lab.raw(&disk), &lab.path("mount")).unwrap();
        verifier::same(&lines, &verifier::walk(mount.path()));
        drop(mount);
        // Changed: one of three loses what they share, the second everything.
        let mut fs = Filesystem::open(Layer::over(disk)).unwrap();
        let mut model = Model::of(&mut fs, false);
        let x1 = fs.lookup(2, b"x1").unwrap().unwrap().ino;
        let shared = fs.xattrs(x1).unwrap();
        fs.set_attributes(x1, &plain()).unwrap();
        fs.unlink(2, b"x2").unwrap();
        fs.set_attributes(
            x1,
            &Attributes {
                xattrs: shared,
                ..plain()
            },
        )
        .unwrap();
        model = {
            drop(model);
            Model::of(&mut fs, false)
        };
        let mut rng = Rng(seed);
        for _ in 0..150 {
            model.change(&mut fs, &mut rng);
        }
        fs.flush().unwrap();
        let disk = fs.replace_device(Layer::over(MemDevice::new(0))).finish();
        lab.assert_clean(&disk);
        let mount = verifier::Mount::new(&lab.raw(&disk), &lab.path("mount")).unwrap();
        verifier::same(&verifier::walk(mount.path()), &model.lines());
        drop(mount);
        let mut fs = Filesystem::open(Layer::over(disk)).unwrap();
        for entry in fs.entries(2).unwrap() {
            fs.remove_tree(2, &entry.name).unwrap();
        }
        fs.flush().unwrap();
        let disk = fs.replace_device(Layer::over(MemDevice::new(0))).finish();
        let (_, said) = lab.e2fsck(&disk);
        assert!(!said.contains("error"), "{options:?}: {said}");
        lab.assert_clean(&disk);
    }
}

#[test]
fn another_reader_reads_the_same_tree() {
    let mut fs = format(64 << 20);
    // That reader takes no times that begin with a set bit; small inodes' have none.
    let mut model = Model::of(&mut fs, true);
    model.only_after_1970();
    let mut rng = Rng(5);
    for _ in 0..200 {
        model.change(&mut fs, &mut rng);
    }
    fs.flush().unwrap();
    let disk = fs.replace_device(MemDevice::new(0));
    let mut all = vec![0; disk.size() as usize];
    disk.read_at(0, &mut all).unwrap();
    let other = ext4_view::Ext4::load(Box::new(all)).unwrap();
    let mut fs = Filesystem::open(disk).unwrap();
    let mut ahead = vec![(Vec::new(), 2)];
    let mut seen = 0;
    while let Some((path, dir)) = ahead.pop() {
        let at = if path.is_empty() {
            b"/".to_vec()
        } else {
            path.clone()
        };
        let theirs: BTreeMap<Vec<u8>, _> = other
            .read_dir(ext4_view::Path::try_from(&at[..]).unwrap())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (<[u8]>::to_vec(entry.file_name().as_ref()), entry.path()))
            .filter(|(name, _)| name != b"." && name != b"..")
            .collect();
        let ours = fs.children(dir);
        assert!(ours.keys().eq(theirs.keys()));
        for (name, ino) in ours {
            seen += 1;
            let view = fs.view(ino);
            let there = &theirs[&name];
            let metadata = other.symlink_metadata(there.as_path()).unwrap();
            assert_eq!(metadata.mode() & 0o7777, view.attributes.mode);
            assert_eq!(
                (metadata.uid(), metadata.gid()),
                (view.attributes.uid, view.attributes.gid)
            );
            match metadata.file_type() {
                ext4_view::FileType::Regular => {
                    assert!(other.read(there.as_path()).unwrap() == view.content);
                }
                ext4_view::FileType::Symlink => {
                    let target = other.read_link(there.as_path()).unwrap();
                    assert_eq!(<[u8]>::to_vec(target.as_ref()), view.target);
                }
                ext4_view::FileType::Directory => {
                    ahead.push(([&path[..], b"/", &name].concat(), ino));
                }
                _ => {}
            }
        }
    }
    assert!(seen > 50);
}

fn golden(layers: usize, lab: &Lab) -> MemDevice {
    let open = |n: usize| {
        let path = format!("{}/tests/golden/lz4-4/{n}.obd", env!("CARGO_MANIFEST_DIR"));
        let file = FileDevice::open(Path::new(&path)).unwrap();
        Arc::new(LayerBlob::open(Arc::new(file)).unwrap())
    };
    let stack = Stack::new((0..layers).map(open).collect()).unwrap();
    let raw = lab.path("golden");
    export(&stack, &File::create(&raw).unwrap(), |_| {}).unwrap();
    load(&raw)
}

/// What e2fsck complains of, without the numbers of its counts.
fn complaints(said: &str) -> Vec<String> {
    said.lines()
        .filter(|line| line.contains("roblem") || line.contains("nvalid") || line.contains("rong"))
        .map(|line| line.split(" (").next().unwrap_or(line).to_owned())
        .collect()
}

#[test]
fn the_reference_s_filesystems_are_read_and_stay_clean() {
    let lab = Lab::new();
    for layers in 1..=3 {
        let disk = golden(layers, &lab);
        let before = complaints(&lab.e2fsck(&disk).1);
        let mut fs = Filesystem::open(Layer::over(disk.clone())).unwrap();
        if let Some(mount) = verifier::Mount::new(&lab.raw(&disk), &lab.path("mount")) {
            verifier::same(&fs.lines(), &verifier::walk(mount.path()));
        }
        let mut model = Model::of(&mut fs, false);
        let mut rng = Rng(layers as u64);
        for _ in 0..100 {
            model.change(&mut fs, &mut rng);
        }
        fs.flush().unwrap();
        let disk = fs.replace_device(Layer::over(MemDevice::new(0))).finish();
        verifier::same(
            &Filesystem::open(disk.clone()).unwrap().lines(),
            &model.lines(),
        );
        let after = complaints(&lab.e2fsck(&disk).1);
        println!("{before:?}\n{after:?}");
        assert!(after.iter().all(|line| before.contains(line)), "{after:?}");
        // The counts are right now.
        assert!(
            !after.iter().any(|line| line.contains("count wrong")),
            "{after:?}"
        );
        // And without the reference's lost+found, all is.
        let mut fs = Filesystem::open(disk).unwrap();
        if fs.lookup(2, b"lost+found").unwrap().is_some() {
            fs.remove_tree(2, b"lost+found").unwrap();
        }
        fs.flush().unwrap();
        lab.assert_clean(&fs.replace_device(MemDevice::new(0)));
    }
}

#[test]
fn features_that_are_not_known_are_refused_by_name() {
    let lab = Lab::new();
    let base = ["-t", "ext4", "-b", "4096"];
    for (options, expected) in [
        (&["-O", "inline_data"][..], "inline_data"),
        (&["-O", "meta_bg,^resize_inode"], "meta_bg"),
        (&["-O", "bigalloc"], "bigalloc"),
        (&["-O", "quota"], "quota"),
        (&["-O", "mmp"], "mmp"),
        (&["-O", "encrypt"], "encrypt"),
        (&["-O", "casefold"], "casefold"),
        (&["-O", "ea_inode"], "ea_inode"),
        (&["-O", "verity"], "verity"),
        (&["-O", "project,quota"], "project"),
    ] {
        let disk = lab.mke2fs(64 << 20, &[&base[..], options].concat());
        let error = Filesystem::open(disk).err().unwrap();
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let disk = lab.mke2fs(64 << 20, &base);
    let dirty = |command: &str| {
        let (disk, _) = lab.debugfs(&disk, command);
        Filesystem::open(disk).err().unwrap().to_string()
    };
    let error = dirty("feature needs_recovery\n");
    assert!(
        error.contains("journal") && error.contains("e2fsck"),
        "{error}"
    );
    let error = dirty("ssv last_orphan 12\n");
    assert!(error.contains("orphan"), "{error}");
    let error = dirty("ssv blocks_count 99999999\n");
    assert!(error.contains("disk"), "{error}");
    for (size, expected) in [(0, "0 bytes"), (4096, "magic")] {
        let error = Filesystem::open(MemDevice::new(size)).err().unwrap();
        assert!(matches!(error, Error::NotExt4(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_disk_opened_for_reading_is_not_written() {
    let mut fs = format(16 << 20);
    write(&mut fs, 2, b"f", b"data");
    fs.flush().unwrap();
    let disk = fs.replace_device(MemDevice::new(0));
    let mut fs = Filesystem::open(ReadOnly::new(disk)).unwrap();
    fs.flush().unwrap();
    fs.create(2, b"g", &NodeKind::Fifo, &plain()).unwrap();
    assert!(matches!(fs.flush(), Err(Error::Io(_))));
}

/// Reads all there is and changes some of it, however that goes.
fn use_it(disk: MemDevice) -> Result<(), Error> {
    let mut fs = Filesystem::open(disk)?;
    let mut ahead = vec![2];
    let mut budget = 3000;
    while let Some(ino) = ahead.pop() {
        budget -= 1;
        if budget == 0 {
            break;
        }
        let Ok(metadata) = fs.metadata(ino) else {
            continue;
        };
        let _ = fs.xattrs(ino);
        let _ = fs.read_link(ino);
        let mut start = vec![0; metadata.size.min(20_000) as usize];
        let _ = fs.read_file(ino, 0, &mut start);
        let _ = fs.lookup(ino, b"a-rather-long-name-for-a-file-1");
        if let Ok(entries) = fs.entries(ino) {
            ahead.extend(entries.iter().map(|entry| entry.ino));
        }
    }
    let dir = fs.create(2, b"new", &NodeKind::Directory, &plain())?;
    for n in 0..40 {
        let name = format!("{n}{}", "n".repeat(100));
        fs.create(dir, name.as_bytes(), &NodeKind::Fifo, &plain())?;
    }
    let file = fs.create(2, b"file", &NodeKind::File, &plain())?;
    fs.allocate(file, 1 << 20, &[0..1 << 20])?;
    for entry in fs.entries(2)? {
        fs.remove_tree(2, &entry.name)?;
    }
    fs.flush()
}

#[test]
fn damaged_metadata_is_an_error_and_never_a_panic() {
    let started = Instant::now();
    let rounds = std::env::var("EXT4_FUZZ_ROUNDS").map_or(100, |n| n.parse().unwrap());
    let lab = Lab::new();
    let mut disks = vec![golden(3, &lab)];
    for options in [
        &[
            "-t",
            "ext4",
            "-b",
            "1024",
            "-O",
            "^has_journal,^metadata_csum",
        ][..],
        &["-t", "ext2", "-b", "1024"],
        &["-t", "ext4", "-b", "4096", "-O", "^has_journal"],
    ] {
        disks.extend(by_the_kernel(&lab, options));
    }
    let mut slowest = Duration::ZERO;
    let mut refused = 0;
    let mut rng = Rng(rounds);
    for disk in &disks {
        use_it(disk.clone()).unwrap();
        let metadata: Vec<u64> = metadata_blocks(disk);
        for round in 0..rounds {
            let mut broken = disk.clone();
            for _ in 0..=rng.below(6) {
                let block = metadata[rng.below(metadata.len() as u64) as usize];
                // Superblock and descriptors more often than chance has it.
                let block = if rng.chance(15) {
                    rng.below(2) * 4096
                } else {
                    block
                };
                let mut page = [0; 4096];
                broken.read_at(block, &mut page).unwrap();
                // What is zero means little.
                let from = rng.below(4096) as usize;
                let within = page[from..].iter().position(|byte| *byte != 0).unwrap_or(0);
                let at = block + (from + within) as u64;
                let mut sector = [0; 512];
                broken.read_at(at / 512 * 512, &mut sector).unwrap();
                let byte = &mut sector[at as usize % 512];
                *byte = match rng.below(4) {
                    0 => 0,
                    1 => 0xff,
                    2 => *byte ^ 1 << rng.below(8),
                    _ => rng.next() as u8,
                };
                broken.write_at(at / 512 * 512, &sector).unwrap();
            }
            let start = Instant::now();
            refused += u32::from(use_it(broken).is_err());
            let took = start.elapsed();
            assert!(
                took < Duration::from_secs(20),
                "round {round} took {took:?}"
            );
            slowest = slowest.max(took);
        }
    }
    println!(
        "{refused} refused, slowest {slowest:?}, {:?}",
        started.elapsed()
    );
    assert!(refused > 50);
}

/// Pages with metadata: all that look like it, and no more than there is time for.
fn metadata_blocks(disk: &MemDevice) -> Vec<u64> {
    disk.pages()
        .filter(|(_, data)| {
            // Random content of files is no target.
            let distinct: std::collections::HashSet<&u8> = data.iter().collect();
            data.iter().any(|byte| *byte != 0) && distinct.len() < 200
        })
        .map(|(at, _)| at)
        .collect()
}

#[test]
fn checksums_that_are_wrong_are_noticed() {
    let lab = Lab::new();
    let disk = lab.mke2fs(
        64 << 20,
        &["-t", "ext4", "-b", "4096", "-O", "^has_journal"],
    );
    let mut fs = Filesystem::open(disk).unwrap();
    let dir = fs.create(2, b"d", &NodeKind::Directory, &plain()).unwrap();
    for n in 0..400 {
        fs.create(
            dir,
            format!("name {n}").as_bytes(),
            &NodeKind::Fifo,
            &plain(),
        )
        .unwrap();
    }
    fs.flush().unwrap();
    let disk = fs.replace_device(MemDevice::new(0));
    lab.assert_clean(&disk);
    let before = digest(&disk);
    // A flipped bit in each block that holds a name, or the root's.
    let mut noticed = 0;
    let pages: Vec<(u64, Vec<u8>)> = disk.pages().map(|(at, data)| (at, data.to_vec())).collect();
    for (at, mut data) in pages {
        let Some(place) = data.windows(5).position(|bytes| bytes == b"name ") else {
            continue;
        };
        let mut broken = disk.clone();
        data[place] ^= 0x20;
        broken.write_at(at, &data).unwrap();
        assert_ne!(digest(&broken), before);
        let mut fs = Filesystem::open(broken).unwrap();
        let error = fs.entries(dir).unwrap_err();
        assert!(error.to_string().contains("checksum"), "{error}");
        noticed += 1;
    }
    assert!(noticed > 1);
}

#[test]
fn an_index_that_puts_its_checksum_outside_its_block_is_refused() {
    let lab = Lab::new();
    let options = ["-t", "ext4", "-b", "4096", "-O", "^has_journal"];
    let mut fs = Filesystem::open(lab.mke2fs(64 << 20, &options)).unwrap();
    let dir = fs.create(2, b"d", &NodeKind::Directory, &plain()).unwrap();
    for n in 0..400 {
        let name = format!("name {n}");
        fs.create(dir, name.as_bytes(), &NodeKind::Fifo, &plain())
            .unwrap();
    }
    fs.flush().unwrap();
    let disk = fs.replace_device(MemDevice::new(0));
    // The root of the index says what it is, and how many entries it may have: one more, and
    // there is no room for the checksum.
    let info = [&[0; 4][..], &[1, 8, 0, 0]].concat();
    let mut roots = disk.pages().filter(|(_, data)| data[24..32] == info);
    let (place, mut data) = roots.next().map(|(at, data)| (at, data.to_vec())).unwrap();
    assert_eq!(data[32..34], 507_u16.to_le_bytes());
    data[32..34].copy_from_slice(&508_u16.to_le_bytes());
    let mut broken = disk.clone();
    broken.write_at(place, &data).unwrap();
    let mut fs = Filesystem::open(broken).unwrap();
    for error in [
        fs.lookup(dir, b"name 7").unwrap_err(),
        fs.entries(dir).unwrap_err(),
    ] {
        assert!(error.to_string().contains("checksum"), "{error}");
    }
}
