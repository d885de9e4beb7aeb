//! What is under the tag already: this program's, or somebody else's.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use overlaybd_proxy::format::blob::{
    Algorithm, BlockSize, CompressPool, LayerSpec, LayerWriter, Stack,
};
use overlaybd_proxy::format::block::BlockDeviceMut as _;
use serde_json::{Value, json};

use super::support::image::{self as images, Flavour, Image, OCI_MANIFEST, Packing};
use super::support::overlaybd;
use super::support::proxy::Proxy;
use super::support::registry::Registry;
use super::support::tar::Tar;
use super::support::until::until;
use super::support::{http, noise, sha256};
use super::{PUSH, image, names, pull, pull_and_see_the_tag};

/// What somebody else put under the tag, and how.
type Foreign<'a> = (&'a str, Box<dyn Fn() -> String + 'a>);

/// Pushes blobs as the layers of an image in overlaybd format, by that tag.
fn push_overlaybd(registry: &Registry, repo: &str, tag: &str, blobs: &[Vec<u8>]) -> String {
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {
            "type": "layers",
            "diff_ids": blobs.iter().map(|blob| sha256(blob)).collect::<Vec<_>>(),
        },
    });
    let config = serde_json::to_vec(&config).unwrap();
    for bytes in blobs.iter().chain([&config]) {
        registry.push_blob(repo, bytes);
    }
    let layers: Vec<Value> = blobs
        .iter()
        .map(|blob| {
            json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": sha256(blob),
                "size": blob.len(),
                "annotations": {
                    "containerd.io/snapshot/overlaybd/blob-digest": sha256(blob),
                    "containerd.io/snapshot/overlaybd/blob-size": blob.len().to_string(),
                    "containerd.io/snapshot/overlaybd/version": "0.1.0",
                },
            })
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": sha256(&config),
            "size": config.len(),
        },
        "layers": layers,
    });
    let manifest = serde_json::to_vec(&manifest).unwrap();
    registry.push_manifest(repo, tag, OCI_MANIFEST, &manifest)
}

/// The blob of an image's layer `content`, counted from 1, with a mark in its LSMT trailer.
fn blob_with_mark(mark: &str, content: u8) -> Vec<u8> {
    let uuid = |layer: u8| format!("00000000-0000-0000-0000-{layer:012X}");
    let spec = LayerSpec {
        virtual_size: 1 << 20,
        algorithm: Algorithm::Lz4,
        block_size: BlockSize::KIB_4,
        uuid: uuid(content),
        parent_uuid: match content {
            0 | 1 => String::new(),
            _ => uuid(content - 1),
        },
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blob");
    let file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let pool = CompressPool::new(1).unwrap();
    let lower = Arc::new(Stack::default());
    let mut writer = LayerWriter::create(lower, file, spec, &pool).unwrap();
    writer.write_at(0, &[content; 4096]).unwrap();
    writer.finish(mark).unwrap().seal().unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn a_tag_of_another_tool_is_replaced_with_push_overwrite_only() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("app", "1", &image(1));
    let golden = |layer: u8| std::fs::read(format!("tests/golden/lz4-4/{layer}.obd")).unwrap();
    let marked = blob_with_mark("overlaybd-proxy/2 parent=none", 1);
    let overlaybd = |blobs: Vec<Vec<u8>>| {
        let registry = &registry;
        Box::new(move || push_overlaybd(registry, "app", "1_obd", &blobs))
    };
    let foreign: [Foreign<'_>; 5] = [
        (
            "an image in the usual format",
            Box::new(|| registry.push("app", "1_obd", &image(7))),
        ),
        (
            "an overlaybd image of another tool",
            overlaybd(vec![golden(0), golden(1)]),
        ),
        (
            "another tool's layer on one of this program's",
            overlaybd(vec![marked.clone(), golden(1)]),
        ),
        (
            "layers of this program that do not belong upon each other",
            overlaybd(vec![
                marked.clone(),
                blob_with_mark("overlaybd-proxy/2 parent=none", 2),
            ]),
        ),
        (
            "an annotation only",
            overlaybd(vec![b"no blob at all".to_vec()]),
        ),
    ];
    // Of a disk of another size than what it is put upon.
    overlaybd::is_damaged_on_purpose(&golden(1));
    let data = tempfile::tempdir().unwrap();
    for (what, push) in &foreign {
        let theirs = push();
        let proxy = Proxy::start(&registry.url(), data.path(), &PUSH);
        pull(&proxy, "app/manifests/1_obd");
        until(what, || {
            let is_warned = proxy.log().contains("--push-overwrite-tags");
            (is_warned || names(&registry, "app", "1_obd")? != theirs).then_some(())
        });
        assert_eq!(
            names(&registry, "app", "1_obd").as_ref(),
            Some(&theirs),
            "{what}"
        );
        let log = proxy.log();
        let warning = log
            .lines()
            .find(|line| line.contains("--push-overwrite-tags"));
        let warning = warning.unwrap();
        assert!(
            warning.contains("WARN") && warning.contains(&theirs),
            "{warning}"
        );
        assert!(warning.contains("1_obd"), "{warning}");
        proxy.stop();
    }
    for option in ["--push-overwrite-tags", "--push-overwrite-tags=true"] {
        registry.push("app", "1_obd", &image(7));
        let options = [&PUSH[..], &[option]].concat();
        let proxy = Proxy::start(&registry.url(), data.path(), &options);
        pull_and_see_the_tag(&proxy, &registry);
        assert!(!proxy.log().contains("WARN"), "{}", proxy.log());
        proxy.stop();
    }
}

#[test]
fn a_tag_of_this_program_is_updated_without_its_index() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&registry.url(), data.path(), &PUSH);
    let mut seen = Vec::new();
    for number in 1..3 {
        registry.push("app", "1", &image(number));
        seen.push(pull_and_see_the_tag(&proxy, &registry));
    }
    // Back again: what is known as a whole is not pushed as a whole.
    registry.push("app", "1", &image(1));
    assert_eq!(pull_and_see_the_tag(&proxy, &registry), seen[0]);
    proxy.stop();
    // Another replica, or the same after a fire.
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&registry.url(), data.path(), &PUSH);
    registry.push("app", "1", &image(3));
    pull_and_see_the_tag(&proxy, &registry);
    assert!(!proxy.log().contains("WARN"), "{}", proxy.log());
    proxy.stop();
}

