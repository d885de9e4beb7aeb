//! Blob files that were flipped, cut, emptied or made longer: whoever pulls gets the right bytes,
//! and the log says what was wrong.

use crate::support;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::image::{Image, Sealed};
use support::overlaybd;
use support::proxy::{Proxy, program};
use support::registry::Registry;
use support::tar::Tar;
use support::{http, noise, sha256};

const DAMAGED: &str = "overlaybd_proxy_blobs_damaged_total";

fn image(number: u64) -> Sealed {
    let layer = |seed, name| Tar::new().file(name, noise(seed, 100_000)).finish();
    Image::gzip(&[layer(1000 + number, "lower"), layer(2000 + number, "upper")]).seal()
}

/// A pulled image: its manifest, and all of its parts by digest.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pulled {
    manifest: String,
    config: String,
    layers: Vec<String>,
    parts: BTreeMap<String, Vec<u8>>,
}

impl Pulled {
    /// The digest of what is to be damaged.
    fn part(&self, name: &str) -> &str {
        match name {
            "manifest" => &self.manifest,
            "config" => &self.config,
            _ => &self.layers[1],
        }
    }
}

fn get(proxy: &Proxy, path: &str, headers: &[(&str, &str)]) -> Result<http::Answer, String> {
    let headers = [headers, &[("accept", http::ACCEPT)]].concat();
    let url = format!("{}/v2/{path}", proxy.url());
    let answer = http::try_send("GET", &url, &headers, b"")?;
    if matches!(answer.status, 200 | 206) {
        Ok(answer)
    } else {
        Err(format!("{path}: {answer:?}"))
    }
}

/// Pulls by `reference`; what comes may be wrong.
fn try_pull(proxy: &Proxy, repo: &str, reference: &str) -> Result<Pulled, String> {
    let answer = get(proxy, &format!("{repo}/manifests/{reference}"), &[])?;
    let manifest: Value = serde_json::from_slice(&answer.body).map_err(|e| e.to_string())?;
    let digest = |descriptor: &Value| descriptor["digest"].as_str().unwrap().to_owned();
    let layers = manifest["layers"].as_array().unwrap();
    let mut pulled = Pulled {
        manifest: answer.header("docker-content-digest").unwrap().to_owned(),
        config: digest(&manifest["config"]),
        layers: layers.iter().map(digest).collect(),
        parts: BTreeMap::new(),
    };
    let blobs: Vec<String> = pulled
        .layers
        .iter()
        .chain([&pulled.config])
        .cloned()
        .collect();
    for blob in blobs {
        let path = format!("{repo}/blobs/{blob}");
        // As nodes read, before anything else of it is read.
        let range = get(proxy, &path, &[("range", "bytes=0-99")])?;
        let whole = get(proxy, &path, &[])?;
        if range.body[..] != whole.body[..100] {
            return Err(format!("{blob}: the range has other bytes"));
        }
        pulled.parts.insert(blob, whole.body.to_vec());
    }
    pulled
        .parts
        .insert(pulled.manifest.clone(), answer.body.to_vec());
    Ok(pulled)
}

fn wrong(pulled: &Pulled) -> Vec<&String> {
    let parts = pulled.parts.iter();
    parts
        .filter(|(digest, bytes)| sha256(bytes) != **digest)
        .map(|(digest, _)| digest)
        .collect()
}

#[track_caller]
fn pull(proxy: &Proxy, repo: &str, reference: &str) -> Pulled {
    let pulled = try_pull(proxy, repo, reference)
        .unwrap_or_else(|error| panic!("{repo}: {error}\n{}", proxy.log()));
    assert_eq!(wrong(&pulled), [""; 0], "{repo}: wrong bytes");
    pulled
}

#[track_caller]
fn wait_until(proxy: &Proxy, what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        let waited = begin.elapsed();
        assert!(
            waited < Duration::from_mins(2),
            "not yet: {what}\n{}",
            proxy.log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn path_of(data: &Path, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").unwrap();
    data.join("blobs/sha256").join(&hex[..2]).join(hex)
}

type Harm = (&'static str, fn(&Path));

/// Says that this file breaks the rules because a test wants it to.
fn on_purpose(path: &Path) {
    overlaybd::is_damaged_on_purpose(&fs::read(path).unwrap());
}

fn resized(path: &Path, size: impl FnOnce(u64) -> u64) {
    let file = File::options().write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(size(len)).unwrap();
    on_purpose(path);
}

fn flip(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 50).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 50).unwrap();
    on_purpose(path);
}

/// Damage as a disk does it: no time tells.
fn rot(path: &Path) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    flip(path);
    File::open(path).unwrap().set_modified(modified).unwrap();
}

const HARMS: [Harm; 5] = [
    ("flipped", flip),
    ("rotten", rot),
    ("cut", |path| resized(path, |len| len - 1)),
    ("emptied", |path| resized(path, |_| 0)),
    ("grown", |path| resized(path, |len| len + 1)),
];
const PARTS: [&str; 3] = ["manifest", "config", "layer"];

