//! A converted image, pulled by the stock client onto the disk.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::layout::Layout;
use super::proxy::Proxy;
use super::{overlaybd, sha256, skopeo, verifier, walk::Tree};

const ANNOTATION: &str = "containerd.io/snapshot/overlaybd/";

/// The parts of an image, whose layers keep the rules of overlaybd's reader.
pub struct Pulled {
    pub manifest: Value,
    pub config: Value,
    /// Files with the layers' blobs, bottom first.
    pub layers: Vec<PathBuf>,
}

impl Pulled {
    /// `skopeo copy docker://proxy/repo:tag oci:into:tag`, all digests verified.
    #[track_caller]
    pub fn into_layout(proxy: &Proxy, repo: &str, tag: &str, into: &Path) -> Self {
        skopeo::copied(&proxy.image(repo, tag), &skopeo::layout(into, tag), &[]);
        let layout = Layout::open(into);
        let manifest = layout.manifest(tag);
        Self::new(manifest, |digest| layout.blob_path(digest))
    }

    /// The same with `dir:into`, which takes Docker's manifests as they are.
    #[track_caller]
    pub fn into_directory(proxy: &Proxy, repo: &str, tag: &str, into: &Path) -> Self {
        let to = format!("dir:{}", into.display());
        skopeo::copied(&proxy.image(repo, tag), &to, &[]);
        let manifest = std::fs::read(into.join("manifest.json")).unwrap();
        let manifest = serde_json::from_slice(&manifest).unwrap();
        Self::new(manifest, |digest| into.join(&digest["sha256:".len()..]))
    }

    #[track_caller]
    fn new(manifest: Value, path: impl Fn(&str) -> PathBuf) -> Self {
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let path = path(digest);
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(sha256(&bytes), digest);
            assert_eq!(descriptor["size"], bytes.len(), "{digest}");
            (path, bytes)
        };
        let (_, config) = blob(&manifest["config"]);
        let layers = manifest["layers"].as_array().unwrap();
        let layers: Vec<_> = layers.iter().map(|layer| blob(layer).0).collect();
        overlaybd::assert_stack(&layers);
        Self {
            config: serde_json::from_slice(&config).unwrap(),
            layers,
            manifest,
        }
    }

    /// The documents say of the layers what readers of overlaybd images look for, and keep
    /// everything else of the source's config.
    #[track_caller]
    pub fn assert_described(&self, source_config: &Value, layer_type: &str) {
        let layers = self.manifest["layers"].as_array().unwrap();
        let mut diff_ids = Vec::new();
        for layer in layers {
            assert_eq!(layer["mediaType"], layer_type);
            let annotations = &layer["annotations"];
            let note = |name: &str| annotations[format!("{ANNOTATION}{name}")].clone();
            assert_eq!(note("blob-digest"), layer["digest"]);
            assert_eq!(note("blob-size"), layer["size"].to_string());
            assert_eq!(note("version"), "0.1.0");
            diff_ids.push(layer["digest"].clone());
        }
        let mut expected = source_config.clone();
        expected["rootfs"]["diff_ids"] = Value::Array(diff_ids);
        assert_eq!(self.config, expected);
    }

    /// Clean by e2fsck after each layer; the kernel's view of the whole.
    #[track_caller]
    pub fn tree(&self) -> Option<Tree> {
        verifier::tree(&self.layers)
    }
}
