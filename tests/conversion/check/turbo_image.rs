//! A TurboOCI image in a layout beside its source, and ways to change it afterwards: every digest
//! is made to fit again, so that only what was meant is wrong.

use std::io::{Cursor, Read, Write};
use std::sync::Arc;

use overlaybd_proxy::format::block::{BlockDevice, SharedDevice};
use overlaybd_proxy::format::gzip_index::{Boundary, GzipIndex, GzipIndexWriter, Window};
use overlaybd_proxy::format::zfile::{
    Algorithm, BlockSize, CompressPool, ZFileReader, ZFileWriter,
};
use overlaybd_proxy::oci::Digest;
use serde_json::{Value, json};

use super::command::{Layout, MANIFEST, check, program};
use super::support::tar::{Entry, FILE, Tar};

pub const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const NOTE: &str = "containerd.io/snapshot/overlaybd/";

pub fn gzip(tar: &[u8], level: u32) -> Vec<u8> {
    let level = flate2::Compression::new(level);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

pub fn gunzip(layer: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    let mut decoder = flate2::read::MultiGzDecoder::new(layer);
    decoder.read_to_end(&mut tar).unwrap();
    tar
}

/// Puts an image of these layers under a tag: the media type and the bytes of each, and its tar.
pub fn put_image(layout: &Layout, tag: &str, layers: &[(&str, Vec<u8>, Vec<u8>)]) {
    let diff_ids: Vec<Digest> = layers.iter().map(|(_, _, tar)| Digest::of(tar)).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}
    });
    let layers: Vec<Value> = layers
        .iter()
        .map(|(media_type, bytes, _)| layout.put(media_type, bytes))
        .collect();
    put_manifest(layout, tag, &config, &layers);
}

fn put_manifest(layout: &Layout, tag: &str, config: &Value, layers: &[Value]) {
    let config = layout.put(CONFIG, config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers
    });
    layout.name(tag, layout.put(MANIFEST, manifest.to_string().as_bytes()));
}

/// An image under the tag `1`, and the TurboOCI image made of it under `turbo`.
pub struct Pair {
    pub layout: Layout,
    _place: tempfile::TempDir,
}

impl Pair {
    /// One of these tars, each gzip of a level or plain.
    pub fn new(tars: &[(Vec<u8>, Option<u32>)], options: &[&str]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let layout = Layout::new(&place.path().join("layout"));
        let layers: Vec<_> = tars
            .iter()
            .map(|(tar, level)| match level {
                Some(level) => (GZIP, gzip(tar, *level), tar.clone()),
                None => (TAR, tar.clone(), tar.clone()),
            })
            .collect();
        put_image(&layout, "1", &layers);
        let pair = Self {
            layout,
            _place: place,
        };
        let (from, to) = (pair.layout.at("1"), pair.layout.at("turbo"));
        let arguments = ["convert", "--quiet", "--turbo", "--vsize", "1", &from, &to];
        let output = program(&[&arguments[..], options].concat());
        assert!(output.status.success(), "{output:?}");
        let manifest = pair.manifest("turbo");
        let note = &manifest["layers"][0]["annotations"][format!("{NOTE}version")];
        assert_eq!(note, "0.1.0-turbo.ociv1", "{manifest:#}");
        pair
    }

    pub fn manifest(&self, tag: &str) -> Value {
        self.layout.document(&self.layout.named(tag))
    }

    pub fn config(&self, tag: &str) -> Value {
        self.layout.document(&self.manifest(tag)["config"])
    }

    /// Checks the image under a tag.
    pub fn check(&self, tag: &str) -> (Value, i32) {
        check(&[&self.layout.at(tag), "--source", &self.layout.at("1")])
    }

    /// Changes the manifest's layers and the config of the TurboOCI image, under the tag
    /// `changed`.
    pub fn change(&self, change: impl FnOnce(&mut Vec<Value>, &mut Value)) {
        let mut config = self.config("turbo");
        let mut layers = self.manifest("turbo")["layers"].as_array().unwrap().clone();
        change(&mut layers, &mut config);
        put_manifest(&self.layout, "changed", &config, &layers);
    }

    /// Changes the blob of a layer and the tar in it.
    pub fn change_blob(&self, number: usize, change: impl FnOnce(&[u8]) -> (Vec<u8>, Vec<u8>)) {
        self.change(|layers, config| {
            let (blob, tar) = change(&self.layout.read(&layers[number]));
            let mut layer = self.layout.put(GZIP, &blob);
            layer["annotations"] = layers[number]["annotations"].clone();
            layer["annotations"][format!("{NOTE}blob-digest")] = layer["digest"].clone();
            layer["annotations"][format!("{NOTE}blob-size")] = json!(blob.len().to_string());
            layers[number] = layer;
            config["rootfs"]["diff_ids"][number] = json!(Digest::of(&tar));
        });
    }

    /// Changes the files of a layer.
    pub fn change_files(&self, number: usize, change: impl FnOnce(&mut Files)) {
        self.change_blob(number, |blob| {
            let mut files = Files::of(blob);
            change(&mut files);
            let tar = files.tar();
            (gzip(&tar, 6), tar)
        });
    }

    /// The files of a layer.
    pub fn files(&self, number: usize) -> Files {
        Files::of(&self.layout.read(&self.manifest("turbo")["layers"][number]))
    }
}