#[test]
fn an_index_of_this_program_is_distinguished_from_one_of_another_tool() {
    let Some(registry) = Registry::start() else {
        return;
    };
    // Of two platforms one is converted, the other stays as it is.
    let push = |number: u64| {
        let entries: Vec<Value> = ["amd64", "arm64"]
            .into_iter()
            .map(|architecture| {
                let tar = Tar::new().file(architecture, noise(number, 9000)).finish();
                let image = Image::new(Flavour::Oci, &[(&tar, Packing::Gzip)]);
                let image = image.platform("linux", architecture).seal();
                registry.push("app", architecture, &image);
                image.entry("linux", architecture)
            })
            .collect();
        let index = images::index(Flavour::Oci, &entries);
        registry.push_manifest("app", "1", &index.media_type, &index.bytes);
        entries
    };
    push(1);
    for number in 2..4 {
        let data = tempfile::tempdir().unwrap();
        let proxy = Proxy::start(&registry.url(), data.path(), &PUSH);
        pull_and_see_the_tag(&proxy, &registry);
        proxy.stop();
        push(number);
    }
    // The same kept entry beside an image of another tool.
    let golden = std::fs::read("tests/golden/lz4-4/0.obd").unwrap();
    let theirs = push_overlaybd(&registry, "app", "theirs", &[golden]);
    let url = format!("{}/v2/app/manifests/{theirs}", registry.url());
    let size = http::get(&url).body.len();
    let mut entries = push(4);
    entries[0]["digest"] = json!(theirs);
    entries[0]["size"] = json!(size);
    let index = images::index(Flavour::Oci, &entries);
    let theirs = registry.push_manifest("app", "1_obd", &index.media_type, &index.bytes);
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&registry.url(), data.path(), &PUSH);
    pull(&proxy, "app/manifests/1_obd");
    until("the tag is decided upon", || {
        let is_warned = proxy.log().contains("--push-overwrite-tags");
        (is_warned || names(&registry, "app", "1_obd")? != theirs).then_some(())
    });
    assert_eq!(names(&registry, "app", "1_obd"), Some(theirs));
    proxy.stop();
}

#[test]
fn a_tag_of_an_older_version_is_this_programs() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("app", "1", &image(1));
    let below = blob_with_mark("overlaybd-proxy/1 parent=none", 1);
    let above = format!("overlaybd-proxy/1 parent={}", sha256(&below));
    let above = blob_with_mark(&above, 2);
    push_overlaybd(&registry, "app", "1_obd", &[below, above]);
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&registry.url(), data.path(), &PUSH);
    pull_and_see_the_tag(&proxy, &registry);
    proxy.stop();
}

#[test]
fn a_recorded_image_is_this_programs_although_its_layers_are_not() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let options = [&PUSH[..], &["--trust-foreign-layers", "--vsize", "1"]].concat();
    let golden = std::fs::read("tests/golden/lz4-4/0.obd").unwrap();
    let tar = Tar::new().file("only", noise(1, 9000)).finish();
    let trusting = Image::gzip(std::slice::from_ref(&tar)).seal();
    registry.push("app", "1", &trusting);
    registry.push_blob("app", &golden);
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    plant(data.path(), registry.address(), &sha256(&tar), &golden);
    pull_and_see_the_tag(&proxy, &registry);
    registry.push("app", "1", &image(2));
    pull_and_see_the_tag(&proxy, &registry);
    proxy.stop();
}

/// A row of another tool, as it is in a table that is shared.
fn plant(data: &Path, host: &str, chain: &str, blob: &[u8]) {
    let index = rusqlite::Connection::open(data.join("index.sqlite")).unwrap();
    let size = i64::try_from(blob.len()).unwrap();
    index
        .execute(
            "INSERT INTO overlaybd_layers VALUES (?1, 'app', ?2, ?3, ?4)",
            rusqlite::params![host, chain, sha256(blob), size],
        )
        .unwrap();
}
