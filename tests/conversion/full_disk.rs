//! Disks that are full or read-only: what is there is served, what needs room is refused as that,
//! and all of it passes when there is room again.

use crate::support;
use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use support::disk::Disk;
use support::image::{Image, Sealed};
use support::layout::Layout;
use support::proxy::{Proxy, program};
use support::tar::Tar;
use support::until::until;
use support::{http, noise};

const OPTIONS: [&str; 4] = ["--platform", "linux/amd64", "--keep", "0s"];

fn image(seed: u64, bytes: usize) -> Sealed {
    let layer = Tar::new().file("file", noise(seed, bytes)).finish();
    Image::gzip(&[layer]).seal()
}

/// Small as gzip has it, which looks back 32 KiB; as large as its content in blocks of 4 KiB.
fn swelling(bytes: usize) -> Sealed {
    let content = noise(9, 16 << 10).repeat(bytes >> 14);
    Image::gzip(&[Tar::new().file("file", content).finish()]).seal()
}

fn manifest(proxy: &Proxy, tag: &str) -> http::Answer {
    let url = format!("{}/v2/images/manifests/{tag}", proxy.url());
    http::send("GET", &url, &[("accept", http::ACCEPT)], b"")
}

/// A converted image with its layers, pulled whole.
#[track_caller]
fn assert_pulled(proxy: &Proxy, tag: &str) {
    let answer = manifest(proxy, tag);
    assert_eq!(answer.status, 200, "{answer:?}\n{}", proxy.log());
    for layer in answer.json()["layers"].as_array().unwrap() {
        let digest = layer["digest"].as_str().unwrap();
        let blob = proxy.get(&format!("images/blobs/{digest}"));
        assert_eq!(blob.status, 200, "{blob:?}\n{}", proxy.log());
        assert_eq!(support::sha256(&blob.body), digest);
    }
}

#[track_caller]
fn assert_no_room(proxy: &Proxy, tag: &str) {
    let answer = manifest(proxy, tag);
    assert_eq!(answer.status, 507, "{answer:?}\n{}", proxy.log());
    let retry: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!(retry > 0);
}

fn readiness(proxy: &Proxy) -> http::Answer {
    http::get(&format!("{}/readyz", proxy.admin()))
}

fn layout(place: &Path) -> String {
    let layout = Layout::create(&place.join("images"));
    layout.add("first", &image(1, 1 << 20));
    layout.add("second", &image(2, 1 << 20));
    layout.add("swelling", &swelling(30 << 20));
    format!("oci:{}", layout.path().display())
}

#[test]
fn a_layout_needs_room_for_a_converted_image_once() {
    let Some(disk) = Disk::new("48m") else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let from = format!("{}:swelling", layout(place.path()));
    let to = format!("oci:{}:1", disk.path().join("out").display());
    let convert = |options: &[&str]| {
        let mut convert = program();
        convert.args(["convert", "-q"]).args(options);
        convert.args([&from, &to]).output().unwrap()
    };
    let made = convert(&[]);
    assert!(made.status.success(), "{made:?}");
    // A store that is kept beside it is another copy.
    fs::remove_dir_all(disk.path().join("out")).unwrap();
    let data = disk.path().join("data");
    let refused = convert(&["--data-dir", data.to_str().unwrap()]);
    assert!(!refused.status.success(), "{refused:?}");
}

#[test]
fn a_disk_that_fills_during_a_layer_is_507_with_retry_after() {
    let Some(disk) = Disk::new("12m") else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let upstream = layout(place.path());
    let proxy = Proxy::start(&upstream, &disk.path().join("data"), &OPTIONS);
    assert_pulled(&proxy, "first_obd");
    assert_no_room(&proxy, "swelling_obd");
    assert_pulled(&proxy, "first_obd");
    proxy.stop();
}

#[test]
fn a_file_that_may_not_grow_is_507_and_does_not_end_the_process() {
    let place = tempfile::tempdir().unwrap();
    let upstream = layout(place.path());
    let inner = program();
    let mut command = Command::new("sh");
    // In blocks of 512 bytes: 8 MiB.
    command.args(["-c", "ulimit -f 16384; exec \"$0\" \"$@\""]);
    command.arg(inner.get_program());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let proxy = Proxy::start_as(command, &upstream, &place.path().join("data"), &OPTIONS);
    assert_no_room(&proxy, "swelling_obd");
    assert_pulled(&proxy, "first_obd");
    proxy.stop();
}

