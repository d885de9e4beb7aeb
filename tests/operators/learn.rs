//! Priority lists that the proxy learns from what nodes read when containers start.

use crate::support;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use support::http;
use support::image::{Image, Sealed, layer_digests};
use support::proxy::{self, Proxy};
use support::registry::Registry;
use support::tar::Tar;
use support::until::until;
use support::{command, have, noise, sha256};

const PLATFORM: [&str; 2] = ["--platform", "linux/amd64"];
const LEARN: [&str; 4] = [
    "--platform",
    "linux/amd64",
    "--learn-prefetch=true",
    "--learn-window=4s",
];
const AGENT: &str = "overlaybd/1.0.16";
const PIECE: usize = 64 << 10;
/// Bytes of files that are read when a container starts, and of others.
const WANTED: usize = 300_000;
const OTHER: usize = 900_000;
const ACCELERATION: &str = "containerd.io/snapshot/overlaybd/acceleration-layer";

fn wanted(number: u64) -> Vec<u8> {
    noise(number, WANTED)
}

/// Files that are wanted among others, in two layers. Tags differ in the upper one.
fn image(tag: u64) -> Sealed {
    let other = |number: u64| noise(1000 + number, OTHER);
    let base = Tar::new()
        .dir("usr/")
        .file("usr/other-0", other(0))
        .file("usr/other-1", other(1))
        .file("usr/wanted-1", wanted(1))
        .file("usr/other-2", other(2))
        .file("usr/other-3", other(3))
        .file("usr/wanted-2", wanted(2))
        .file("usr/other-4", other(4))
        .finish();
    let top = Tar::new()
        .dir("opt/")
        .file("opt/other-5", other(5))
        .file("opt/other-6", other(6))
        .file("opt/wanted-3", wanted(3))
        .file("opt/other-7", other(7))
        .file("opt/other-8", other(8))
        .file("opt/tag", noise(5000 + tag, OTHER))
        .finish();
    Image::gzip(&[base, top]).seal()
}