/// What the log says of damage.
fn complaints(proxy: &Proxy, digest: &str) -> usize {
    let log = proxy.log();
    let of = format!("digest={digest}");
    let lines = log.lines().filter(|line| line.contains("ERROR"));
    lines
        .filter(|line| line.contains("is damaged") && line.contains(&of))
        .count()
}

#[test]
fn blobs_damaged_while_the_proxy_was_stopped_are_made_again() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let options = ["--platform", "linux/amd64", "--scrub", "off"];
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    let mut cases = Vec::new();
    for (harm, damage) in HARMS {
        for part in PARTS {
            let repo = format!("{harm}-{part}");
            registry.push(&repo, "1", &image(cases.len() as u64));
            let before = pull(&proxy, &repo, "1_obd");
            cases.push((repo, part, damage, before));
        }
    }
    proxy.stop();
    for (_, part, damage, before) in &cases {
        damage(&path_of(data.path(), before.part(part)));
    }
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    for (place, (repo, part, _, before)) in cases.iter().enumerate() {
        // By either name first.
        let reference = if place % 2 == 0 {
            "1_obd"
        } else {
            &before.manifest
        };
        assert_eq!(pull(&proxy, repo, reference), *before, "{repo}");
        assert_eq!(
            complaints(&proxy, before.part(part)),
            1,
            "{repo}: {}",
            proxy.log()
        );
        let stored = fs::read(path_of(data.path(), before.part(part))).unwrap();
        assert_eq!(sha256(&stored), before.part(part));
    }
    let count = cases.len();
    assert_eq!(proxy.metric(DAMAGED), Some(count as u64));
    let kept = fs::read_dir(data.path().join("damaged")).unwrap().count();
    assert_eq!(kept, count);
    for (repo, _, _, before) in &cases {
        assert_eq!(pull(&proxy, repo, "1_obd"), *before);
    }
    assert_eq!(proxy.metric(DAMAGED), Some(count as u64));
    proxy.stop();
}

#[test]
fn blobs_damaged_while_the_proxy_runs_are_made_again() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let options = ["--platform", "linux/amd64", "--scrub", "off"];
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    let harms = HARMS.into_iter().filter(|(harm, _)| *harm != "rotten");
    for (found, (harm, damage)) in (1..).zip(harms) {
        registry.push(harm, "1", &image(100 + found));
        let before = pull(&proxy, harm, "1_obd");
        let layer = before.part("layer").to_owned();
        damage(&path_of(data.path(), &layer));
        wait_until(&proxy, "the damage is found", || {
            let pulled = try_pull(&proxy, harm, "1_obd");
            let is_found = proxy.metric(DAMAGED) == Some(found);
            // The file may still be open: then the first ranges of a flipped one are wrong.
            if let Ok(pulled) = pulled
                && harm != "flipped"
            {
                assert_eq!(wrong(&pulled), [""; 0], "{harm}: wrong bytes");
            }
            is_found
        });
        assert_eq!(pull(&proxy, harm, "1_obd"), before, "{harm}");
        assert_eq!(complaints(&proxy, &layer), 1, "{}", proxy.log());
    }
    proxy.stop();
}

#[test]
fn another_conversion_replaces_a_damaged_file_of_the_same_size() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let options = ["--platform", "linux/amd64", "--scrub", "off"];
    registry.push("app", "1", &image(200));
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    let before = pull(&proxy, "app", "1_obd");
    proxy.stop();
    for part in PARTS {
        flip(&path_of(data.path(), before.part(part)));
    }
    // Nobody knows of the blobs any more.
    for file in fs::read_dir(data.path()).unwrap() {
        let path = file.unwrap().path();
        if path.to_string_lossy().contains("index.sqlite") {
            fs::remove_file(path).unwrap();
        }
    }
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    assert_eq!(pull(&proxy, "app", "1_obd"), before);
    for part in PARTS {
        let stored = fs::read(path_of(data.path(), before.part(part))).unwrap();
        assert_eq!(sha256(&stored), before.part(part));
    }
    proxy.stop();
}

#[test]
fn a_conversion_over_a_damaged_layer_repairs_it() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let lower = Tar::new().file("lower", b"lower").finish();
    let upper = Tar::new().file("upper", b"upper").finish();
    registry.push(
        "lower",
        "1",
        &Image::gzip(std::slice::from_ref(&lower)).seal(),
    );
    registry.push("upper", "1", &Image::gzip(&[lower, upper]).seal());
    let options = ["--platform", "linux/amd64", "--scrub", "off"];
    let clean = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&registry.url(), clean.path(), &options);
    let expected = pull(&proxy, "upper", "1_obd");
    proxy.stop();

    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    let layer = pull(&proxy, "lower", "1_obd").layers[0].clone();
    // Behind the headers, before the index: what opening a layer does not read.
    let path = path_of(data.path(), &layer);
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    let len = file.metadata().unwrap().len();
    file.write_all_at(&vec![0xA5; usize::try_from(len / 2).unwrap()], 2048)
        .unwrap();
    on_purpose(&path);
    file.set_modified(modified).unwrap();
    // Found when it is opened, it is made again at once; found while it is read, the first
    // conversion fails. No wrong byte comes either way.
    match try_pull(&proxy, "upper", "1_obd") {
        Ok(pulled) => assert_eq!(wrong(&pulled), [""; 0]),
        Err(error) => assert!(error.contains(": 500 "), "{error}"),
    }
    assert_eq!(pull(&proxy, "upper", "1_obd"), expected);
    assert_eq!(complaints(&proxy, &layer), 1, "{}", proxy.log());
    proxy.stop();
}