/// The files of a TurboOCI layer, with their kinds in the tar.
pub struct Files(pub Vec<(String, u8, Vec<u8>)>);

impl Files {
    fn of(blob: &[u8]) -> Self {
        let mut archive = tar::Archive::new(Cursor::new(gunzip(blob)));
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let kind = entry.header().entry_type().as_byte();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (name, kind, bytes)
        });
        Self(entries.collect())
    }

    fn tar(&self) -> Vec<u8> {
        let tar = self.0.iter().fold(Tar::new(), |tar, (name, kind, bytes)| {
            tar.entry(Entry::new(*kind, name).data(bytes))
        });
        tar.finish()
    }

    pub fn get(&self, name: &str) -> &[u8] {
        &self.0.iter().find(|file| file.0 == name).unwrap().2
    }

    pub fn get_mut(&mut self, name: &str) -> &mut Vec<u8> {
        &mut self.0.iter_mut().find(|file| file.0 == name).unwrap().2
    }

    pub fn remove(&mut self, name: &str) {
        self.0.retain(|file| file.0 != name);
    }

    pub fn add(&mut self, name: &str, bytes: &[u8]) {
        self.0.push((name.to_owned(), FILE, bytes.to_vec()));
    }

    /// The warp file in the metadata.
    pub fn warp(&self) -> Warp {
        let device: SharedDevice = Arc::new(self.get("ext4.fs.meta").to_vec());
        let zfile = ZFileReader::open(device).unwrap();
        let mut bytes = vec![0; usize::try_from(zfile.size()).unwrap()];
        zfile.read_at(0, &mut bytes).unwrap();
        Warp::of(&bytes)
    }

    pub fn set_warp(&mut self, warp: &Warp) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let block = BlockSize::from_bytes(4096).unwrap();
        let pool = CompressPool::new(1).unwrap();
        let out = file.reopen().unwrap();
        let mut zfile = ZFileWriter::new(out, 0, Algorithm::Lz4, block, pool);
        zfile.write(&warp.bytes()).unwrap();
        zfile.finish().unwrap();
        *self.get_mut("ext4.fs.meta") = std::fs::read(file.path()).unwrap();
    }

    /// The index, read.
    pub fn index(&self) -> Index {
        let device: SharedDevice = Arc::new(self.get("gzip.meta").to_vec());
        let index = GzipIndex::open(device).unwrap();
        let points = index.entries().iter().map(|entry| Point {
            at: Boundary {
                compressed: entry.compressed,
                uncompressed: entry.uncompressed,
            },
            bits: entry.bits,
            window: index.window(entry).unwrap(),
        });
        Index {
            points: points.collect(),
            compressed: index.header().compressed_size,
            uncompressed: index.header().uncompressed_size,
        }
    }

    pub fn set_index(&mut self, index: &Index) {
        let mut writer = GzipIndexWriter::new(Cursor::new(Vec::new()), 1 << 20).unwrap();
        for point in &index.points {
            writer.add(point.at, point.bits, &point.window).unwrap();
        }
        let (file, _, _) = writer.finish(index.compressed, index.uncompressed).unwrap();
        *self.get_mut("gzip.meta") = file.into_inner();
    }
}

/// A gzip index.
pub struct Index {
    pub points: Vec<Point>,
    pub compressed: u64,
    pub uncompressed: u64,
}

pub struct Point {
    pub at: Boundary,
    pub bits: u8,
    pub window: Box<Window>,
}

/// A warp file: an LSMT with its mappings as they are stored, of 16 bytes each.
pub struct Warp {
    /// Header and data.
    pub front: Vec<u8>,
    pub mappings: Vec<Mapping>,
    trailer: Vec<u8>,
}

/// A mapping; all in sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    pub offset: u64,
    pub length: u64,
    pub place: u64,
    pub zeroed: bool,
    pub tag: u64,
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

impl Warp {
    fn of(bytes: &[u8]) -> Self {
        let (rest, trailer) = bytes.split_at(bytes.len() - 4096);
        let start = usize::try_from(number(trailer, 32)).unwrap();
        let count = usize::try_from(number(trailer, 40)).unwrap();
        let (front, index) = rest.split_at(start);
        let mappings = index.chunks(16).take(count).map(|entry| {
            let (first, second) = (number(entry, 0), number(entry, 8));
            Mapping {
                offset: first & ((1 << 50) - 1),
                length: first >> 50,
                place: second & ((1 << 55) - 1),
                zeroed: second >> 55 & 1 == 1,
                tag: second >> 56,
            }
        });
        Self {
            front: front.to_vec(),
            mappings: mappings.filter(|mapping| mapping.length > 0).collect(),
            trailer: trailer.to_vec(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.front.clone();
        for mapping in &self.mappings {
            let first = mapping.length << 50 | mapping.offset;
            let zeroed = u64::from(mapping.zeroed) << 55;
            let second = mapping.tag << 56 | zeroed | mapping.place;
            bytes.extend(first.to_le_bytes());
            bytes.extend(second.to_le_bytes());
        }
        let mut trailer = self.trailer.clone();
        trailer[40..48].copy_from_slice(&(self.mappings.len() as u64).to_le_bytes());
        bytes.extend(trailer);
        bytes
    }
}
