//! Tars made by hand, compressed, and handed in as a registry would.

use std::io::Write as _;

use bytes::Bytes;
use overlaybd_proxy::convert::layer::LayerInput;
use overlaybd_proxy::oci::digest::{ChainId, DiffId, Digest};
use tar::EntryType;

/// A tar being written, one entry a call; owner 7:8 and mtime 1,000,000,009 unless PAX
/// records before the entry say otherwise.
pub struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub fn add(mut self, kind: EntryType, path: &str, link: &str, mode: u32, data: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        // Raw, because the crate refuses names that climb.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_000_000_009);
        header.set_size(data.len() as u64);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    pub fn file(self, path: &str, data: impl AsRef<[u8]>) -> Self {
        self.add(EntryType::Regular, path, "", 0o644, data.as_ref())
    }

    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.add(EntryType::Directory, path, "", mode, b"")
    }

    pub fn soft(self, path: &str, target: &str) -> Self {
        self.add(EntryType::Symlink, path, target, 0o777, b"")
    }

    pub fn hard(self, path: &str, target: &str) -> Self {
        self.add(EntryType::Link, path, target, 0o644, b"")
    }

    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0
            .append_pax_extensions(records.iter().copied())
            .unwrap();
        self
    }

    pub fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

/// The chain of these tars so far, and each layer as a manifest and a config describe it.
pub struct Source {
    pub diff_ids: Vec<DiffId>,
    pub layers: Vec<Vec<u8>>,
}

impl Source {
    pub fn new(tars: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let mut source = Self {
            diff_ids: Vec::new(),
            layers: Vec::new(),
        };
        for (place, tar) in tars.into_iter().enumerate() {
            source.diff_ids.push(DiffId(Digest::of(&tar)));
            source.layers.push(match place % 3 {
                0 => gzip(&tar),
                1 => zstd::encode_all(&tar[..], 1).unwrap(),
                _ => tar,
            });
        }
        source
    }

    pub fn input(&self, layer: usize) -> LayerInput {
        let chains = ChainId::chain(&self.diff_ids);
        let bytes = &self.layers[layer];
        let chunks: Vec<_> = bytes
            .chunks(30_000)
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
            .collect();
        LayerInput {
            chunks: Box::new(chunks.into_iter()),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            diff_id: self.diff_ids[layer].clone(),
            chain_id: chains[layer].clone(),
            parent_chain_id: layer.checked_sub(1).map(|below| chains[below].clone()),
        }
    }
}
