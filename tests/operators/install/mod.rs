//! What the program is installed with: the chart and the manifests made from it, the script that leads
//! containerd to the proxy, the image, the units, and Compose's file; each read by the programs that
//! they are for.

#[path = "../../nodes/node/made_up.rs"]
mod made_up;

mod chart;
mod compose;
mod helm;
mod hosts;
mod image;
mod pods;
mod settings;
mod units;
mod values;

use crate::support;
use std::path::{Path, PathBuf};

use support::layout::Layout;
use support::proxy::Proxy;

/// A file of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The text of a file of the repository.
#[track_caller]
fn text(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A proxy before nothing, and what it keeps.
#[track_caller]
fn proxy() -> (Proxy, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let images = directory.path().join("images");
    Layout::create(&images);
    let upstream = format!("oci:{}", images.display());
    let proxy = Proxy::start(&upstream, &directory.path().join("data"), &[]);
    (proxy, directory)
}
