//! The ext4 engine through its front door, judged by e2fsck, the kernel and a second reader.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod ext4_support;
#[path = "layers/judges.rs"]
#[allow(dead_code)]
mod judges;

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
        let (mut warm, mut warm_model) = match from_memory.take() {
            Some((mut fs, model)) => {
                fs.replace_device(Layer::over(warm_disk.clone()));
                (fs, model)
            }
            None => {
                let mut fs = Filesystem::open(Layer::over(warm_disk.clone())).unwrap();
                let model = Model::of(&mut fs, small_inodes);
                (fs, model)
            }
        };
        for (fs, model) in [(&mut cold, &mut cold_model), (&mut warm, &mut warm_model)] {
            let mut rng = Rng(seed << 16 | layer);
            for _ in 0..changes {
                model.change(fs, &mut rng);
            }
            let data = fs.device_mut().writes.len();
            fs.flush().unwrap();
            let metadata = &fs.device_mut().writes[data..];
            assert!(metadata.is_sorted_by(|a, b| a.0 + a.1 <= b.0), "seed {seed}");
        }
        let empty = || Layer::over(MemDevice::new(0));
        cold_disk = cold.replace_device(empty()).finish();
        warm_disk = warm.replace_device(empty()).finish();
        assert_eq!(digest(&cold_disk), digest(&warm_disk), "seed {seed}, layer {layer}");
        let (code, said) = lab.e2fsck(&cold_disk);
        assert_eq!(code, 0, "seed {seed}, layer {layer}: {said}");
        let mut reread = Filesystem::open(cold_disk.clone()).unwrap();
        judges::same(&reread.lines(), &warm_model.lines());
        // Nothing to do is nothing to write.
        let mut idle = Filesystem::open(Layer::over(cold_disk.clone())).unwrap();
        idle.flush().unwrap();
        assert_eq!(idle.device_mut().writes, []);
        from_memory = Some((warm, warm_model));
    }
    let (_, mut model) = from_memory.unwrap();
    let raw = lab.raw(&cold_disk);
    if let Some(mount) = judges::Mount::new(&raw, &lab.path("mount")) {
        judges::same(&judges::walk(mount.path()), &model.lines());
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
