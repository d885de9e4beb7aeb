//! A converted image in a registry, behind a gate.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use overlaybd_proxy::lazy::{
    ImageDisk, ImageFilesystem, LayerPlace, OpenError, OpenFile, Origin, Reading, SizedBlob,
};
use overlaybd_proxy::registry::{Authorization, RegistryConfig, RetryPolicy, Timeouts, Upstream};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::support::gate::Gate;
use crate::support::image::{Flavour, Image, Packing, layer_digests};
use crate::support::layout::Layout;
use crate::support::proxy::program;
use crate::support::registry::Registry;
use crate::support::tar::Tar;
use crate::support::turbo::NOTE;
use crate::support::{noise, run};

/// Bytes of the large file.
pub const LARGE: usize = 20 << 20;
pub const REPO: &str = "team/app";

/// What `data/large` is.
pub fn large() -> Vec<u8> {
    noise(1, LARGE)
}

pub struct Served {
    pub registry: Registry,
    pub gate: Gate,
    manifest: Value,
    pub runtime: Runtime,
}

fn tars(count: usize, large: &[u8]) -> Vec<Vec<u8>> {
    let base = Tar::new()
        .dir("etc/")
        .file("etc/os-release", "NAME=demo\n")
        .dir("data/")
        .file("data/large", large)
        .finish();
    let more = (1..count).map(|number| {
        Tar::new()
            .file(&format!("data/{number}"), noise(number as u64, 1 << 20))
            .finish()
    });
    std::iter::once(base).chain(more).collect()
}

impl Served {
    /// An image of so many layers, the bottom one with a large file.
    pub fn start(layers: usize, is_turbo: bool) -> Option<Self> {
        Self::start_with(layers, is_turbo, &large())
    }

    /// The same with this for the large file.
    pub fn start_with(layers: usize, is_turbo: bool, large: &[u8]) -> Option<Self> {
        let registry = Registry::start()?;
        let scratch = tempfile::tempdir().unwrap();
        let name = |part: &str| format!("oci:{}:1", scratch.path().join(part).display());
        let tars = tars(layers, large);
        let tars: Vec<_> = tars.iter().map(|tar| (&tar[..], Packing::Gzip)).collect();
        let source = Layout::create(&scratch.path().join("source"));
        let image = Image::new(Flavour::Oci, &tars).seal();
        source.add("1", &image);
        let mut convert = program();
        convert.args(["convert", "--data-dir"]);
        convert.arg(scratch.path().join("data"));
        if is_turbo {
            convert.arg("--turbo");
        }
        run(convert.args([name("source"), name("converted")]));
        let converted = Layout::open(&scratch.path().join("converted"));
        let manifest = converted.manifest("1");
        let config = manifest["config"]["digest"].as_str().unwrap().to_owned();
        for digest in layer_digests(&manifest).iter().chain([&config]) {
            registry.push_blob(REPO, &converted.blob(digest));
        }
        if is_turbo {
            for layer in &image.blobs[1..] {
                registry.push_blob(REPO, &layer.bytes);
            }
        }
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let media_type = manifest["mediaType"].as_str().unwrap();
        registry.push_manifest(REPO, "1", media_type, &bytes);
        let gate = Gate::before(registry.address());
        Some(Self {
            registry,
            gate,
            manifest,
            runtime: Runtime::new().unwrap(),
        })
    }

    /// The image's name behind the gate.
    pub fn name(&self) -> String {
        let host = self.gate.url();
        format!("{}/{REPO}:1", host.strip_prefix("http://").unwrap())
    }

    /// The digest of a layer's blob, from the bottom.
    pub fn layer(&self, number: usize) -> String {
        layer_digests(&self.manifest).swap_remove(number)
    }

    /// A client that repeats nothing itself.
    fn origin(&self) -> Origin {
        let config = RegistryConfig {
            timeouts: Timeouts {
                connect: Duration::from_secs(2),
                ..Timeouts::default()
            },
            retry: RetryPolicy {
                attempts: 1,
                ..RetryPolicy::default()
            },
            ..RegistryConfig::default()
        };
        let url = self.gate.url();
        let host = url.strip_prefix("http://").unwrap();
        Origin {
            upstream: Upstream::registry(host, &config).unwrap(),
            repo: REPO.parse().unwrap(),
            authorization: Authorization::Own,
        }
    }

    pub fn places(&self) -> Vec<LayerPlace> {
        let layers = self.manifest["layers"].as_array().unwrap().iter();
        let place = |layer: &Value| {
            let note = layer["annotations"].get(format!("{NOTE}turbo-oci/target-digest"));
            let blob = sized(layer["digest"].as_str().unwrap(), &self.registry);
            let target = note.map(|digest| sized(digest.as_str().unwrap(), &self.registry));
            LayerPlace { blob, target }
        };
        layers.map(place).collect()
    }

    pub fn open(&self, reading: Reading) -> ImageDisk {
        self.try_open(self.places(), reading).unwrap()
    }

    pub fn try_open(
        &self,
        places: Vec<LayerPlace>,
        reading: Reading,
    ) -> Result<ImageDisk, OpenError> {
        let origin = self.origin();
        let opening = ImageDisk::open(&origin, places, reading);
        self.runtime.block_on(opening)
    }

    /// The disk, and its filesystem.
    pub fn files(&self, reading: Reading) -> (ImageDisk, ImageFilesystem) {
        let disk = self.open(reading);
        let device = Arc::<overlaybd_proxy::format::blob::Stack>::clone(&disk.stack);
        let files = ImageFilesystem::open(device).unwrap();
        (disk, files)
    }
}

fn sized(digest: &str, registry: &Registry) -> SizedBlob {
    let size = std::fs::metadata(registry.blob_path(digest)).unwrap().len();
    (digest.parse().unwrap(), size)
}

/// `data/large`, opened.
pub fn open_large(files: &ImageFilesystem) -> OpenFile {
    let data = files.lookup(files.root(), b"data").unwrap().unwrap();
    let large = files.lookup(data, b"large").unwrap().unwrap();
    files.open_file(large).unwrap()
}

/// All of a file, by reads of this size.
pub fn read(files: &ImageFilesystem, file: &OpenFile, step: usize) -> std::io::Result<Vec<u8>> {
    let mut whole = Vec::new();
    let mut buffer = vec![0; step];
    loop {
        let count = files.read(file, whole.len() as u64, &mut buffer)?;
        if count == 0 {
            return Ok(whole);
        }
        whole.extend_from_slice(&buffer[..count]);
    }
}

/// Bytes of the files in a directory, and how many there are.
pub fn usage(directory: &Path) -> (u64, usize) {
    let files = files_in(directory);
    let sizes = files.iter().map(|file| file.metadata().unwrap().len());
    (sizes.sum(), files.len())
}

/// The pieces in a cache.
pub fn files_in(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(path) = todo.pop() {
        for entry in std::fs::read_dir(&path).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.file_name().unwrap() != "bytes" {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}
