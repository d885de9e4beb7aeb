//! The converted image's tag in the registry that it is pushed to: whose it is, and that the
//! older image of a tag does not take it from the newer.

mod store_support;
mod support;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use overlaybd_proxy::format::blob::{
    Algorithm, BlockSize, CompressPool, LayerSpec, LayerWriter, Stack,
};
use overlaybd_proxy::format::block::BlockDeviceMut as _;
use serde_json::{Value, json};
use store_support::Server;
use support::gate::Gate;
use support::image::{Flavour, Image, OCI_MANIFEST, Packing, Sealed};
use support::proxy::{Proxy, program};
use support::registry::Registry;
use support::tar::Tar;
use support::until::until;
use support::{http, image, noise, sha256};

const PUSH: [&str; 5] = [
    "--push",
    "--auth-cache-ttl",
    "0",
    "--platform",
    "linux/amd64",
];

fn image(number: u64) -> Sealed {
    let below = Tar::new().file("below", noise(1, 20_000)).finish();
    let above = Tar::new()
        .file("above", noise(100 + number, 20_000))
        .finish();
    Image::gzip(&[below, above]).seal()
}

/// The layer that no other image has.
fn own_layer(image: &Sealed) -> String {
    image.blobs.last().unwrap().digest()
}

/// What a tag names in the registry.
fn names(registry: &Registry, repo: &str, tag: &str) -> Option<String> {
    let url = format!("{}/v2/{repo}/manifests/{tag}", registry.url());
    // While docker-registry writes a tag's file, it answers 500 to who reads it.
    until("the tag can be read", || {
        let answer = http::send("GET", &url, &[("accept", http::ACCEPT)], b"");
        match answer.status {
            200 => Some(Some(sha256(&answer.body))),
            404 => Some(None),
            500 => None,
            _ => panic!("{answer:?}"),
        }
    })
}

#[track_caller]
fn pull(proxy: &Proxy, path: &str) -> String {
    let answer = proxy.get(path);
    assert_eq!(answer.status, 200, "{answer:?}\n{}", proxy.log());
    sha256(&answer.body)
}

/// Pulls `app:1_obd`, and waits until the registry has it by that tag.
#[track_caller]
fn pull_and_see_the_tag(proxy: &Proxy, registry: &Registry) -> String {
    let converted = pull(proxy, "app/manifests/1_obd");
    until("the tag is pushed", || {
        (names(registry, "app", "1_obd")? == converted).then_some(())
    });
    converted
}

#[test]
fn an_older_image_does_not_take_the_tag_from_a_newer_one() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let (older, newer) = (image(1), image(2));
    registry.push("app", "1", &older);
    let gate = Gate::before(registry.address());
    let slow = gate.hold("GET", &own_layer(&older));
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&gate.url(), data.path(), &PUSH);
    std::thread::scope(|scope| {
        let late = scope.spawn(|| pull(&proxy, "app/manifests/1_obd"));
        slow.wait();
        registry.push("app", "1", &newer);
        let converted = pull_and_see_the_tag(&proxy, &registry);
        slow.release();
        let late = late.join().unwrap();
        assert_ne!(late, converted);
        until("the older image's tag is decided upon", || {
            let pushed = registry.count("PUT", "/manifests/1_obd");
            (pushed > 1 || proxy.log().contains("the converted image gets no tag")).then_some(())
        });
        assert_eq!(names(&registry, "app", "1_obd"), Some(converted));
    });
    proxy.stop();
}

#[test]
fn an_image_whose_tag_is_gone_gets_none() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let image = image(1);
    let digest = registry.push("app", "1", &image);
    let gate = Gate::before(registry.address());
    let slow = gate.hold("GET", &own_layer(&image));
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&gate.url(), data.path(), &PUSH);
    std::thread::scope(|scope| {
        let late = scope.spawn(|| pull(&proxy, "app/manifests/1_obd"));
        slow.wait();
        let url = format!("{}/v2/app/manifests/{digest}", registry.url());
        assert_eq!(http::send("DELETE", &url, &[], b"").status, 202);
        slow.release();
        late.join().unwrap();
        until("the tag is decided upon", || {
            let pushed = registry.count("PUT", "/manifests/1_obd");
            (pushed > 0 || proxy.log().contains("names=nothing")).then_some(())
        });
        assert_eq!(names(&registry, "app", "1_obd"), None);
    });
    proxy.stop();
}

