//! The data directory under pressure: a small cache with readers everywhere, kills at any
//! moment, a full disk.

use crate::support;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use support::image::{Image, Sealed};
use support::proxy::{Proxy, blobs, rows};
use support::registry::Registry;
use support::tar::Tar;
use support::{http, noise, sha256};

fn image(number: u64, bytes: usize) -> Sealed {
    let layer = |seed, name| Tar::new().file(name, noise(seed, bytes / 2)).finish();
    Image::gzip(&[layer(1000 + number, "lower"), layer(2000 + number, "upper")]).seal()
}

/// The image's manifest and the digests of all its blobs, each pulled whole and verified.
fn pull(proxy: &Proxy, repo: &str) -> Result<String, String> {
    let path = format!("{}/v2/{repo}/manifests/1_obd", proxy.url());
    let answer = http::try_send("GET", &path, &[("accept", http::ACCEPT)], b"")?;
    if answer.status != 200 {
        return Err(format!("{answer:?}"));
    }
    let manifest = answer.json();
    let layers = manifest["layers"].as_array().unwrap();
    for blob in layers.iter().chain([&manifest["config"]]) {
        let digest = blob["digest"].as_str().unwrap();
        let url = format!("{}/v2/{repo}/blobs/{digest}", proxy.url());
        let blob = http::try_send("GET", &url, &[], b"")?;
        if blob.status != 200 || sha256(&blob.body) != digest {
            return Err(format!("{repo}: {digest}: {blob:?}"));
        }
    }
    Ok(answer.text())
}

fn size(data: &Path) -> u64 {
    let blobs = blobs(data)
        .into_iter()
        .filter(|path| !path.starts_with(data.join("tmp")));
    blobs
        .map(|path| path.metadata().map_or(0, |metadata| metadata.len()))
        .sum()
}

// Twelve times as much as the cache may hold.
const IMAGES: u64 = 24;
const BYTES: usize = 2 << 20;
const CACHE: u64 = 4 << 20;

