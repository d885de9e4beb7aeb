//! The ext4 engine by its public interface, verified by e2fsck, the kernel and a second reader.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::single_range_in_vec_init
)]

use crate::{ext4_support, verifier};
use ext4_support::model::Model;
use ext4_support::{Lab, Layer, Rng, Tree, digest};
use overlaybd_proxy::format::block::MemDevice;
use overlaybd_proxy::format::ext4::Filesystem;

/// Random layers on `base`; after each the disk is clean, and what it should hold. Whether
/// the engine goes on from memory or from the disk makes no difference to a byte.
fn random_layers(base: &MemDevice, seed: u64, layers: u64, changes: u64, small_inodes: bool) {
    let lab = Lab::new();
    let mut from_memory: Option<(Filesystem<Layer>, Model)> = None;
    let (mut warm_disk, mut cold_disk) = (base.clone(), base.clone());
    for layer in 0..layers {
        let mut cold = Filesystem::open(Layer::over(cold_disk.clone())).unwrap();
        let mut cold_model = Model::of(&mut cold, small_inodes);
        let (mut warm, mut warm_model) = from_memory.take().unwrap_or_else(|| {
            let mut fs = Filesystem::open(Layer::over(MemDevice::clone(&warm_disk))).unwrap();
            let model = Model::of(&mut fs, small_inodes);
            (fs, model)
        });
        warm.replace_device(Layer::over(warm_disk.clone()));
        for (fs, model) in [(&mut cold, &mut cold_model), (&mut warm, &mut warm_model)] {
            let mut rng = Rng(seed << 16 | layer);
            for _ in 0..changes {
                model.change(fs, &mut rng);
            }
            let data = fs.device_mut().writes.len();
            fs.flush().unwrap();
            let metadata = &fs.device_mut().writes[data..];
            assert!(
                metadata.is_sorted_by(|a, b| a.0 + a.1 <= b.0),
                "seed {seed}"
            );
        }
        let empty = || Layer::over(MemDevice::new(0));
        cold_disk = cold.replace_device(empty()).finish();
        warm_disk = warm.replace_device(empty()).finish();
        assert_eq!(
            digest(&cold_disk),
            digest(&warm_disk),
            "seed {seed}, layer {layer}"
        );
        let (code, said) = lab.e2fsck(&cold_disk);
        assert_eq!(code, 0, "seed {seed}, layer {layer}: {said}");
        let mut reread = Filesystem::open(cold_disk.clone()).unwrap();
        verifier::same(&reread.lines(), &warm_model.lines());
        // Nothing to do is nothing to write.
        let mut idle = Filesystem::open(Layer::over(cold_disk.clone())).unwrap();
        idle.flush().unwrap();
        assert_eq!(idle.device_mut().writes, []);
        from_memory = Some((warm, warm_model));
    }
    let (_, mut model) = from_memory.unwrap();
    let raw = lab.raw(&cold_disk);
    if let Some(mount) = verifier::Mount::new(&raw, &lab.path("mount")) {
        verifier::same(&verifier::walk(mount.path()), &model.lines());
    }
}

#[test]
fn random_layers_on_our_own_filesystem_are_clean_and_as_expected() {
    for seed in 0..6 {
        let mut fs = ext4_support::format([64 << 20, 300 << 20][seed as usize % 2]);
        fs.flush().unwrap();
        let disk = fs.replace_device(MemDevice::new(0));
        Lab::new().assert_clean(&disk);
        random_layers(&disk, seed, 4, 80, false);
    }
}

/// What others make filesystems with: features, block and inode sizes, hashes.
const MADE: &[&[&str]] = &[
    &[
        "-t",
        "ext4",
        "-O",
        "^has_journal,sparse_super,flex_bg",
        "-G",
        "1",
    ],
    &["-t", "ext4", "-b", "4096", "-O", "^has_journal"],
    &[
        "-t",
        "ext4",
        "-b",
        "4096",
        "-O",
        "^has_journal,^metadata_csum,^64bit",
    ],
    &[
        "-t",
        "ext4",
        "-b",
        "1024",
        "-O",
        "^has_journal,metadata_csum_seed",
    ],
    &[
        "-t",
        "ext4",
        "-b",
        "1024",
        "-O",
        "^has_journal,^metadata_csum,uninit_bg,^64bit",
    ],
    &[
        "-t",
        "ext4",
        "-b",
        "4096",
        "-O",
        "^has_journal,^metadata_csum,uninit_bg,64bit",
    ],
    &["-t", "ext4", "-b", "4096"],
    &["-t", "ext4", "-b", "2048", "-O", "large_dir"],
    &["-t", "ext4", "-b", "1024", "-O", "^flex_bg,^resize_inode"],
    &[
        "-t",
        "ext4",
        "-b",
        "1024",
        "-O",
        "^dir_index,^filetype,^has_journal",
    ],
    &[
        "-t",
        "ext4",
        "-b",
        "4096",
        "-I",
        "512",
        "-O",
        "sparse_super2,^sparse_super,^resize_inode",
    ],
    &["-t", "ext4", "-b", "1024", "-g", "1024", "-N", "4096"],
    &[
        "-t",
        "ext4",
        "-b",
        "1024",
        "-g",
        "2048",
        "-G",
        "4",
        "-O",
        "^metadata_csum,uninit_bg",
    ],
    &["-t", "ext2", "-b", "1024", "-I", "256"],
    &["-t", "ext3", "-b", "4096"],
];

#[test]
fn random_layers_on_filesystems_that_mke2fs_made_are_clean_and_as_expected() {
    for (seed, options) in (100..).zip(MADE) {
        println!("{options:?}");
        let disk = Lab::new().mke2fs(64 << 20, options);
        random_layers(&disk, seed, 2, 60, false);
    }
}

#[test]
fn every_directory_hash_equals_the_kernels() {
    let lab = Lab::new();
    for (seed, flags) in (150..).zip([1, 2]) {
        for version in 0..3 {
            let disk = lab.mke2fs(64 << 20, &["-t", "ext4", "-b", "1024"]);
            let commands = format!("ssv def_hash_version {version}\nssv flags {flags}\n");
            let (disk, said) = lab.debugfs(&disk, &commands);
            assert!(!said.contains("fail"), "{said}");
            random_layers(&disk, seed, 2, 60, false);
        }
    }
}

#[test]
fn random_layers_on_small_inodes_are_clean_and_as_expected() {
    let options = [
        "-t",
        "ext4",
        "-b",
        "1024",
        "-I",
        "128",
        "-O",
        "^has_journal",
    ];
    let disk = Lab::new().mke2fs(64 << 20, &options);
    random_layers(&disk, 200, 3, 60, true);
}
