//! Replicas that share a bucket instead of a disk, before a real registry and a real S3 server.

mod damage;
mod outage;
mod redirect;
mod replicas;
mod roles;
mod stop;
mod survey;

use crate::support;
use std::path::Path;

use support::image::{Image, Sealed, layer_digests};
use support::proxy::Proxy;
use support::tar::Tar;
use support::{noise, sha256};

const PLATFORM: [&str; 2] = ["--platform", "linux/amd64"];

fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    Tar::new().file(name, content).finish()
}

/// An image of one layer that all images of this seed share, and one of its own.
fn image(seed: u64, number: u64) -> Sealed {
    let shared = tar("etc/shared", &noise(seed, 300_000));
    let own = tar("etc/own", &noise(seed * 1000 + number, 50_000));
    Image::gzip(&[shared, own]).seal()
}

/// The digests of all that a converted image consists of besides its manifest.
fn parts(manifest: &serde_json::Value) -> Vec<String> {
    let config = manifest["config"]["digest"].as_str().unwrap().to_owned();
    std::iter::once(config)
        .chain(layer_digests(manifest))
        .collect()
}

/// Pulls each part whole, and compares it with its digest.
#[track_caller]
fn pull(proxy: &Proxy, repo: &str, manifest: &serde_json::Value) {
    for digest in parts(manifest) {
        let blob = proxy.get(&format!("{repo}/blobs/{digest}"));
        assert_eq!(blob.status, 200, "{blob:?}\n{}", proxy.log());
        assert_eq!(sha256(&blob.body), digest);
    }
}

/// Takes all blobs of a data directory away, as an eviction does.
fn empty(data: &Path) {
    for path in support::proxy::blobs(data) {
        std::fs::remove_file(path).unwrap();
    }
}

/// A counter that a replica must have.
#[track_caller]
fn metric(proxy: &Proxy, name: &str) -> u64 {
    let name = format!("overlaybd_proxy_{name}");
    proxy.metric(&name).unwrap_or_else(|| panic!("{name}"))
}
