//! Where blobs pass in tests: each of them is looked at, once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde_json::Value;
use sha2::Digest as _;

use super::{Layer, Stack, check};

/// The annotation that says which layer of an image is an overlaybd blob.
const BLOB_DIGEST: &str = "containerd.io/snapshot/overlaybd/blob-digest";
/// The annotation of a layer that overlaybd leaves out of the disk.
const ACCELERATION: &str = "containerd.io/snapshot/overlaybd/acceleration-layer";

/// Whether bytes begin as a layer blob does.
fn is_layer(bytes: &[u8]) -> bool {
    bytes.starts_with(b"overlaybd.pax\0")
}

type Digests = Mutex<BTreeSet<[u8; 32]>>;

/// Blobs that keep the rules.
static GOOD: Digests = Mutex::new(BTreeSet::new());
/// Blobs that need not keep them.
static DAMAGED: Digests = Mutex::new(BTreeSet::new());

fn digest(blob: &[u8]) -> [u8; 32] {
    sha2::Sha256::digest(blob).into()
}

/// Says that a test makes this blob with rules broken, so that it may lie where others are
/// looked at.
pub fn is_damaged_on_purpose(blob: &[u8]) {
    DAMAGED.lock().insert(digest(blob));
}

/// Fails if bytes that come from anywhere are a layer that breaks a rule.
#[track_caller]
pub fn assert_if_layer(name: impl std::fmt::Display, bytes: &[u8]) -> Option<Layer> {
    let is_looked_at = is_layer(bytes) && !DAMAGED.lock().contains(&digest(bytes));
    is_looked_at.then(|| assert_blob(name, bytes))
}

/// Fails unless a blob keeps all rules; `name` is for whoever reads the failure.
#[track_caller]
pub fn assert_blob(name: impl std::fmt::Display, blob: &[u8]) -> Layer {
    let digest = digest(blob);
    let known = GOOD.lock().contains(&digest);
    let layer = if known {
        Layer::open(blob)
    } else {
        check(blob)
    };
    match layer {
        Ok(layer) => {
            GOOD.lock().insert(digest);
            layer
        }
        Err(violation) => panic!("overlaybd would refuse {name}: {violation}"),
    }
}

/// Fails unless files, bottom first, keep all rules each and as a stack.
#[track_caller]
pub fn assert_stack(files: &[PathBuf]) -> Vec<Layer> {
    let layers: Vec<Layer> = files
        .iter()
        .map(|path| assert_blob(path.display(), &std::fs::read(path).unwrap()))
        .collect();
    if let Err(violation) = Stack::new(&layers) {
        panic!("overlaybd would refuse the stack {files:?}: {violation}");
    }
    layers
}

/// Fails unless all layer blobs below a directory keep the rules, and all images whose blobs
/// are there do as stacks. Finds them in a data directory, an image layout, a registry's
/// storage; gives how many blobs there are.
#[track_caller]
pub fn assert_directory(directory: &Path) -> usize {
    let (mut layers, mut images) = (BTreeMap::new(), Vec::new());
    let mut todo = vec![directory.to_owned()];
    while let Some(path) = todo.pop() {
        // Whoever is still at work may take away what was just there.
        for child in std::fs::read_dir(&path).into_iter().flatten().flatten() {
            let path = child.path();
            match child.file_type() {
                Ok(kind) if kind.is_dir() => todo.push(path),
                Ok(kind) if kind.is_file() => {
                    look(&path, &mut layers, &mut images);
                }
                _ => {}
            }
        }
    }
    for image in images {
        let there: Vec<&Layer> = image.iter().filter_map(|it| layers.get(it)).collect();
        if there.len() == image.len()
            && let Err(violation) = Stack::new(there)
        {
            panic!("overlaybd would refuse the image of {image:?}: {violation}");
        }
    }
    layers.len()
}

/// Takes up a file that is a layer's blob or an image's manifest.
#[track_caller]
fn look(path: &Path, layers: &mut BTreeMap<String, Layer>, images: &mut Vec<Vec<String>>) {
    // Only what has its digest as its name is whole: `blobs/sha256/HEX`, `HEX/data`.
    let parts = path.iter().rev().take(2).filter_map(|part| part.to_str());
    let is_hex = |part: &&str| part.len() == 64 && part.bytes().all(|it| it.is_ascii_hexdigit());
    let Some(hex) = parts.into_iter().find(is_hex) else {
        return;
    };
    let Ok(bytes) = std::fs::read(path) else {
        return;
    };
    if let Some(layer) = assert_if_layer(path.display(), &bytes) {
        layers.insert(format!("sha256:{hex}"), layer);
    } else if let Ok(document) = serde_json::from_slice::<Value>(&bytes)
        && let Some(listed) = document["layers"].as_array()
        && !listed.is_empty()
    {
        let digest = |layer: &Value| layer["annotations"][BLOB_DIGEST].as_str().map(Into::into);
        // No part of the disk.
        let is_on_disk = |layer: &&Value| layer["annotations"][ACCELERATION] != "yes";
        let on_disk = listed.iter().filter(is_on_disk);
        images.extend(on_disk.map(digest).collect::<Option<Vec<String>>>());
    }
}
