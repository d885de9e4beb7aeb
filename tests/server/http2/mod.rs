//! HTTP/2 on both sides: clients that speak it, and upstreams.

mod clients;
mod passing;
mod scripted;
mod stopping;
mod unsent;
mod upstream;

use crate::support;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::image::{Image, Sealed};
use support::noise;
use support::proxy::Proxy;
use support::registry::Registry;
use support::tar::Tar;
use support::until::until;

const OPTIONS: [&str; 4] = ["--platform", "linux/amd64", "--log-format", "json"];

fn image(number: u64) -> Sealed {
    let tar = Tar::new().file("file", noise(number, 600_000)).finish();
    Image::gzip(&[tar]).seal()
}

/// An authority, a server's certificate and key.
struct Keys(tempfile::TempDir);

impl Keys {
    fn new() -> Option<Self> {
        if !support::have(&["openssl"]) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs/make.sh");
        support::run(Command::new(script).arg(directory.path()));
        Some(Self(directory))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

/// A proxy with TLS before a registry with one image.
struct Scene {
    registry: Registry,
    keys: Keys,
    proxy: Proxy,
    _data: tempfile::TempDir,
}

impl Scene {
    fn new(more: &[&str]) -> Option<Self> {
        if !support::have(&["curl"]) {
            return None;
        }
        let keys = Keys::new()?;
        let registry = Registry::start()?;
        registry.push("team/app", "1", &image(1));
        let data = tempfile::tempdir().unwrap();
        let (certificate, key) = (keys.text("server.crt"), keys.text("server.key"));
        let tls = ["--tls-cert", &certificate, "--tls-key", &key];
        let options = [&OPTIONS[..], &tls, more].concat();
        let proxy = Proxy::start(&registry.url(), data.path(), &options);
        Some(Self {
            registry,
            keys,
            proxy,
            _data: data,
        })
    }

    /// curl at this path, with further arguments: what it gets.
    #[track_caller]
    fn curl(&self, path: &str, more: &[&str]) -> Got {
        let ca = self.keys.text("ca.crt");
        let more = [&["--cacert", &ca], more].concat();
        curl(&format!("{}{path}", self.proxy.url()), &more)
    }
}

/// What curl has got.
#[derive(Debug)]
struct Got {
    status: u16,
    protocol: String,
    head: String,
    body: Vec<u8>,
}

impl Got {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

#[track_caller]
fn curl(url: &str, more: &[&str]) -> Got {
    let directory = tempfile::tempdir().unwrap();
    let (head, body) = (directory.path().join("head"), directory.path().join("body"));
    let mut command = support::command("curl");
    command
        .args([
            "-sS",
            "--max-time",
            "120",
            "-w",
            "%{http_code} %{http_version}",
            "-D",
        ])
        .arg(&head)
        .arg("-o")
        .arg(&body)
        .args(more)
        .arg(url);
    let output = support::run(&mut command);
    let text = String::from_utf8(output.stdout).unwrap();
    let (status, protocol) = text.split_once(' ').unwrap();
    Got {
        status: status.parse().unwrap(),
        protocol: protocol.to_owned(),
        head: std::fs::read_to_string(&head).unwrap_or_default(),
        body: std::fs::read(&body).unwrap_or_default(),
    }
}

/// The protocols of the requests in the proxy's log whose path has this part, once there are so
/// many.
#[track_caller]
fn protocols(proxy: &Proxy, part: &str, count: usize) -> Vec<String> {
    until("lines of the access log", || {
        let log = proxy.log();
        let found: Vec<String> = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|event| event["target"] == "overlaybd_proxy::access")
            .filter(|event| event["path"].as_str().unwrap_or_default().contains(part))
            .map(|event| event["protocol"].as_str().unwrap_or_default().to_owned())
            .collect();
        (found.len() >= count).then_some(found)
    })
}

/// The path of the first layer of what `team/app:1` becomes.
#[track_caller]
fn layer(manifest: &Value) -> String {
    let digest = manifest["layers"][0]["digest"].as_str().unwrap();
    format!("/v2/team/app/blobs/{digest}")
}
