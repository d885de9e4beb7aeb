//! What a replay brings: with the registry gone, all that the list names can still be read, and
//! what leads to it.

use std::sync::Arc;

use overlaybd_proxy::format::block::{ReadOnly, SharedDevice};
use overlaybd_proxy::format::ext4::Filesystem;
use overlaybd_proxy::format::prefetch::Trace;
use overlaybd_proxy::lazy::{ImageDisk, LayerPlace, Origin, Reading, SizedBlob, replay};
use overlaybd_proxy::registry::{Authorization, RegistryConfig, Upstream};
use serde_json::Value;

use super::support::noise;
use super::support::registry::Registry;
use super::trace::unpacked;
use super::{LIST, PREFIX, WANTED, Workshop, layers};

const REPO: &str = "team/app";
/// The files with the content of [`WANTED`].
const FILES: [&str; 5] = [
    "/bin/tool",
    "/data/again",
    "/data/more/three",
    "/data/two",
    "/lib/current/lib.so.1",
];

fn sized(digest: &Value, registry: &Registry) -> SizedBlob {
    let digest = digest.as_str().unwrap();
    let size = std::fs::metadata(registry.blob_path(digest)).unwrap().len();
    (digest.parse().unwrap(), size)
}

fn replayed(more: &[&str]) {
    let Some(registry) = Registry::start() else {
        return;
    };
    let workshop = Workshop::new();
    let list = workshop.list("list", LIST);
    let options = [&["--prefetch-list", &list], more].concat();
    let converted = workshop.convert("1", "out", &options);
    for number in 0..converted.count() {
        registry.push_blob(REPO, &converted.blob(number));
    }
    for layer in &super::image(super::Flavour::Oci).blobs {
        registry.push_blob(REPO, &layer.bytes);
    }
    let on_disk = converted.count() - 1;
    assert_eq!(on_disk, layers().len());
    let places: Vec<LayerPlace> = (0..on_disk)
        .map(|number| {
            let layer = converted.layer(number);
            let target = &layer["annotations"][format!("{PREFIX}turbo-oci/target-digest")];
            LayerPlace {
                blob: sized(&layer["digest"], &registry),
                target: target.is_string().then(|| sized(target, &registry)),
            }
        })
        .collect();
    let origin = Origin {
        upstream: Upstream::registry(registry.address(), &RegistryConfig::default()).unwrap(),
        repo: REPO.parse().unwrap(),
        authorization: Authorization::Own,
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let reading = Reading {
        piece: 64 << 10,
        ..Reading::default()
    };
    let disk = runtime
        .block_on(ImageDisk::open(&origin, places, reading))
        .unwrap();
    let trace = Trace::parse(&unpacked(&converted.blob(on_disk)), on_disk).unwrap();
    let done = replay(&disk, trace).unwrap().wait();
    assert_eq!(done.failed, 0, "{done:?}");
    let wanted: usize = WANTED.iter().map(|(_, len)| len).sum();
    assert!(done.ranges > 0 && done.bytes >= wanted as u64, "{done:?}");

    registry.freeze();
    let stack: SharedDevice = Arc::<overlaybd_proxy::format::blob::Stack>::clone(&disk.stack);
    let mut filesystem = Filesystem::open(ReadOnly::new(stack)).unwrap();
    for (path, (seed, len)) in FILES.iter().zip(WANTED) {
        let found = filesystem.resolve(path.as_bytes()).unwrap();
        let mut data = vec![0; len];
        let ino = found.unwrap_or_else(|| panic!("{path}")).ino;
        filesystem.read_file(ino, 0, &mut data).unwrap();
        assert!(data == noise(seed, len), "{path}");
    }
    registry.thaw();
}

#[test]
fn records_of_a_native_image_bring_all_that_is_wanted() {
    replayed(&[]);
}

#[test]
fn the_list_of_a_turbo_image_brings_all_that_is_wanted() {
    replayed(&["--turbo"]);
}