fn blob(proxy: &Proxy, repo: &str, digest: &str) -> Vec<u8> {
    let answer = proxy.get(&format!("{repo}/blobs/{digest}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body.to_vec()
}

/// Where a file's data begins in a blob: noise is stored as it is.
#[track_caller]
fn place(blob: &[u8], data: &[u8]) -> usize {
    let start = &data[..32];
    let mut windows = blob.windows(start.len());
    windows.position(|window| window == start).unwrap()
}

/// Where a node is sent to for a blob.
#[track_caller]
fn address(proxy: &Proxy, repo: &str, digest: &str) -> String {
    let url = format!("{}/v2/{repo}/blobs/{digest}", proxy.url());
    let probe = http::send("GET", &url, &[("user-agent", AGENT)], b"");
    assert_eq!(probe.status, 307, "{probe:?}");
    probe.header("location").unwrap().to_owned()
}

/// Reads ranges as a node does that has this address, one after the other.
#[track_caller]
fn read(node: &str, ranges: &[(String, usize, usize)]) {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("curl");
    let reads: Vec<String> = ranges
        .iter()
        .map(|(url, from, to)| {
            format!(
                "url = \"{url}\"\nrange = \"{from}-{}\"\nuser-agent = \"{AGENT}\"\n\
                 interface = \"{node}\"\noutput = \"/dev/null\"\nfail\n",
                to - 1
            )
        })
        .collect();
    fs::write(&file, reads.join("next\n")).unwrap();
    support::run(command("curl").arg("--silent").arg("-K").arg(&file));
}

/// What a node reads to start a container: how each layer begins and ends, then the wanted files,
/// the third first.
#[track_caller]
fn start(proxy: &Proxy, repo: &str, tag: &str, node: &str) {
    let digests = layer_digests(&proxy.converted(repo, tag));
    let [base, top] = [&digests[0], &digests[1]];
    let mut ranges = Vec::new();
    let mut blobs = Vec::new();
    for digest in [base, top] {
        let bytes = blob(proxy, repo, digest);
        let url = address(proxy, repo, digest);
        ranges.push((url.clone(), 0, 1));
        ranges.push((url.clone(), 0, PIECE));
        let last = bytes.len() / PIECE * PIECE;
        ranges.push((url.clone(), last, bytes.len()));
        blobs.push((url, bytes));
    }
    for (layer, number) in [(1, 3), (0, 1), (0, 2)] {
        let (url, bytes) = &blobs[layer];
        let from = place(bytes, &wanted(number)) / PIECE * PIECE;
        for at in (from..from + WANTED).step_by(PIECE) {
            ranges.push((url.clone(), at, (at + PIECE).min(bytes.len())));
        }
    }
    read(node, &ranges);
}

/// What was learned of the only repository of which anything was.
fn learned(data: &Path) -> Option<Value> {
    let entries = fs::read_dir(data.join("prefetch")).ok()?;
    let paths = entries.map(|entry| entry.unwrap().path());
    // Another one may be being written.
    let mut files = paths.filter(|path| path.extension().is_some_and(|it| it == "json"));
    let file = files.next()?;
    assert!(files.next().is_none());
    Some(serde_json::from_slice(&fs::read(file).unwrap()).unwrap())
}

/// Whether a converted image has an acceleration layer.
fn is_accelerated(manifest: &Value) -> bool {
    let layers = manifest["layers"].as_array().unwrap();
    let marked = |layer: &Value| layer["annotations"][ACCELERATION] == "yes";
    let top = layers.last().is_some_and(marked);
    assert_eq!(layers.len(), if top { 3 } else { 2 }, "{manifest}");
    top
}

#[test]
fn a_list_that_two_nodes_taught_is_used_for_all_tags_and_kept() {
    if !have(&["curl"]) {
        return;
    }
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("app", "1", &image(1));
    registry.push("app", "2", &image(2));
    registry.push("other", "1", &image(1));
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let proxy = Proxy::start(&registry.url(), &data, &LEARN);
    let before = proxy.converted("app", "1");
    assert!(!is_accelerated(&before));
    start(&proxy, "app", "1", "127.0.0.1");
    // One start may be any.
    let count = |field: &str| learned(&data).map_or(0, |all| all[field].as_array().unwrap().len());
    until("one start", || (count("starts") == 1).then_some(()));
    assert_eq!(count("lists"), 0);
    assert_eq!(proxy.converted("app", "1"), before);
    start(&proxy, "app", "1", "127.0.0.2");
    until("a list", || (count("lists") == 1).then_some(()));
    let paths = &learned(&data).unwrap()["lists"][0]["paths"];
    let expected = ["/opt/wanted-3", "/usr/wanted-1", "/usr/wanted-2"];
    assert_eq!(*paths, Value::from(expected.to_vec()));

    // What is there is served until the other one is.
    let after = until("the image with the list", || {
        let manifest = proxy.converted("app", "1");
        let is_new = is_accelerated(&manifest);
        assert!(is_new || manifest == before);
        is_new.then_some(manifest)
    });
    let digests = layer_digests(&after);
    let distance = |manifest: &Value| {
        let base = blob(&proxy, "app", &layer_digests(manifest)[0]);
        place(&base, &wanted(2)).abs_diff(place(&base, &wanted(1)))
    };
    assert!(distance(&before) > WANTED + OTHER);
    assert!(distance(&after) < WANTED + PIECE);
    assert!(is_accelerated(&proxy.converted("app", "2")));
    assert!(!is_accelerated(&proxy.converted("other", "1")));
    proxy.stop();

    // The next process has it, too.
    registry.push("app", "3", &image(3));
    let proxy = Proxy::start(&registry.url(), &data, &LEARN);
    assert_eq!(proxy.converted("app", "1"), after);
    assert!(is_accelerated(&proxy.converted("app", "3")));
    proxy.stop();

    // Nothing is made with it any more where nothing is learned, but what was is made again.
    let gone = proxy::blobs(&data)
        .into_iter()
        .find(|path| sha256(&fs::read(path).unwrap()) == digests[1]);
    fs::remove_file(gone.unwrap()).unwrap();
    registry.push("app", "4", &image(4));
    let proxy = Proxy::start(&registry.url(), &data, &PLATFORM);
    assert!(!is_accelerated(&proxy.converted("app", "4")));
    let again = blob(&proxy, "app", &digests[1]);
    assert_eq!(sha256(&again), digests[1]);
}

#[test]
fn nothing_is_learned_unless_it_is_wanted_and_nothing_from_downloads() {
    if !have(&["curl"]) {
        return;
    }
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("app", "1", &image(1));
    let scratch = tempfile::tempdir().unwrap();
    let (off, on) = (scratch.path().join("off"), scratch.path().join("on"));
    let proxy = Proxy::start(&registry.url(), &off, &PLATFORM);
    start(&proxy, "app", "1", "127.0.0.1");
    let learning = Proxy::start(&registry.url(), &on, &LEARN);
    let digests = layer_digests(&learning.converted("app", "1"));
    for node in ["127.0.0.1", "127.0.0.2"] {
        let mut ranges = Vec::new();
        for digest in &digests {
            let size = blob(&learning, "app", digest).len();
            assert!(size > 4 << 20);
            let url = address(&learning, "app", digest);
            let pieces = (0..size).step_by(4 * PIECE);
            ranges.extend(pieces.map(|at| (url.clone(), at, (at + 4 * PIECE).min(size))));
        }
        read(node, &ranges);
    }
    // Others than nodes teach nothing, either.
    for digest in &digests {
        let url = format!("{}/v2/app/blobs/{digest}", learning.url());
        for from in [0, 1 << 20, 2 << 20] {
            let range = format!("bytes={from}-{}", from + (1 << 19));
            let answer = http::send("GET", &url, &[("range", &range)], b"");
            assert_eq!(answer.status, 206);
        }
    }
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(learned(&on), None);
    assert_eq!(learned(&off), None);
    assert!(!off.join("prefetch").exists());
    assert!(!is_accelerated(&learning.converted("app", "1")));
}
