//! What is in the bucket, listed and verified by commands.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::blob_store::{PLATFORM, empty, image, parts, pull};
use crate::support::http::send;
use crate::support::image::layer_digests;
use crate::support::proxy::program;
use crate::support::registry::Registry;
use crate::support::s3::{Bucket, with_credentials};
use crate::support::until::until;
use crate::support::{noise, sha256};

/// Runs a command that is about the bucket.
fn run(bucket: &Bucket, arguments: &[&str]) -> Output {
    let mut command = with_credentials(program());
    command.args(arguments).args(bucket.options());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_bucket_is_listed_and_verified_and_what_is_damaged_is_deleted_if_asked_for() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    registry.push("app", "1", &image(41, 1));
    let data = tempfile::tempdir().unwrap();
    let proxy = bucket.replica(&registry.url(), data.path(), &PLATFORM);
    let answer = proxy.get("app/manifests/1_obd");
    let made = answer.json();
    let mut all: BTreeSet<String> = parts(&made).into_iter().collect();
    all.insert(sha256(&answer.body));
    until("all is in the bucket", || {
        all.iter()
            .all(|digest| bucket.bytes(digest).is_some())
            .then_some(())
    });
    proxy.stop();

    let listed = run(&bucket, &["cache", "ls", "--json"]);
    assert!(listed.status.success(), "{listed:?}");
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let objects = listed["blobs"].as_array().unwrap();
    let names: Vec<_> = objects
        .iter()
        .map(|it| it["digest"].as_str().unwrap())
        .collect();
    assert_eq!(names, all.iter().collect::<Vec<_>>());
    for object in objects {
        let bytes = bucket.bytes(object["digest"].as_str().unwrap()).unwrap();
        assert_eq!(object["size"], bytes.len());
    }
    let lines = run(&bucket, &["cache", "ls"]);
    assert_eq!(text(&lines.stdout).lines().count(), all.len(), "{lines:?}");
    let sorted = run(&bucket, &["cache", "ls", "--sort", "size"]);
    assert_eq!(sorted.status.code(), Some(2), "{sorted:?}");
    // By a setting, the bucket is not meant: that is the service's.
    let mut command = with_credentials(program());
    command.env("OVERLAYBD_PROXY_BLOB_STORE", "s3://images/obd");
    command.args(["cache", "ls", "--data-dir"]).arg(data.path());
    let local = command.output().unwrap();
    assert!(text(&local.stdout).contains("  converted "), "{local:?}");

    let sound = run(&bucket, &["store", "verify"]);
    assert_eq!(sound.status.code(), Some(0), "{sound:?}");
    let said = format!("verified {} blobs", all.len());
    assert!(text(&sound.stdout).contains(&said), "{sound:?}");

    let damaged = parts(&made)[1].clone();
    let object = bucket.object(&damaged);
    flip(&object);
    let found = run(&bucket, &["store", "verify", "--json"]);
    assert_eq!(found.status.code(), Some(7), "{found:?}");
    let events: Vec<Value> = text(&found.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let event = events
        .iter()
        .find(|event| event["event"] == "damaged")
        .unwrap();
    assert_eq!(
        (event["digest"].as_str(), &event["removed"]),
        (Some(&*damaged), &false.into())
    );
    let address = event["path"].as_str().unwrap();
    let hex = damaged.strip_prefix("sha256:").unwrap();
    assert!(
        address.starts_with("s3://images/obd/blobs/") && address.ends_with(hex),
        "{address}"
    );
    assert_eq!(events.last().unwrap()["damaged"], 1);
    assert!(object.exists());

    let found = run(&bucket, &["store", "verify", "--delete"]);
    assert_eq!(found.status.code(), Some(7), "{found:?}");
    assert!(text(&found.stdout).contains("; removed"), "{found:?}");
    assert!(!object.exists());
    let left = all.iter().filter(|digest| bucket.bytes(digest).is_some());
    assert_eq!(left.count(), all.len() - 1);
    // It comes again, as it was.
    empty(data.path());
    let proxy = bucket.replica(&registry.url(), data.path(), &PLATFORM);
    pull(&proxy, "app", &made);
    let object = until("it is there again", || bucket.bytes(&damaged));
    assert_eq!(sha256(&object), damaged);
    proxy.stop();
    let local = tempfile::tempdir().unwrap();
    let mut command = program();
    command.args(["store", "verify", "--delete", "--data-dir"]);
    let refused = command.arg(local.path()).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}

#[test]
fn a_running_replica_that_sends_readers_to_the_bucket_uploads_again_what_is_deleted() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    registry.push("app", "1", &image(43, 1));
    let data = tempfile::tempdir().unwrap();
    let options = [&PLATFORM[..], &["--blob-store-redirect"]].concat();
    let proxy = bucket.replica(&registry.url(), data.path(), &options);
    let made = proxy.converted("app", "1");
    let layer = layer_digests(&made)[0].clone();
    let url = format!("{}/v2/app/blobs/{layer}", proxy.url());
    let is_sent_there = |url: &str| send("GET", url, &[], b"").status == 307;
    until("readers are sent to it", || {
        is_sent_there(&url).then_some(())
    });
    flip(&bucket.object(&layer));
    let deleted = run(&bucket, &["store", "verify", "--delete"]);
    assert_eq!(deleted.status.code(), Some(7), "{deleted:?}");
    assert_eq!(bucket.bytes(&layer), None);
    // The directory has it.
    let answer = send("GET", &url, &[], b"");
    assert_eq!((answer.status, sha256(&answer.body)), (200, layer.clone()));
    let object = until("it is there again", || bucket.bytes(&layer));
    assert_eq!(sha256(&object), layer);
    until("readers are sent to it again", || {
        is_sent_there(&url).then_some(())
    });
    proxy.stop();

    // One that has not seen the object's bytes, and knows only that it was there.
    let before = bucket.gate.count("HEAD", &layer[7..]);
    let proxy = bucket.replica(&registry.url(), data.path(), &options);
    until("it has looked for what the bucket lacks", || {
        (bucket.gate.count("HEAD", &layer[7..]) > before).then_some(())
    });
    fs::remove_file(bucket.object(&layer)).unwrap();
    let url = format!("{}/v2/app/blobs/{layer}", proxy.url());
    assert_eq!(send("GET", &url, &[], b"").status, 200);
    let object = until("it is there again", || bucket.bytes(&layer));
    assert_eq!(sha256(&object), layer);
    proxy.stop();
}

