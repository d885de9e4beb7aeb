//! Few file descriptors: what they suffice for, and what is said when they do not.

use crate::support;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use support::image::{Image, Sealed};
use support::layout::Layout;
use support::proxy::{Proxy, program};
use support::tar::Tar;
use support::until::until;
use support::{http, noise};

/// An image of so many layers, none of which another image has.
fn tall(name: &str, layers: usize) -> Sealed {
    let layer = |n: usize| {
        let text = format!("{name} {n}");
        Tar::new().file(&format!("file-{n}"), text).finish()
    };
    Image::gzip(&(0..layers).map(layer).collect::<Vec<_>>()).seal()
}

/// The program, allowed to open `files` files.
fn limited(files: usize) -> Command {
    let inner = program();
    let mut command = Command::new("sh");
    let script = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
    command.arg("-c").arg(script).arg(inner.get_program());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

fn open_files(proxy: &Proxy) -> usize {
    let directory = format!("/proc/{}/fd", proxy.pid());
    std::fs::read_dir(directory).unwrap().count()
}

fn manifest(proxy: &Proxy, repo: &str, tag: &str) -> http::Answer {
    let url = format!("{}/v2/{repo}/manifests/{tag}", proxy.url());
    http::send("GET", &url, &[("accept", http::ACCEPT)], b"")
}

#[test]
fn images_of_many_layers_are_converted_and_read_with_few_descriptors() {
    const IMAGES: usize = 4;
    const LAYERS: usize = 120;
    let place = tempfile::tempdir().unwrap();
    let layout = Layout::create(&place.path().join("images"));
    for n in 0..IMAGES {
        layout.add(&format!("tall-{n}"), &tall(&format!("image {n}"), LAYERS));
    }
    layout.add("small", &tall("small", 2));
    let upstream = format!("oci:{}", layout.path().display());
    let data = place.path().join("data");
    // One descriptor for each layer of each image would be twice as many.
    let options = [
        "--platform",
        "linux/amd64",
        "--conversions",
        "4",
        "--hold",
        "10m",
    ];
    let proxy = Proxy::start_as(limited(240), &upstream, &data, &options);
    let small = manifest(&proxy, "images", "small_obd").json();
    let blob = small["layers"][0]["digest"].as_str().unwrap();
    std::thread::scope(|scope| {
        let (proxy, mut waiting) = (&proxy, Vec::new());
        for n in 0..IMAGES {
            waiting.push(scope.spawn(move || manifest(proxy, "images", &format!("tall-{n}_obd"))));
        }
        while !waiting
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            let read = proxy.get(&format!("images/blobs/{blob}"));
            assert_eq!(read.status, 200, "{read:?}");
        }
        for answer in waiting {
            let answer = answer.join().unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.json()["layers"].as_array().unwrap().len(), LAYERS);
        }
    });
    proxy.stop();
    // On top of what is there: the lower layers are read anew.
    let proxy = Proxy::start_as(limited(240), &upstream, &data, &options);
    for n in 0..IMAGES {
        let answer = manifest(&proxy, "images", &format!("tall-{n}_obd"));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    proxy.stop();
}

/// A connection that is kept: another one would need a descriptor.
struct Kept(TcpStream);

impl Kept {
    fn to(proxy: &Proxy) -> Self {
        let mut kept = Self(TcpStream::connect(proxy.host()).unwrap());
        assert_eq!(kept.get("").0, 200);
        kept
    }

    /// Status and head of an answer.
    fn get(&mut self, path: &str) -> (u16, String) {
        write!(
            self.0,
            "GET /v2/{path} HTTP/1.1\r\nhost: proxy\r\naccept: {}\r\n\r\n",
            http::ACCEPT
        )
        .unwrap();
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while !answer.ends_with(b"\r\n\r\n") {
            assert_eq!(self.0.read(&mut byte).unwrap(), 1, "no answer");
            answer.push(byte[0]);
        }
        let head = String::from_utf8(answer).unwrap().to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap();
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        (head[9..12].parse().unwrap(), head)
    }
}

fn set_limit(proxy: &Proxy, files: usize) {
    let limit = format!("--nofile={files}:1024");
    support::run(support::command("prlimit").args(["--pid", &proxy.pid().to_string(), &limit]));
}

fn directory_of(data: &Path) -> Layout {
    let layout = Layout::create(&data.join("images"));
    layout.add("a", &tall("a", 2));
    let layer = Tar::new().file("b", noise(7, 4096)).finish();
    layout.add("b", &Image::gzip(&[layer]).seal());
    layout
}

#[test]
fn requests_without_free_descriptors_are_503_and_succeed_later() {
    if !support::have(&["prlimit"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let layout = directory_of(place.path());
    let upstream = format!("oci:{}", layout.path().display());
    let data = place.path().join("data");
    let options = ["--platform", "linux/amd64", "--auth-cache-ttl", "10m"];
    let proxy = Proxy::start_as(limited(1024), &upstream, &data, &options);
    let converted = manifest(&proxy, "images", "a_obd").json();
    let mut kept = Kept::to(&proxy);
    let blob = converted["layers"][0]["digest"].as_str().unwrap();
    let blob = format!("images/blobs/{blob}");
    assert_eq!(kept.get(&blob).0, 200);
    // Files that are not read are closed after a while.
    let path = data.canonicalize().unwrap();
    until("the blob's file is closed", || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap();
        let blobs = path.join("blobs");
        let mut open = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        open.all(|target| !target.starts_with(&blobs)).then_some(())
    });
    // Standard error and the like are the lowest numbers; all below the limit is in use.
    let in_use = open_files(&proxy);
    set_limit(&proxy, 3);
    for path in [&blob[..], "images/manifests/b_obd"] {
        let (status, head) = kept.get(path);
        assert_eq!(status, 503, "{path}: {head}");
        assert!(head.contains("\r\nretry-after: "), "{path}: {head}");
    }
    set_limit(&proxy, in_use + 200);
    for path in [&blob[..], "images/manifests/b_obd"] {
        assert_eq!(kept.get(path).0, 200, "{path}");
    }
    drop(kept);
    proxy.stop();
}
