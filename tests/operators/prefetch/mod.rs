//! Acceleration layers: images that are converted with a prefetch list have one more layer, by
//! which nodes read ahead what the list names.

mod convert;
mod records;
mod replay;
mod serve;
mod trace;
mod turbo;

use crate::support;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use support::image::{Flavour, Image, Packing, Sealed};
use support::layout::Layout;
use support::proxy::program;
use support::tar::{self, Entry, Tar};
use support::{noise, sha256};

const PREFIX: &str = "containerd.io/snapshot/overlaybd/";
const LIST: &str = "/bin/tool\n/data/\n/missing\n/lib/current/lib.so.1\n/data/two\n/etc\n";

/// Layers with all that a list's lines may lead to: files of every layer, a directory, links, what
/// is replaced and removed further up.
fn layers() -> Vec<Vec<u8>> {
    let base = Tar::new()
        .dir("bin/")
        .dir("data/")
        .dir("etc/")
        .file("etc/unwanted", noise(1, 300_000))
        .file("data/one", noise(2, 70_001))
        .file("data/two", noise(3, 5_000))
        .file("data/removed", noise(4, 50_000))
        .file("data/empty", "")
        .entry(
            Entry::new(tar::FILE, "bin/tool")
                .mode(0o755)
                .data(&noise(5, 9_000)),
        )
        .finish();
    let above = Tar::new()
        .entry(
            Entry::new(tar::FILE, "bin/tool")
                .mode(0o755)
                .data(&noise(6, 2_500_000)),
        )
        .file("data/.wh.removed", "")
        .dir("data/more/")
        .file("data/more/three", noise(7, 20_000))
        .hard("data/again", "data/one")
        .dir("lib/")
        .dir("lib/1.0/")
        .file("lib/1.0/lib.so.1.0", noise(8, 33_000))
        .soft("lib/1.0/lib.so.1", "/lib/../lib/1.0/lib.so.1.0")
        .soft("lib/current", "1.0")
        .finish();
    vec![base, above]
}

/// What the list leads to, in its order: which content of [`layers`] it is, and how many bytes.
const WANTED: [(u64, usize); 5] = [
    (6, 2_500_000),
    // The names of the directory in their order: `again` is `one`, then `more/three`.
    (2, 70_001),
    (7, 20_000),
    (3, 5_000),
    (8, 33_000),
];

fn image(flavour: Flavour) -> Sealed {
    let layers = layers();
    let tars: Vec<_> = layers.iter().map(|tar| (&tar[..], Packing::Gzip)).collect();
    Image::new(flavour, &tars).seal()
}

/// Where images are made and converted.
struct Workshop {
    directory: tempfile::TempDir,
    source: Layout,
}

impl Workshop {
    /// With an image `1` of [`layers`].
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let source = Layout::create(&directory.path().join("source"));
        source.add("1", &image(Flavour::Oci));
        source.add("docker", &image(Flavour::Docker));
        Self { directory, source }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A list in a file.
    fn list(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn source(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.source.path().display())
    }

    /// Converts an image into a layout of this name; where it is, and its digest.
    fn convert(&self, tag: &str, out: &str, more: &[&str]) -> Converted {
        let mut command = program();
        command.args(["convert", "--quiet", "--vsize", "64MiB"]);
        command.args(more).arg(self.source(tag));
        command.arg(format!("oci:{}:{tag}", self.path(out).display()));
        let ran = support::run(&mut command);
        let digest = String::from_utf8(ran.stdout).unwrap().trim().to_owned();
        Converted {
            name: format!("oci:{}:{tag}", self.path(out).display()),
            layout: Layout::open(&self.path(out)),
            digest,
        }
    }
}

/// A converted image in a layout.
struct Converted {
    name: String,
    layout: Layout,
    digest: String,
}

impl Converted {
    fn manifest(&self) -> Value {
        self.layout.json(&self.digest)
    }

    fn layer(&self, number: usize) -> Value {
        self.manifest()["layers"][number].clone()
    }

    /// How many layers there are.
    fn count(&self) -> usize {
        self.manifest()["layers"].as_array().unwrap().len()
    }

    fn blob(&self, number: usize) -> Vec<u8> {
        let layer = self.layer(number);
        self.layout.blob(layer["digest"].as_str().unwrap())
    }

    fn config(&self) -> Value {
        let manifest = self.manifest();
        self.layout
            .json(manifest["config"]["digest"].as_str().unwrap())
    }
}

/// Has `check` compare an image with its source, which must find nothing.
#[track_caller]
fn check(converted: &str, source: &str) {
    support::run(program().args(["check", converted, "--source", source]));
}

/// What `inspect` says of an image's layers.
fn inspect(image: &str) -> Vec<Value> {
    let ran = support::run(program().args(["inspect", "--json", "--mappings", image]));
    let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
    report["layers"].as_array().unwrap().clone()
}

/// The uppermost layer's descriptor must be that of an acceleration layer of these bytes.
#[track_caller]
fn assert_described(layer: &Value, blob: &[u8], media_type: &str) {
    assert_eq!(layer["mediaType"], media_type);
    assert_eq!(layer["digest"], sha256(blob));
    assert_eq!(layer["size"], blob.len());
    let annotations = layer["annotations"].as_object().unwrap();
    let says = |key: &str| annotations[&format!("{PREFIX}{key}")].as_str().unwrap();
    assert_eq!(says("acceleration-layer"), "yes");
    assert_eq!(says("version"), "0.1.0");
    assert_eq!(says("blob-digest"), sha256(blob));
    assert_eq!(says("blob-size"), blob.len().to_string());
    // Snapshotters mount what the uppermost layer says.
    assert_eq!(says("blob-fs-type"), "ext4");
    assert_eq!(annotations.len(), 5, "{annotations:?}");
}