#[test]
fn the_scrubber_finds_damage_in_unused_blobs() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    registry.push("app", "1", &image(300));
    let options = ["--platform", "linux/amd64", "--scrub", "1GiB"];
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    let before = pull(&proxy, "app", "1_obd");
    for part in PARTS {
        rot(&path_of(data.path(), before.part(part)));
    }
    wait_until(&proxy, "the rot is found", || {
        proxy.metric(DAMAGED) == Some(3)
    });
    for part in PARTS {
        assert_eq!(complaints(&proxy, before.part(part)), 1, "{}", proxy.log());
    }
    assert_eq!(pull(&proxy, "app", "1_obd"), before);
    let rounds = || proxy.metric("overlaybd_proxy_scrub_rounds_total").unwrap();
    let so_far = rounds();
    wait_until(&proxy, "a round", || rounds() > so_far + 1);
    assert!(proxy.metric("overlaybd_proxy_scrubbed_bytes_total") > Some(100_000));
    assert!(proxy.metric("overlaybd_proxy_scrubbed_blobs_total") > Some(3));
    let ended = proxy.metric("overlaybd_proxy_scrub_last_round_timestamp_seconds");
    assert!(ended > Some(1_600_000_000), "{ended:?}");
    assert_eq!(proxy.metric(DAMAGED), Some(3));
    proxy.stop();
}

/// `store verify`: its exit code, its standard output.
fn verify(data: &Path, more: &[&str]) -> (Option<i32>, String) {
    let mut command = program();
    command
        .args(["store", "verify", "--data-dir"])
        .arg(data)
        .args(more);
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let printed = text(&output.stdout);
    (
        output.status.code(),
        format!("{printed}{}", text(&output.stderr)),
    )
}

#[test]
fn store_verify_finds_damage_beside_the_proxy_and_without_it() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    registry.push("app", "1", &image(400));
    let options = ["--platform", "linux/amd64", "--scrub", "off"];
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    let before = pull(&proxy, "app", "1_obd");
    let (code, printed) = verify(data.path(), &[]);
    assert_eq!(code, Some(0), "{printed}");
    assert!(
        printed.contains("verified 4 blobs") && printed.contains("0 damaged"),
        "{printed}"
    );

    let path = path_of(data.path(), before.part("layer"));
    rot(&path);
    let (code, printed) = verify(data.path(), &["--dry-run", "--json"]);
    assert_eq!(code, Some(7), "{printed}");
    let events: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let damaged = events.iter().find(|event| event["event"] == "damaged");
    let damaged = damaged.unwrap();
    assert_eq!(damaged["digest"], before.part("layer"));
    assert_eq!(damaged["path"], path.to_str().unwrap());
    assert_eq!(damaged["moved_to"], Value::Null);
    assert_eq!(events.last().unwrap()["damaged"], 1);
    assert!(path.exists());

    let (code, printed) = verify(data.path(), &[]);
    assert_eq!(code, Some(7), "{printed}");
    let moved_to = printed
        .lines()
        .find_map(|line| line.split_once("; moved to "));
    let (line, moved_to) = moved_to.unwrap();
    assert!(line.contains(path.to_str().unwrap()), "{printed}");
    assert!(Path::new(moved_to).exists() && !path.exists(), "{printed}");
    // The proxy may have it open for a moment.
    wait_until(&proxy, "the blob is made again", || {
        let pulled = try_pull(&proxy, "app", "1_obd");
        path.exists() && pulled.is_ok_and(|pulled| wrong(&pulled).is_empty())
    });
    assert_eq!(pull(&proxy, "app", "1_obd"), before);
    proxy.stop();

    flip(&path);
    fs::remove_file(path_of(data.path(), &before.config)).unwrap();
    fs::create_dir(path_of(data.path(), &before.config)).unwrap();
    let (code, printed) = verify(data.path(), &["--quiet"]);
    assert_eq!(code, Some(7), "{printed}");
    assert_eq!(printed.lines().count(), 2, "{printed}");
    assert!(printed.contains("it is a directory; moved to"), "{printed}");
    let (code, printed) = verify(data.path(), &[]);
    assert_eq!(code, Some(0), "{printed}");
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    assert_eq!(pull(&proxy, "app", "1_obd"), before);
    proxy.stop();

    let empty = tempfile::tempdir().unwrap();
    let (code, printed) = verify(empty.path(), &[]);
    assert_eq!(code, Some(2), "{printed}");
    assert!(printed.contains("is no data directory"), "{printed}");
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
}
