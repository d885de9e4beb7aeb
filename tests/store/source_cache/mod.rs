//! `--cache-source`: what upstreams have is downloaded once, and given to those only that the
//! upstream lets have it.

mod conversions;
mod incoming;
mod kept;
mod pulls;
mod rights;
mod tags;

use crate::support;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use support::gate::Gate;
use support::http::Answer;
use support::image::{Image, Sealed};
use support::noise;
use support::proxy::Proxy;
use support::registry::Registry;
use support::tar::Tar;
use support::until::until;

const PLATFORM: [&str; 2] = ["--platform", "linux/amd64"];

/// An image of one layer, of about so many bytes.
fn image(seed: u64, bytes: usize) -> Sealed {
    let tar = Tar::new().file("file", noise(seed, bytes)).finish();
    Image::gzip(&[tar]).seal()
}

/// The digest of its only layer.
fn layer_of(image: &Sealed) -> String {
    let manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["layers"][0]["digest"].as_str().unwrap().to_owned()
}

/// The bytes of one of its blobs.
fn bytes_of<'a>(image: &'a Sealed, digest: &str) -> &'a [u8] {
    let blob = image.blobs.iter().find(|blob| blob.digest() == digest);
    &blob.unwrap().bytes
}

/// A registry, a gate before it, and a proxy before that.
struct Setting {
    proxy: Proxy,
    gate: Gate,
    registry: Registry,
    data: tempfile::TempDir,
}

impl Setting {
    fn new(options: &[&str]) -> Option<Self> {
        Self::with(&[&["--cache-source"], options].concat())
    }

    /// With these options only.
    fn with(options: &[&str]) -> Option<Self> {
        let registry = Registry::start()?;
        let gate = Gate::before(registry.address());
        let data = tempfile::tempdir().unwrap();
        let options = [&PLATFORM[..], options].concat();
        let proxy = Proxy::start(&gate.url(), data.path(), &options);
        Some(Self {
            proxy,
            gate,
            registry,
            data,
        })
    }

    /// Pulls something of which nothing is there, and waits until it is.
    #[track_caller]
    fn fill(&self, path: &str) {
        assert_outcome(&self.proxy.get(path), 200, Some("filled"));
        kept(|| self.proxy.get(path));
    }

    fn outcomes(&self, outcome: &str) -> u64 {
        outcomes(&self.proxy, outcome)
    }
}

fn outcomes(proxy: &Proxy, outcome: &str) -> u64 {
    let name = format!("overlaybd_proxy_source_cache_total{{outcome=\"{outcome}\"}}");
    let metrics = support::http::get(&format!("{}/metrics", proxy.admin())).text();
    let mut lines = metrics.lines();
    let value = lines.find_map(|line| line.strip_prefix(&*name)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("{name} in {metrics}"))
}

/// Asks until the answer is from the store: who gets the last byte is not the last to know that
/// all is verified.
#[track_caller]
fn kept(ask: impl Fn() -> Answer) -> Answer {
    until("it is in the cache", || {
        let answer = ask();
        assert_eq!(answer.status, 200, "{answer:?}");
        (answer.header("overlaybd-outcome") == Some("hit")).then_some(answer)
    })
}

#[track_caller]
fn assert_outcome(answer: &Answer, status: u16, outcome: Option<&str>) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("overlaybd-outcome"), outcome, "{answer:?}");
}

/// A request whose answer is read by and by.
struct Reading {
    stream: TcpStream,
    pub head: String,
    /// What has come of the body.
    pub body: Vec<u8>,
}

impl Reading {
    fn begin(proxy: &Proxy, path: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(proxy.host()).unwrap();
        let head = format!(
            "GET /v2/{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n",
            proxy.host()
        );
        stream.write_all(head.as_bytes()).unwrap();
        Self {
            stream,
            head: String::new(),
            body: Vec::new(),
        }
    }

    /// Reads until so many bytes of the body are there, or all are; whether they are.
    #[track_caller]
    fn read(&mut self, bytes: usize) -> bool {
        let mut buffer = vec![0; 64 << 10];
        while self.head.is_empty() || self.body.len() < bytes {
            let Ok(count @ 1..) = self.stream.read(&mut buffer) else {
                return false;
            };
            self.body.extend(&buffer[..count]);
            if self.head.is_empty()
                && let Some(end) = self.body.windows(4).position(|it| it == b"\r\n\r\n")
            {
                let rest = self.body.split_off(end + 4);
                self.head = String::from_utf8(std::mem::replace(&mut self.body, rest)).unwrap();
                self.head.make_ascii_lowercase();
            }
        }
        true
    }

    /// Reads to the end.
    #[track_caller]
    fn rest(mut self) -> (String, Vec<u8>) {
        self.read(usize::MAX);
        (self.head, self.body)
    }
}