/// What a proxy does that is started on a disk that cannot be written, and then can.
fn assert_recovers(disk: &Disk, is_killed: bool, spoil: impl Fn(), repair: impl Fn()) {
    let place = tempfile::tempdir().unwrap();
    let upstream = layout(place.path());
    let data = disk.path().join("data");
    // Nothing may be evicted.
    let options = ["--platform", "linux/amd64", "--keep", "1h"];
    let proxy = Proxy::start(&upstream, &data, &options);
    assert_pulled(&proxy, "first_obd");
    if is_killed {
        proxy.signal(Signal::SIGKILL);
        drop(proxy);
    } else {
        proxy.stop();
    }
    spoil();
    let proxy = Proxy::start(&upstream, &data, &options);
    assert_pulled(&proxy, "first_obd");
    assert_no_room(&proxy, "second_obd");
    let plain = manifest(&proxy, "second");
    assert_eq!(plain.status, 200, "{plain:?}");
    let ready = readiness(&proxy);
    assert_eq!(ready.status, 200, "{ready:?}");
    assert!(ready.text().starts_with("degraded\n"), "{ready:?}");
    assert_pulled(&proxy, "first_obd");
    repair();
    until("conversions begin again", || {
        (manifest(&proxy, "second_obd").status == 200).then_some(())
    });
    assert_pulled(&proxy, "second_obd");
    let ready = readiness(&proxy);
    assert_eq!(ready.status, 200, "{ready:?}");
    assert_eq!(ready.text(), "ok\n");
    proxy.stop();
    // What was recorded then is there after a restart.
    let proxy = Proxy::start(&upstream, &data, &options);
    assert_pulled(&proxy, "first_obd");
    assert_pulled(&proxy, "second_obd");
    let converted = proxy.metric("overlaybd_proxy_layers_converted_total");
    assert_eq!(converted.unwrap_or(0), 0);
    proxy.stop();
}

#[test]
fn on_a_full_disk_blobs_are_served_and_conversions_resume_when_there_is_space() {
    for is_killed in [false, true] {
        let Some(disk) = Disk::new("100m") else {
            return;
        };
        assert_recovers(&disk, is_killed, || disk.fill(), || disk.free());
    }
}

#[test]
fn on_a_full_disk_what_was_read_before_makes_room_for_the_next_image_at_once() {
    let Some(disk) = Disk::new("100m") else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let layout = Layout::create(&place.path().join("images"));
    for (seed, tag) in (10..).zip(["first", "second", "third"]) {
        layout.add(tag, &image(seed, 8 << 20));
    }
    layout.add("small", &image(20, 1 << 20));
    let upstream = format!("oci:{}", layout.path().display());
    let proxy = Proxy::start(&upstream, &disk.path().join("data"), &OPTIONS);
    for tag in ["first_obd", "second_obd", "third_obd"] {
        assert_pulled(&proxy, tag);
    }
    disk.fill();
    assert_pulled(&proxy, "small_obd");
    let evicted = proxy.metric("overlaybd_proxy_blobs_evicted_total");
    assert!(evicted.is_some_and(|count| count > 0), "{evicted:?}");
    proxy.stop();
}

#[test]
fn on_a_read_only_disk_blobs_are_served_and_conversions_resume_when_it_is_writable() {
    for is_killed in [false, true] {
        let Some(disk) = Disk::new("100m") else {
            return;
        };
        let (spoil, repair) = (|| disk.remount("ro"), || disk.remount("rw"));
        assert_recovers(&disk, is_killed, spoil, repair);
    }
}

#[test]
fn without_a_cache_size_the_blobs_keep_to_four_fifths_of_the_disk() {
    let Some(disk) = Disk::new("60m") else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let layout = Layout::create(&place.path().join("images"));
    for n in 0..20 {
        layout.add(&n.to_string(), &image(100 + n, 3 << 20));
    }
    let upstream = format!("oci:{}", layout.path().display());
    let data = disk.path().join("data");
    let proxy = Proxy::start(&upstream, &data, &OPTIONS);
    for n in 0..20 {
        // A blob that was read stays open for a while, and is not evicted then.
        let answer = manifest(&proxy, &format!("{n}_obd"));
        assert_eq!(answer.status, 200, "{answer:?}\n{}", proxy.log());
    }
    until("the bound holds", || {
        let files = support::proxy::blobs(&data).into_iter();
        let sizes = files.map(|path| path.metadata().map_or(0, |found| found.len()));
        (sizes.sum::<u64>() <= 48 << 20).then_some(())
    });
    // Whatever went is in the log: what, how much and why.
    let log = proxy.log();
    let evicted = log
        .lines()
        .find(|line| line.contains("a blob was evicted"))
        .unwrap();
    for part in [
        "digest=sha256:",
        "bytes=",
        "why=\"the blobs exceed the cache size\"",
    ] {
        assert!(evicted.contains(part), "{evicted}");
    }
    proxy.stop();
}