#[test]
fn a_small_cache_under_many_conversions_fails_no_reader_and_keeps_its_limit() {
    let Some(registry) = Registry::start() else {
        return;
    };
    for number in 0..IMAGES {
        registry.push(&format!("app-{number}"), "1", &image(number, BYTES));
    }
    let data = tempfile::tempdir().unwrap();
    let options = [
        "--cache-size",
        "4MiB",
        "--keep",
        "0s",
        "--platform",
        "linux/amd64",
    ];
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    let first: Vec<_> = (0..IMAGES)
        .map(|number| pull(&proxy, &format!("app-{number}")).unwrap())
        .collect();
    // A blob that was read a moment ago is still open; then the bound holds.
    let within_bound = || {
        let begin = std::time::Instant::now();
        while size(data.path()) > CACHE {
            let now = size(data.path());
            assert!(begin.elapsed() < Duration::from_mins(1), "{now} bytes stay");
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    within_bound();
    let pulls = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for lane in 0..6 {
            let (proxy, first, pulls) = (&proxy, &first, &pulls);
            scope.spawn(move || {
                for turn in 0..IMAGES {
                    let number = (turn * 7 + lane * 11) % IMAGES;
                    let answer = pull(proxy, &format!("app-{number}"))
                        .unwrap_or_else(|error| panic!("{error}\n{}", proxy.log()));
                    assert_eq!(answer, first[usize::try_from(number).unwrap()]);
                    pulls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(pulls.into_inner(), 6 * 24);
    // Evicted blobs came back by being made again, to the byte.
    let converted = proxy.metric("overlaybd_proxy_layers_converted_total");
    assert!(
        converted > Some(3 * 24),
        "{converted:?}: nothing was evicted"
    );
    within_bound();
    proxy.stop();
}

/// Every blob is whole, nothing half-made is left, and every row's blob is there.
#[track_caller]
fn assert_sound(data: &Path) {
    for path in blobs(data) {
        assert!(
            !path.starts_with(data.join("tmp")),
            "a leftover: {}",
            path.display()
        );
        let found = sha256(&std::fs::read(&path).unwrap());
        let name = path.file_name().unwrap().to_string_lossy();
        assert_eq!(found, format!("sha256:{name}"), "{}", path.display());
    }
    let index = rusqlite::Connection::open(data.join("index.sqlite")).unwrap();
    for (table, column) in [
        ("overlaybd_proxy_chains", "data_digest"),
        ("overlaybd_proxy_manifests", "out_digest"),
    ] {
        let mut rows = index
            .prepare(&format!("SELECT {column} FROM {table}"))
            .unwrap();
        let digests = rows.query_map([], |row| row.get::<_, String>(0)).unwrap();
        for digest in digests.map(Result::unwrap) {
            let hex = digest.strip_prefix("sha256:").unwrap();
            let path = data.join("blobs/sha256").join(&hex[..2]).join(hex);
            assert!(path.exists(), "{table} has a row without a blob: {digest}");
        }
    }
}

/// `OVERLAYBD_PROXY_TEST_KILLS=200 cargo test --test store cache::kill` is the long run.
#[test]
fn a_kill_at_any_time_loses_no_blob_and_leaves_no_file() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let kills = std::env::var("OVERLAYBD_PROXY_TEST_KILLS");
    let kills: u64 = kills.ok().and_then(|text| text.parse().ok()).unwrap_or(15);
    let data = tempfile::tempdir().unwrap();
    let options = ["--platform", "linux/amd64"];
    for round in 0..kills {
        for number in 0..4 {
            let sealed = image(round * 4 + number, 3 << 20);
            registry.push(&format!("round-{round}-{number}"), "1", &sealed);
        }
        let proxy = Proxy::start(&registry.url(), data.path(), &options);
        std::thread::scope(|scope| {
            for number in 0..4 {
                let proxy = &proxy;
                let repo = format!("round-{round}-{number}");
                scope.spawn(move || drop(pull(proxy, &repo)));
            }
            // Spread over the time that the work takes.
            let moment = (round * 7919) % 400;
            std::thread::sleep(Duration::from_millis(20 + moment));
            proxy.signal(Signal::SIGKILL);
        });
        drop(proxy);
        let next = Proxy::start(&registry.url(), data.path(), &options);
        assert_sound(data.path());
        // It goes on where it was: what was asked for before is there now.
        pull(&next, &format!("round-{round}-0")).unwrap();
        next.stop();
        assert_sound(data.path());
    }
    assert!(rows(data.path(), "overlaybd_proxy_chains") >= 2);
}

#[test]
fn a_full_disk_fails_one_conversion_and_leaves_the_rest_serving() {
    if !support::is_root("a disk of its own") {
        return;
    }
    let Some(registry) = Registry::start() else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    support::run(
        support::command("mount")
            .args(["-t", "tmpfs", "-o", "size=12m", "tmpfs"])
            .arg(place.path()),
    );
    let mounted = Mounted(place.path().to_owned());
    registry.push("small", "1", &image(1, 1 << 20));
    registry.push("large", "1", &image(2, 30 << 20));
    let data = place.path().join("data");
    let proxy = Proxy::start(&registry.url(), &data, &["--platform", "linux/amd64"]);
    let small = pull(&proxy, "small").unwrap();
    let refused = proxy.get("large/manifests/1_obd");
    assert!(matches!(refused.status, 500..=599), "{refused:?}");
    let message = refused.json()["errors"][0]["message"].to_string();
    assert!(
        message.contains("space") || message.contains("bytes free"),
        "{message}"
    );
    assert_eq!(pull(&proxy, "small").unwrap(), small);
    assert!(
        !blobs(&data)
            .iter()
            .any(|path| path.starts_with(data.join("tmp")))
    );
    proxy.stop();
    assert_sound(&data);
    drop(mounted);
}

struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = support::command("umount").arg("-l").arg(&self.0).output();
    }
}
