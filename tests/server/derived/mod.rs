//! What is made of converted images for those who look for one: lists of referrers, indexes with
//! both forms, and blobs at overlaybd's accelerator address.

mod clients;
mod fallback;
mod list;
mod merged;
mod p2p;
mod pages;

use crate::support;
use std::path::PathBuf;

use serde_json::Value;
use support::http::{self, Answer};
use support::image::{Image, Sealed};
use support::proxy::Proxy;
use support::registry::Registry;
use support::tar::Tar;
use support::{noise, sha256};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const NATIVE: &str = "application/vnd.containerd.overlaybd.native.v1+json";
const TURBO: &str = "application/vnd.containerd.overlaybd.turbo.v1+json";

fn image(seed: u64) -> Sealed {
    let below = Tar::new().file("data", noise(seed, 50_000)).finish();
    let above = Tar::new().file("more", noise(seed + 1, 5_000)).finish();
    Image::gzip(&[below, above]).seal()
}

/// `app:1` in Debian's registry, which has no API for referrers, and the proxy before it.
struct Place {
    proxy: Proxy,
    registry: Registry,
    source: Sealed,
    // Last, so that the layers in it are looked at when the proxy goes.
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Option<Self> {
        Self::with(image(1), &[])
    }

    fn with(source: Sealed, options: &[&str]) -> Option<Self> {
        let registry = Registry::start()?;
        let directory = tempfile::tempdir().unwrap();
        registry.push("app", "1", &source);
        let proxy = Proxy::start(&registry.url(), &directory.path().join("data"), options);
        Some(Self {
            proxy,
            registry,
            source,
            directory,
        })
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Stops the proxy, lets `change` do something to its data, and starts it again.
    #[track_caller]
    fn restarted(self, change: impl FnOnce()) -> Self {
        self.proxy.stop();
        change();
        let data = self.directory.path().join("data");
        Self {
            proxy: Proxy::start(&self.registry.url(), &data, &[]),
            ..self
        }
    }

    /// The manifest that `app:1` becomes under a tag with this suffix.
    #[track_caller]
    fn convert(&self, suffix: &str) -> Value {
        let answer = self.proxy.get(&format!("app/manifests/1{suffix}"));
        assert_eq!(answer.status, 200, "{answer:?}\n{}", self.proxy.log());
        answer.json()
    }

    fn referrers(&self, subject: &str, query: &str) -> Answer {
        self.proxy.get(&format!("app/referrers/{subject}{query}"))
    }

    /// A manifest by its digest, which its bytes must have.
    #[track_caller]
    fn by_digest(&self, digest: &str) -> Answer {
        let answer = self.proxy.get(&format!("app/manifests/{digest}"));
        assert_eq!(answer.status, 200, "{answer:?}\n{}", self.proxy.log());
        assert_eq!(sha256(&answer.body), digest);
        assert_eq!(answer.header("docker-content-digest"), Some(digest));
        answer
    }

    /// The file of a blob in the proxy's store.
    fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let blobs = support::proxy::blobs(&self.data()).into_iter();
        let mut found =
            blobs.filter(|path| path.ends_with(hex) || path.to_string_lossy().contains(hex));
        found
            .next()
            .unwrap_or_else(|| panic!("{digest} is not in the store"))
    }
}

/// `HEAD` of an address below `/v2/`, which must say what its `GET` does.
#[track_caller]
fn assert_head_is_get(proxy: &Proxy, path: &str) {
    let url = format!("{}/v2/{path}", proxy.url());
    let accept = [("accept", http::ACCEPT)];
    let (get, head) = (
        http::send("GET", &url, &accept, b""),
        http::send("HEAD", &url, &accept, b""),
    );
    assert!(head.body.is_empty(), "{head:?}");
    assert_eq!(get.status, head.status, "{path}");
    let lines = |answer: &Answer| {
        let mut lines: Vec<String> = answer
            .headers
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "x-request-id" | "date"))
            .map(|(name, value)| format!("{name}: {value:?}"))
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(&get), lines(&head), "{path}");
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

/// The entries of a list, and of an index.
#[track_caller]
fn entries(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some(OCI_INDEX), "{answer:?}");
    answer.json()["manifests"].as_array().unwrap().clone()
}

fn types(entries: &[Value]) -> Vec<&str> {
    entries
        .iter()
        .map(|entry| entry["artifactType"].as_str().unwrap_or_default())
        .collect()
}