#[test]
fn a_warm_up_goes_on_with_the_newer_image_where_the_tag_moved() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let (older, newer) = (image(1), image(2));
    registry.push("app", "1", &older);
    let gate = Gate::before(registry.address());
    let slow = gate.hold("GET", &own_layer(&older));
    let data = tempfile::tempdir().unwrap();
    let mut warm = program();
    warm.args(["warm", "--json", "--push", "--platform", "linux/amd64"]);
    warm.args(["--upstream", &gate.url(), "--data-dir"]);
    warm.arg(data.path()).arg("app:1");
    let warm = std::thread::spawn(move || support::run(&mut warm));
    slow.wait();
    registry.push("app", "1", &newer);
    slow.release();
    let output = warm.join().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let events = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told: Vec<Value> = events.filter(|event| event["event"] == "image").collect();
    assert_eq!(told.len(), 1, "{told:?}");
    let other = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&gate.url(), other.path(), &PUSH);
    let converted = pull(&proxy, "app/manifests/1_obd");
    assert_eq!(told[0]["digest"], converted.as_str());
    assert_eq!(names(&registry, "app", "1_obd"), Some(converted));
    proxy.stop();
}

#[test]
fn a_client_s_token_that_runs_out_during_the_conversion_does_not_cost_the_tag() {
    const TOKEN: &str = "Bearer for-a-minute";
    let Some(registry) = Registry::start() else {
        return;
    };
    let image = image(1);
    registry.push("app", "1", &image);
    let gate = Gate::before(registry.address());
    let last = gate.hold("PUT", "/manifests/sha256:");
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&gate.url(), data.path(), &PUSH);
    std::thread::scope(|scope| {
        let pulled = scope.spawn(|| {
            let url = format!("{}/v2/app/manifests/1_obd", proxy.url());
            http::send("GET", &url, &[("authorization", TOKEN)], b"")
        });
        // All that is read of the source has been read.
        last.wait();
        gate.refuse(TOKEN);
        last.release();
        let pulled = pulled.join().unwrap();
        assert_eq!(pulled.status, 200, "{pulled:?}");
        until("the tag is decided upon", || {
            let is_failed = proxy.log().contains("has no tag in the registry yet");
            (is_failed || names(&registry, "app", "1_obd").is_some()).then_some(())
        });
        assert_eq!(names(&registry, "app", "1_obd"), Some(sha256(&pulled.body)));
    });
    proxy.stop();
}

#[test]
fn of_two_replicas_the_one_with_the_newer_image_has_the_last_word() {
    let (Some(registry), Some(server)) = (Registry::start(), Server::shared()) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dsn = server.dsn(&runtime.block_on(server.database()));
    let options = [&PUSH[..], &["--db-create", "--dbstr", &dsn]].concat();
    let (older, newer) = (image(1), image(2));
    registry.push("app", "1", &older);
    let gate = Gate::before(registry.address());
    let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [first, second] = directories
        .each_ref()
        .map(|data| Proxy::start(&gate.url(), data.path(), &options));
    // It has looked at the source's tag, and is about to push.
    let late = gate.hold("PUT", "/manifests/1_obd");
    pull(&first, "app/manifests/1_obd");
    late.wait();
    registry.push("app", "1", &newer);
    let converted = pull(&second, "app/manifests/1_obd");
    until("the second replica waits, or passes the first", || {
        let waits = second
            .log()
            .contains("waiting for another that pushes this tag");
        (waits || registry.count("PUT", "/manifests/1_obd") > 0).then_some(())
    });
    late.release();
    until("both have pushed", || {
        (registry.count("PUT", "/manifests/1_obd") > 1).then_some(())
    });
    assert_eq!(names(&registry, "app", "1_obd"), Some(converted));
    first.stop();
    second.stop();
}

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

/// A layer's blob with a mark in its LSMT trailer.
fn blob_with_mark(mark: &str, content: u8) -> Vec<u8> {
    let spec = LayerSpec {
        virtual_size: 1 << 20,
        algorithm: Algorithm::Lz4,
        block_size: BlockSize::KIB_4,
        uuid: "01234567-89AB-CDEF-0123-456789ABCDEF".into(),
        parent_uuid: String::new(),
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
fn a_tag_that_another_tool_wrote_is_left_alone_unless_told_otherwise() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("app", "1", &image(1));
    let golden = |layer: u8| std::fs::read(format!("tests/golden/lz4-4/{layer}.obd")).unwrap();
    let marked = blob_with_mark("overlaybd-proxy/2 parent=none", 1);
    type Foreign<'a> = (&'a str, Box<dyn Fn() -> String + 'a>);
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
fn this_program_s_own_tag_follows_also_when_the_index_was_lost() {
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
fn an_index_that_this_program_made_is_its_own_and_another_tool_s_is_not() {
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
        let index = image::index(Flavour::Oci, &entries);
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
    let index = image::index(Flavour::Oci, &entries);
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
fn what_an_older_version_of_this_program_made_is_its_own() {
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
fn what_the_index_records_is_this_program_s_own_whoever_made_its_layers() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let options = [&PUSH[..], &["--trust-foreign-layers", "--vsize", "1"]].concat();
    let golden = std::fs::read("tests/golden/lz4-4/0.obd").unwrap();
    let tar = Tar::new().file("only", noise(1, 9000)).finish();
    let trusting = Image::gzip(&[tar.clone()]).seal();
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
