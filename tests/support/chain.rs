//! Chain-ids of an image, and blobs made by hand for them.

use std::path::Path;
use std::sync::Arc;

use overlaybd_proxy::format::blob::{
    Algorithm, BlockSize, CompressPool, LayerBlob, LayerSpec, LayerWriter, Stack,
};
use overlaybd_proxy::format::block::{BlockDevice as _, BlockDeviceMut as _};
use serde_json::Value;

use super::image::Sealed;
use super::sha256;

/// The chain-ids of an image, bottom first.
pub fn chains(sealed: &Sealed) -> Vec<String> {
    let config: Value = serde_json::from_slice(&sealed.blobs[0].bytes).unwrap();
    let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
    let mut chains: Vec<String> = Vec::new();
    for diff_id in diff_ids {
        let diff_id = diff_id.as_str().unwrap();
        let chain = chains.last().map_or_else(
            || diff_id.to_owned(),
            |below| sha256(format!("{below} {diff_id}").as_bytes()),
        );
        chains.push(chain);
    }
    chains
}

/// The uuid that a layer of this chain has.
pub fn uuid(chain: &str) -> String {
    let hex = chain.strip_prefix("sha256:").unwrap().to_uppercase();
    let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
    parts.map(|(from, to)| &hex[from..to]).join("-")
}

/// A layer blob of a bottom layer, with these parts of a disk of `size` bytes.
pub fn blob(size: u64, uuid: &str, tag: &str, parts: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("blob");
    let file = std::fs::File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let spec = LayerSpec {
        virtual_size: size,
        algorithm: Algorithm::Lz4,
        block_size: BlockSize::KIB_4,
        uuid: uuid.to_owned(),
        parent_uuid: String::new(),
    };
    let pool = CompressPool::new(1).unwrap();
    let lower = Arc::new(Stack::empty(size));
    let mut writer = LayerWriter::create(lower, file, spec, &pool).unwrap();
    for (offset, data) in parts {
        writer.write_at(*offset, data).unwrap();
    }
    writer.finish(tag).unwrap().seal().unwrap();
    std::fs::read(&path).unwrap()
}

/// A bottom layer's blob again, with another user tag.
pub fn with_tag(bytes: &[u8], tag: &str) -> Vec<u8> {
    let layer = Arc::new(LayerBlob::open(Arc::new(bytes.to_vec())).unwrap());
    let (size, uuid) = (layer.virtual_size(), layer.lsmt().uuid.clone());
    let mappings = layer.mappings().to_vec();
    let stack = Stack::new(vec![layer]).unwrap();
    let parts: Vec<_> = mappings
        .iter()
        .map(|mapping| {
            let mut data = vec![0; usize::try_from(mapping.length * 512).unwrap()];
            stack.read_at(mapping.offset * 512, &mut data).unwrap();
            (mapping.offset * 512, data)
        })
        .collect();
    blob(size, &uuid, tag, &parts)
}

/// What differs between two disks in files of one size, in blocks of 4 KiB.
pub fn changed_blocks(before: &Path, after: &Path) -> Vec<(u64, Vec<u8>)> {
    use std::io::Read as _;
    let open = |path| std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let (mut old, mut new) = (open(before), open(after));
    let (mut was, mut is) = ([0; 4096], [0; 4096]);
    let mut changed = Vec::new();
    for number in 0.. {
        if new.read_exact(&mut is).is_err() {
            break;
        }
        old.read_exact(&mut was).unwrap();
        if was != is {
            changed.push((number * 4096, is.to_vec()));
        }
    }
    changed
}
