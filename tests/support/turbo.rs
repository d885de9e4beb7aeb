//! What a node puts together of a TurboOCI image: metadata from the proxy, data from the origin
//! alone.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use overlaybd_proxy::format::blob::{LayerBlob, Stack, export, unpack_turbo};
use overlaybd_proxy::format::block::{FileDevice, MemDevice, SharedDevice};
use overlaybd_proxy::format::gzip_index::{GzipIndex, GzipTarget};
use serde_json::Value;

use super::proxy::Proxy;
use super::verifier::{Mount, e2fsck};
use super::walk::Tree;
use super::{is_root, sha256};

/// What the names of annotations begin with.
pub const NOTE: &str = "containerd.io/snapshot/overlaybd/";
pub const OCI_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const OCI_TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// The layers of a TurboOCI image, bottom first.
pub struct Turbo {
    layers: Vec<Layer>,
}

/// A layer, opened with its data, and with zeros in place of it.
struct Layer {
    whole: Arc<LayerBlob>,
    without_data: Arc<LayerBlob>,
}

impl Turbo {
    /// Pulls an image by its TurboOCI tag. `origin` is where the origin keeps a blob.
    #[track_caller]
    pub fn pull(proxy: &Proxy, repo: &str, tag: &str, origin: impl Fn(&str) -> PathBuf) -> Self {
        let answer = proxy.get(&format!("{repo}/manifests/{tag}"));
        let log = proxy.log();
        assert_eq!(answer.status, 200, "{repo}:{tag}: {answer:?}\n{log}");
        Self::of(proxy, repo, &answer.json(), origin)
    }

    /// The layers that a manifest names.
    #[track_caller]
    pub fn of(
        proxy: &Proxy,
        repo: &str,
        manifest: &Value,
        origin: impl Fn(&str) -> PathBuf,
    ) -> Self {
        let layers = manifest["layers"].as_array().unwrap().iter();
        Self {
            layers: layers
                .map(|layer| Layer::read(proxy, repo, layer, &origin))
                .collect(),
        }
    }

    fn write(&self, count: usize, with_data: bool, to: &Path) {
        let layers = self.layers[..count].iter().map(|layer| {
            let layer = if with_data {
                &layer.whole
            } else {
                &layer.without_data
            };
            Arc::clone(layer)
        });
        let stack = Stack::new(layers.collect()).unwrap();
        export(&stack, &File::create(to).unwrap(), |_| {}).unwrap();
    }

    /// Writes the disk to a file.
    #[track_caller]
    pub fn disk(&self, to: &Path) {
        self.write(self.layers.len(), true, to);
    }

    /// The root filesystem; `None`, and prints SKIPPED, where mounting is not allowed.
    #[track_caller]
    pub fn tree(&self) -> Option<Tree> {
        self.tree_of_first(self.layers.len())
    }

    /// The root filesystem of the first `count` layers. By e2fsck it is clean with its data and
    /// without: nothing of its structure is in the data.
    #[track_caller]
    pub fn tree_of_first(&self, count: usize) -> Option<Tree> {
        let scratch = tempfile::tempdir().unwrap();
        let raw = scratch.path().join("raw");
        for with_data in [false, true] {
            self.write(count, with_data, &raw);
            if let Err(said) = e2fsck(&raw) {
                panic!("{count} layers, with their data: {with_data}: {said}");
            }
        }
        if !is_root("mounting") {
            return None;
        }
        let mount = Mount::new(&raw, &scratch.path().join("mount"));
        Some(Tree::of(mount.path()))
    }
}

impl Layer {
    #[track_caller]
    fn read(proxy: &Proxy, repo: &str, layer: &Value, origin: &impl Fn(&str) -> PathBuf) -> Self {
        let digest = layer["digest"].as_str().unwrap();
        let blob = proxy.get(&format!("{repo}/blobs/{digest}"));
        assert_eq!(blob.status, 200, "{digest}");
        assert_eq!(sha256(&blob.body), digest);
        let note = |name: &str| {
            let note = &layer["annotations"][format!("{NOTE}{name}")];
            let text = note.as_str();
            text.unwrap_or_else(|| panic!("no {name} in {layer}"))
        };
        assert_eq!(note("blob-digest"), digest);
        assert_eq!(note("blob-size"), blob.body.len().to_string());
        assert_eq!(note("version"), "0.1.0-turbo.ociv1");
        let (mut meta, mut index) = (Vec::new(), Vec::new());
        let unpacked =
            unpack_turbo(&blob.body[..], "ext4", 1 << 30, &mut meta, &mut index).unwrap();
        let original = origin(note("turbo-oci/target-digest"));
        let original: SharedDevice = Arc::new(FileDevice::open(&original).unwrap());
        let kind = note("turbo-oci/target-media-type");
        let target: SharedDevice = if unpacked.is_gzip {
            assert_eq!(kind, OCI_GZIP);
            let index: SharedDevice = Arc::new(index);
            Arc::new(GzipTarget::new(original, GzipIndex::open(index).unwrap()).unwrap())
        } else {
            assert_eq!(kind, OCI_TAR);
            original
        };
        let zeros: SharedDevice = Arc::new(MemDevice::new(target.size()));
        let meta: SharedDevice = Arc::new(meta);
        let open = |target| LayerBlob::open_turbo(Arc::clone(&meta), target).unwrap();
        Self {
            whole: Arc::new(open(target)),
            without_data: Arc::new(open(zeros)),
        }
    }
}
