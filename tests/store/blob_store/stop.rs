//! A proxy that is stopped while it uploads, and one whose disk is full.

use std::fs;

use nix::sys::signal::Signal;

use crate::blob_store::{PLATFORM, image, metric, parts, pull, tar};
use crate::support::disk::Disk;
use crate::support::http::try_send;
use crate::support::image::{Image, layer_digests};
use crate::support::process::Process;
use crate::support::proxy::program;
use crate::support::registry::Registry;
use crate::support::s3::{Bucket, with_credentials};
use crate::support::until::until;
use crate::support::{noise, sha256};

/// The files that the storage has of uploads in parts that were neither completed nor aborted.
fn unfinished(bucket: &Bucket) -> Vec<String> {
    let entries = fs::read_dir(bucket.directory.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".upload")).collect()
}

#[test]
fn a_proxy_that_is_stopped_while_it_uploads_leaves_no_parts_in_the_bucket() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    let large = Image::gzip(&[tar("large", &noise(51, 20 << 20))]);
    registry.push("app", "1", &large.seal());
    let data = tempfile::tempdir().unwrap();
    let options = [&PLATFORM[..], &["--drain", "5s", "--hold", "1s"]].concat();
    let proxy = bucket.replica(&registry.url(), data.path(), &options);
    let part = bucket.gate.hold("PUT", "partNumber=2");
    let url = format!("{}/v2/app/manifests/1_obd", proxy.url());
    let asked = std::thread::spawn(move || try_send("GET", &url, &[], b""));
    part.wait();
    until("a part is in the bucket", || {
        let names = unfinished(&bucket);
        names
            .iter()
            .any(|name| name.contains(".part-"))
            .then_some(())
    });
    // The client has gone, or was told to come again.
    let _ = asked.join().unwrap();
    proxy.stop();
    assert_eq!(bucket.gate.count("DELETE", "/blobs/"), 1);
    assert_eq!(unfinished(&bucket), [""; 0]);
    part.release();

    // The next start uploads it.
    let proxy = bucket.replica(&registry.url(), data.path(), &PLATFORM);
    let made = proxy.converted("app", "1");
    let layer = layer_digests(&made)[0].clone();
    let object = until("the blob is in the bucket", || bucket.bytes(&layer));
    assert_eq!(sha256(&object), layer);
    assert_eq!(unfinished(&bucket), [""; 0]);
    proxy.stop();
}

#[test]
fn a_warm_that_is_interrupted_while_it_uploads_leaves_no_parts_in_the_bucket() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    let large = Image::gzip(&[tar("large", &noise(54, 20 << 20))]);
    registry.push("app", "1", &large.seal());
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let mut command = with_credentials(program());
    command.args(["warm", "app:1", "--upstream", &registry.url()]);
    command.args(PLATFORM).args(bucket.options());
    command.arg("--data-dir").arg(&data);
    let part = bucket.gate.hold("PUT", "partNumber=2");
    let mut warm = Process::start(command, &scratch.path().join("log"));
    part.wait();
    until("a part is in the bucket", || {
        let names = unfinished(&bucket);
        names
            .iter()
            .any(|name| name.contains(".part-"))
            .then_some(())
    });
    warm.signal(Signal::SIGINT);
    let status = warm.end();
    assert!(!status.success(), "{}", warm.output());
    assert_eq!(bucket.gate.count("DELETE", "/blobs/"), 1);
    assert_eq!(unfinished(&bucket), [""; 0]);
}

#[test]
fn a_small_blob_that_the_storage_does_not_take_is_given_up_at_the_stop() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    registry.push("app", "1", &image(55, 1));
    let data = tempfile::tempdir().unwrap();
    let options = [&PLATFORM[..], &["--drain", "3s", "--hold", "1s"]].concat();
    let proxy = bucket.replica(&registry.url(), data.path(), &options);
    let put = bucket.gate.hold("PUT", "/blobs/");
    let url = format!("{}/v2/app/manifests/1_obd", proxy.url());
    let asked = std::thread::spawn(move || try_send("GET", &url, &[], b""));
    put.wait();
    let _ = asked.join().unwrap();
    proxy.signal(Signal::SIGTERM);
    let log = until("it has stopped", || {
        let log = proxy.log();
        log.contains("stopped").then_some(log)
    });
    // It has no parts, and is not there.
    assert!(log.contains("is uploaded after the next start"), "{log}");
    assert!(!log.contains("parts of uploads may stay"), "{log}");
    proxy.end();
}

#[test]
fn a_storage_that_does_not_answer_holds_up_the_stop_for_the_drain_alone() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    let large = Image::gzip(&[tar("large", &noise(52, 20 << 20))]);
    registry.push("app", "1", &large.seal());
    let data = tempfile::tempdir().unwrap();
    let options = [&PLATFORM[..], &["--drain", "3s", "--hold", "1s"]].concat();
    let proxy = bucket.replica(&registry.url(), data.path(), &options);
    let part = bucket.gate.hold("PUT", "partNumber=2");
    let abort = bucket.gate.hold("DELETE", "uploadId");
    let url = format!("{}/v2/app/manifests/1_obd", proxy.url());
    let asked = std::thread::spawn(move || try_send("GET", &url, &[], b""));
    part.wait();
    let _ = asked.join().unwrap();
    proxy.signal(Signal::SIGTERM);
    // It is never answered, and the process ends nevertheless.
    abort.wait();
    let log = until("it says that parts may stay", || {
        let log = proxy.log();
        log.contains("parts of uploads may stay").then_some(log)
    });
    assert!(log.contains("the bucket does not answer"), "{log}");
    proxy.end();
}

#[test]
fn on_a_full_disk_blobs_of_the_bucket_are_pulled_all_the_same() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    let Some(disk) = Disk::new("24m") else {
        return;
    };
    for (number, tag) in (1..).zip(["1", "2", "3"]) {
        registry.push("app", tag, &image(53, number));
    }
    // Another replica has made them.
    let other = tempfile::tempdir().unwrap();
    let proxy = bucket.replica(&registry.url(), other.path(), &PLATFORM);
    let made = ["1", "2", "3"].map(|tag| proxy.converted("app", tag));
    proxy.stop();

    let data = disk.path().join("data");
    fs::create_dir_all(&data).unwrap();
    for entry in fs::read_dir(other.path()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("index.sqlite") {
            fs::copy(entry.path(), data.join(name)).unwrap();
        }
    }
    let options = [&PLATFORM[..], &["--keep", "0s"]].concat();
    let proxy = bucket.replica(&registry.url(), &data, &options);
    assert_eq!(proxy.converted("app", "1"), made[0]);
    pull(&proxy, "app", &made[0]);
    disk.fill();
    // Each takes the place of what was there before, as soon as that is not read any more.
    for (tag, number) in [("2", 1), ("3", 2), ("1", 0), ("2", 1)] {
        until("the image is pulled", || {
            let manifest = proxy.get(&format!("app/manifests/{tag}_obd"));
            (manifest.status == 200).then(|| assert_eq!(manifest.json(), made[number]))
        });
        for digest in parts(&made[number]) {
            until("the blob is pulled", || {
                let blob = proxy.get(&format!("app/blobs/{digest}"));
                (blob.status == 200).then(|| assert_eq!(sha256(&blob.body), digest))
            });
        }
    }
    assert_eq!(metric(&proxy, "layers_converted_total"), 0);
    proxy.stop();
}
