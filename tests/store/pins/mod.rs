//! What operators pin stays until they unpin it: by commands in a data directory and at a running
//! proxy, and by the API.

mod directory;
mod owners;
mod running;

use crate::support;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use support::image::{Image, Sealed, layer_digests};
use support::layout::Layout;
use support::proxy::{Proxy, program};
use support::tar::Tar;
use support::{http, noise, sha256};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn tar(seed: u64) -> Vec<u8> {
    let content = noise(seed, 200_000);
    Tar::new().file(&format!("file-{seed}"), content).finish()
}

/// An image of a layer that all have, and one of its own.
fn image(seed: u64) -> Sealed {
    Image::gzip(&[tar(1), tar(100 + seed)]).seal()
}

/// An upstream and a data directory, for one proxy after the other.
struct Place {
    scratch: tempfile::TempDir,
    layout: Layout,
}

impl Place {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::create(&scratch.path().join("layout"));
        std::fs::write(scratch.path().join("token"), format!("{TOKEN}\n")).unwrap();
        Self { scratch, layout }
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    fn token(&self) -> PathBuf {
        self.scratch.path().join("token")
    }

    #[track_caller]
    fn proxy(&self, more: &[&str]) -> Proxy {
        let upstream = format!("oci:{}", self.layout.path().display());
        let token = self.token();
        let token = ["--admin-token-file", token.to_str().unwrap()];
        let options = [&token[..], more].concat();
        Proxy::start(&upstream, &self.data(), &options)
    }

    /// Runs `cache` in the data directory.
    fn cache(&self, arguments: &[&str]) -> Output {
        let mut command = program();
        command.arg("cache").args(arguments).arg("--data-dir");
        command.arg(self.data()).output().unwrap()
    }

    /// Runs a command that asks the proxy.
    fn ask(&self, proxy: &Proxy, arguments: &[&str]) -> Output {
        let mut command = program();
        command.args(arguments).args(["--admin", proxy.admin()]);
        command.arg("--admin-token-file").arg(self.token());
        command.output().unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn good(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

#[track_caller]
fn json(output: &Output) -> Value {
    serde_json::from_str(&good(output)).unwrap()
}

/// A converted image: the digest of its manifest, and those of all its blobs with it.
#[track_caller]
fn converted(proxy: &Proxy, tag: &str) -> (String, BTreeSet<String>) {
    let answer = proxy.get(&format!("app/manifests/{tag}_obd"));
    assert_eq!(answer.status, 200, "{answer:?}\n{}", proxy.log());
    let manifest = sha256(&answer.body);
    (manifest.clone(), parts(&manifest, &answer.json()))
}

fn parts(digest: &str, manifest: &Value) -> BTreeSet<String> {
    let config = manifest["config"]["digest"].as_str().unwrap().to_owned();
    let mut all: BTreeSet<_> = layer_digests(manifest).into_iter().collect();
    all.extend([config, digest.to_owned()]);
    all
}

/// The blobs that are in a data directory, by the names of the files.
fn there(data: &Path) -> BTreeSet<String> {
    let files = support::proxy::blobs(data).into_iter();
    let blobs = files.filter(|path| path.starts_with(data.join("blobs")));
    let names = blobs.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
    names.map(|name| format!("sha256:{name}")).collect()
}

fn path_of(data: &Path, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").unwrap();
    data.join("blobs/sha256").join(&hex[..2]).join(hex)
}

#[track_caller]
fn pull(proxy: &Proxy, blobs: &BTreeSet<String>) {
    for digest in blobs {
        let kind = ["blobs", "manifests"].into_iter().find(|kind| {
            let answer = proxy.get(&format!("app/{kind}/{digest}"));
            answer.status == 200 && sha256(&answer.body) == *digest
        });
        assert!(kind.is_some(), "{digest}\n{}", proxy.log());
    }
}

fn send(proxy: &Proxy, method: &str, path: &str, body: &Value) -> http::Answer {
    let bearer = format!("Bearer {TOKEN}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let url = format!("{}/api/v1{path}", proxy.admin());
    http::send(method, &url, &headers, body.as_bytes())
}
