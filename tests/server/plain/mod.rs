//! Plain tags that are answered with converted images: to nodes that say that they read overlaybd,
//! and by policy.

mod below;
mod containerd;
mod explain;
mod forms;
mod originals;
mod policy;

use crate::support;
use std::path::PathBuf;

use support::http::{self, Answer};
use support::image::{Flavour, Image, Packing, Sealed};
use support::noise;
use support::proxy::Proxy;
use support::registry::Registry;
use support::tar::Tar;

/// A registry that no client can reach but through a proxy.
const MIRRORED: &str = "registry.test";
const FORMAT: &str = "overlaybd-format";

/// An image of one layer.
fn image(number: u64, packing: Packing) -> Sealed {
    let tar = Tar::new().file("file", noise(number, 20_000)).finish();
    Image::new(Flavour::Oci, &[(&tar, packing)]).seal()
}

/// A registry with `demo:1`, which every format can carry, and `demo:zstd`, which TurboOCI cannot.
struct Place {
    registry: Registry,
    demo: Sealed,
    zstd: Sealed,
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Option<Self> {
        let registry = Registry::start()?;
        let (demo, zstd) = (image(1, Packing::Gzip), image(2, Packing::Zstd));
        registry.push("demo", "1", &demo);
        registry.push("demo", "zstd", &zstd);
        Some(Self {
            registry,
            demo,
            zstd,
            directory: tempfile::tempdir().unwrap(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The registry as an upstream that is mirrored by its own address and as [`MIRRORED`].
    fn upstream(&self) -> String {
        let address = self.registry.address();
        format!("{},ns={address},ns={MIRRORED}", self.registry.url())
    }

    /// A proxy with a data directory of this name.
    #[track_caller]
    fn proxy(&self, name: &str, more: &[&str]) -> Proxy {
        let options = [&["--platform", "linux/amd64"], more].concat();
        Proxy::start(&self.upstream(), &self.path(name), &options)
    }

    /// A proxy with these lines in its configuration file.
    #[track_caller]
    fn ruled(&self, name: &str, rules: &str, more: &[&str]) -> Proxy {
        let file = self.path(&format!("{name}.toml"));
        std::fs::write(&file, rules).unwrap();
        let mut command = support::proxy::program();
        command.arg("--config").arg(file);
        let options = [&["--platform", "linux/amd64"], more].concat();
        Proxy::start_as(command, &self.upstream(), &self.path(name), &options)
    }
}

/// Asks for what is below the proxy's address.
#[track_caller]
fn ask(method: &str, proxy: &Proxy, path: &str, headers: &[(&str, &str)]) -> Answer {
    let headers = [&[("accept", http::ACCEPT)], headers].concat();
    http::send(method, &format!("{}{path}", proxy.url()), &headers, b"")
}

/// A manifest, in the form that a header says, which HEAD has to agree with.
#[track_caller]
fn manifest(proxy: &Proxy, path: &str, form: Option<&str>) -> Answer {
    let form = form.map(|form| (FORMAT, form));
    let headers: Vec<(&str, &str)> = form.into_iter().collect();
    let head = ask("HEAD", proxy, path, &headers);
    let answer = ask("GET", proxy, path, &headers);
    assert_eq!(answer.status, head.status, "{path}: {head:?} {answer:?}");
    if answer.status == 200 {
        for name in [
            "docker-content-digest",
            "content-length",
            "vary",
            "content-type",
        ] {
            assert_eq!(answer.header(name), head.header(name), "{path}: {name}");
        }
        let digest = support::sha256(&answer.body);
        assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
    }
    answer
}

/// The form of an image by its own annotations.
fn form_of(answer: &Answer) -> &'static str {
    let text = answer.text();
    if text.contains("turbo-oci/target-digest") {
        "turbo"
    } else if text.contains("overlaybd/blob-digest") {
        "native"
    } else {
        "original"
    }
}

#[track_caller]
fn varies(answer: &Answer) -> bool {
    let values = answer.headers.get_all("vary").iter();
    let names = values.flat_map(|value| value.to_str().unwrap().split(','));
    names
        .map(str::trim)
        .any(|name| name.eq_ignore_ascii_case(FORMAT))
}
