//! overlaybd opens a blob with a request of whose answer it reads nothing: it is sent to a signed
//! address, and reads there.

mod addresses;
mod places;
mod reader;
mod replicas;
mod rights;
mod sources;
mod vain;
mod wire;

use crate::support;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use reader::Reader;
use support::image::{Image, Sealed, layer_digests};
use support::proxy::Proxy;
use support::registry::Registry;
use support::tar::Tar;
use support::{command, noise};

const PLATFORM: [&str; 2] = ["--platform", "linux/amd64"];

/// Keys of `--url-key-file`.
const KEY: &str = "5b1f0c6a4f1d8f5b0d3c2a1908f7e6d5c4b3a29180f7e6d5c4b3a291807f6e5d";
const OTHER_KEY: &str = "a09b1f0c6a4f1d8f5b0d3c2a1908f7e6d5c4b3a29180f7e6d5c4b3a29180abcd";

/// An image of layers of about so many bytes each.
fn image(seed: u64, layers: u64, bytes: usize) -> Sealed {
    let tar = |layer: u64| {
        let name = format!("file-{layer}");
        let data = noise(seed * 100 + layer, bytes);
        Tar::new().file(&name, data).finish()
    };
    let tars: Vec<_> = (0..layers).map(tar).collect();
    Image::gzip(&tars).seal()
}

/// A file of keys, and the option that names it.
fn keys(directory: &Path, keys: &[&str]) -> (PathBuf, [String; 2]) {
    let path = directory.join("url-keys");
    std::fs::write(&path, keys.join("\n")).unwrap();
    let option = ["--url-key-file".to_owned(), path.display().to_string()];
    (path, option)
}

/// An open registry with one image, and a proxy before it.
struct Scene {
    proxy: Proxy,
    registry: Registry,
    _data: tempfile::TempDir,
    /// Its converted layers.
    layers: Vec<String>,
}

impl Scene {
    /// Of small layers.
    fn new(options: &[&str]) -> Option<Self> {
        Self::of(&image(1, 2, 300_000), options)
    }

    fn of(image: &Sealed, options: &[&str]) -> Option<Self> {
        let registry = Registry::start()?;
        registry.push("app", "1", image);
        let data = tempfile::tempdir().unwrap();
        let options = [&PLATFORM[..], options].concat();
        let proxy = Proxy::start(&registry.url(), data.path(), &options);
        let layers = layer_digests(&proxy.converted("app", "1"));
        Some(Self {
            proxy,
            registry,
            _data: data,
            layers,
        })
    }

    /// The address of its first layer.
    fn blob(&self) -> String {
        blob(self.proxy.url(), "app", &self.layers[0])
    }

    /// That blob as everyone gets it.
    #[track_caller]
    fn bytes(&self) -> Vec<u8> {
        let answer = self.proxy.get(&format!("app/blobs/{}", self.layers[0]));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body.to_vec()
    }

    /// The signed address of its first layer.
    #[track_caller]
    fn signed(&self) -> String {
        let mut reader = Reader::new();
        reader.open(&self.blob()).unwrap();
        reader.address(&self.blob()).to_owned()
    }
}

fn blob(proxy: &str, repo: &str, digest: &str) -> String {
    format!("{proxy}/v2/{repo}/blobs/{digest}")
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    since.as_secs()
}

/// The query of a signed address, as openssl signs it with a key.
#[track_caller]
fn sign(key: &str, mark: &str, expires: u64, upstream: &str, repo: &str, digest: &str) -> String {
    use std::io::Write as _;
    let text = format!("overlaybd-signed 1\n{mark}\n{expires}\n{repo}\n{digest}\n{upstream}");
    let mut openssl = command("openssl");
    openssl.args(["dgst", "-sha256", "-mac", "HMAC", "-macopt"]);
    openssl.arg(format!("key:{key}"));
    openssl.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = openssl.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let signature = output.trim().rsplit(' ').next().unwrap();
    assert_eq!(signature.len(), 64, "{output}");
    format!("overlaybd-signed=1{mark}.{expires}.{signature}")
}