#[test]
fn a_bucket_of_many_pages_is_read_page_by_page_and_other_objects_are_left_alone() {
    let Some(bucket) = Bucket::start() else {
        return;
    };
    // More than the storage tells of at one time.
    let digests: BTreeSet<String> = (0..1100_u64)
        .map(|seed| {
            let bytes = noise(seed, 20);
            let digest = sha256(&bytes);
            let path = bucket.object(&digest);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
            digest
        })
        .collect();
    let foreign = bucket
        .object(digests.first().unwrap())
        .with_file_name("notes.txt");
    fs::write(&foreign, "of somebody else").unwrap();
    let before = bucket.gate.seen().len();
    let listed = run(&bucket, &["cache", "ls"]);
    assert!(listed.status.success(), "{listed:?}");
    let names: Vec<String> = text(&listed.stdout)
        .lines()
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(names, digests.iter().cloned().collect::<Vec<_>>());
    let seen = bucket.gate.seen();
    let pages = seen[before..].iter().filter(|it| *it == "GET /images");
    assert_eq!(pages.count(), 2, "pages of 1,000");
    let verified = run(&bucket, &["store", "verify", "--delete"]);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    let said = text(&verified.stdout);
    assert!(
        said.contains("verified 1100 blobs") && said.contains(" 0 damaged"),
        "{said}"
    );
    assert!(foreign.exists());
}

#[test]
fn a_bucket_that_refuses_is_an_error_with_what_to_do() {
    let Some(bucket) = Bucket::start() else {
        return;
    };
    for arguments in [&["cache", "ls"][..], &["store", "verify"]] {
        let mut command = with_credentials(program());
        command.env("AWS_SECRET_ACCESS_KEY", "not-the-secret");
        command.args(arguments).args(bucket.options());
        let refused = command.output().unwrap();
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        let said = text(&refused.stderr);
        assert!(
            said.contains("s3:ListBucket") && !said.contains("not-the-secret"),
            "{said}"
        );
        let nowhere = program().args(arguments).arg("--bucket").output().unwrap();
        assert_eq!(nowhere.status.code(), Some(2), "{nowhere:?}");
        assert!(
            text(&nowhere.stderr).contains("--blob-store"),
            "{nowhere:?}"
        );
    }
}
