//! Prefetch lists: the data of the files that they name lies together at the end of a layer, and
//! the disk is the same as without a list.

mod any_layers;
mod disk;
mod place;
mod settings;

use crate::support;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::image::Image;
use support::layout::Layout;
use support::proxy::program;

/// Where images are made and converted.
struct Workshop {
    directory: tempfile::TempDir,
    source: Layout,
}

/// A converted image.
struct Converted {
    digest: String,
    /// The blobs, bottom first.
    blobs: Vec<PathBuf>,
}

impl Workshop {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let source = Layout::create(&directory.path().join("source"));
        Self { directory, source }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts an image of these layers into the source.
    fn image(&self, tag: &str, tars: &[Vec<u8>]) {
        self.source.add(tag, &Image::gzip(tars).seal());
    }

    /// A list in a file.
    fn list(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Converts an image.
    fn convert(&self, tag: &str, more: &[&str]) -> Converted {
        let out = self.path("out");
        let mut command = program();
        // The layers of the disk only.
        command.args(["convert", "--quiet", "--vsize", "64MiB"]);
        command.arg("--acceleration-layer=false");
        command.args(more);
        command.arg(format!("oci:{}:{tag}", self.source.path().display()));
        command.arg(format!("oci:{}:{tag}", out.display()));
        let ran = support::run(&mut command);
        let layout = Layout::open(&out);
        let digest = String::from_utf8(ran.stdout).unwrap().trim().to_owned();
        let layers = layout.json(&digest)["layers"].clone();
        let blobs = layers.as_array().unwrap().iter();
        let blobs = blobs.map(|layer| layout.blob_path(layer["digest"].as_str().unwrap()));
        Converted {
            digest,
            blobs: blobs.collect(),
        }
    }
}

impl Converted {
    /// The merged disk, by a reader that is not the program's.
    fn disk(&self, raw: &Path) -> Vec<u8> {
        support::verifier::disk(&self.blobs, raw);
        fs::read(raw).unwrap()
    }
}

/// What `inspect` says of an image's layers.
fn inspect(image: &str) -> Vec<Value> {
    let ran = support::run(program().args(["inspect", "--json", image]));
    let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
    report["layers"].as_array().unwrap().clone()
}
