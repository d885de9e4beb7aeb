//! Pulls of plain images.

use crate::source_cache::{PLATFORM, Setting, assert_outcome, image, layer_of};
use crate::support::http::{ACCEPT, get_all, send};
use crate::support::image::{Flavour, Image, Packing};
use crate::support::layout::Layout;
use crate::support::tar::Tar;
use crate::support::{noise, skopeo};

#[test]
fn ten_pulls_at_one_time_download_each_blob_once() {
    if !crate::support::have(&["skopeo"]) {
        return;
    }
    let Some(setting) = Setting::new(&[]) else {
        return;
    };
    let layer = |seed| Tar::new().file("file", noise(seed, 3 << 20)).finish();
    let image = Image::gzip(&[layer(1), layer(2), layer(3)]).seal();
    setting.registry.push("app", "1", &image);
    let scratch = tempfile::tempdir().unwrap();
    let from = setting.proxy.image("app", "1");
    std::thread::scope(|scope| {
        for n in 0..10 {
            let to = skopeo::layout(&scratch.path().join(n.to_string()), "1");
            let from = &from;
            scope.spawn(move || skopeo::copied(from, &to, &[]));
        }
    });
    for blob in &image.blobs {
        let digest = blob.digest();
        assert_eq!(setting.gate.count("GET", &digest), 1, "{digest}");
        for n in 0..10 {
            let path = scratch
                .path()
                .join(format!("{n}/blobs/sha256/{}", &digest[7..]));
            assert!(std::fs::read(path).unwrap() == blob.bytes);
        }
    }
    let digest = crate::support::sha256(&image.manifest);
    assert_eq!(setting.gate.count("GET", &format!("manifests/{digest}")), 1);
    assert_eq!(setting.outcomes("passed"), 0);
    // Three layers, a config and a manifest.
    assert_eq!(setting.outcomes("filled"), 5);
    setting.proxy.stop();
}

#[test]
fn answers_from_the_cache_are_those_of_the_upstream() {
    let Some(setting) = Setting::new(&[]) else {
        return;
    };
    let tar = Tar::new().file("file", noise(1, 100_000)).finish();
    let image = Image::new(Flavour::Docker, &[(&tar, Packing::Gzip)]).seal();
    let digest = setting.registry.push("app", "1", &image);
    let layer = layer_of(&image);
    let paths = [
        "app/manifests/1".to_owned(),
        format!("app/manifests/{digest}"),
        format!("app/blobs/{layer}"),
    ];
    for path in &paths {
        for round in 0..2 {
            for method in ["GET", "HEAD"] {
                let ask = |base: &str| {
                    let url = format!("{base}/v2/{path}");
                    send(method, &url, &[("accept", ACCEPT)], b"")
                };
                let (ours, theirs) = (ask(setting.proxy.url()), ask(&setting.registry.url()));
                let what = format!("{method} {path}, {round}: {ours:?} {theirs:?}");
                assert_eq!(ours.status, theirs.status, "{what}");
                assert!(ours.body == theirs.body, "{what}");
                for name in [
                    "content-type",
                    "content-length",
                    "docker-content-digest",
                    "docker-distribution-api-version",
                    "etag",
                ] {
                    assert_eq!(ours.header(name), theirs.header(name), "{name}: {what}");
                }
            }
        }
    }
    let blob = format!("{}/v2/{}", setting.proxy.url(), paths[2]);
    crate::source_cache::kept(|| send("GET", &blob, &[], b""));
    let range = send("GET", &blob, &[("range", "bytes=10-19")], b"");
    assert_outcome(&range, 206, Some("hit"));
    assert!(
        range.body
            == image
                .blobs
                .iter()
                .find(|it| it.digest() == layer)
                .unwrap()
                .bytes[10..20]
    );
    // A registry answers who does not know an image's type with another, or with none.
    let manifest = format!("{}/v2/{}", setting.proxy.url(), paths[0]);
    let other = send("GET", &manifest, &[("accept", "*/*")], b"");
    assert_eq!(other.header("overlaybd-outcome"), None, "{other:?}");
    setting.proxy.stop();
}

#[test]
fn a_range_or_a_head_of_what_is_not_there_begins_no_download() {
    let Some(setting) = Setting::new(&[]) else {
        return;
    };
    let image = image(1, 200_000);
    setting.registry.push("app", "1", &image);
    let layer = layer_of(&image);
    let url = format!("{}/v2/app/blobs/{layer}", setting.proxy.url());
    let range = send("GET", &url, &[("range", "bytes=10-19")], b"");
    assert_outcome(&range, 206, None);
    assert_outcome(&send("HEAD", &url, &[], b""), 200, None);
    let seen = setting.gate.seen();
    let blob = format!("/v2/app/blobs/{layer}");
    // The first is the question whether this client may, before anything is looked for.
    let wanted = [
        format!("HEAD {blob}"),
        format!("GET {blob} bytes=10-19"),
        format!("HEAD {blob}"),
    ];
    assert_eq!(seen, wanted, "{seen:?}");
    assert_eq!(setting.outcomes("passed"), 2);
    setting.proxy.stop();
}

#[test]
fn pulled_images_are_pulled_again_while_the_upstream_is_stopped() {
    if !crate::support::have(&["skopeo"]) {
        return;
    }
    let options = ["--stale-if-error", "1h", "--auth-cache-ttl", "0"];
    let Some(setting) = Setting::new(&[&options[..], &["--attempts", "1"]].concat()) else {
        return;
    };
    for n in 0..10 {
        let image = image(n, 300_000);
        setting.registry.push("app", &n.to_string(), &image);
    }
    let Setting {
        proxy,
        gate,
        registry,
        data: _data,
    } = setting;
    let scratch = tempfile::tempdir().unwrap();
    let pull = |round: &str, n: u64| {
        let from = proxy.image("app", &n.to_string());
        let to = scratch.path().join(format!("{round}-{n}"));
        skopeo::copied(&from, &skopeo::layout(&to, "1"), &[]);
        let mut blobs = Vec::new();
        for blob in std::fs::read_dir(to.join("blobs/sha256")).unwrap() {
            let path = blob.unwrap().path();
            blobs.push((
                path.file_name().unwrap().to_owned(),
                std::fs::read(path).unwrap(),
            ));
        }
        blobs.sort();
        blobs
    };
    let first: Vec<_> = (0..10).map(|n| pull("first", n)).collect();
    drop((gate, registry));
    for (n, first) in (0..10).zip(first) {
        assert!(pull("second", n) == first, "{n}");
    }
    proxy.stop();
}

#[test]
fn what_is_read_from_a_layout_is_not_cached() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    let image = image(1, 100_000);
    layout.add("app", &image);
    let upstream = format!("oci:{}", layout.path().display());
    let options = [&PLATFORM[..], &["--cache-source"]].concat();
    let data = scratch.path().join("data");
    let proxy = crate::support::proxy::Proxy::start(&upstream, &data, &options);
    let answer = proxy.get(&format!("app/blobs/{}", layer_of(&image)));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(crate::support::proxy::blobs(&data).is_empty());
    proxy.stop();
}

#[test]
fn nothing_is_cached_unless_asked_for() {
    let Some(setting) = Setting::with(&[]) else {
        return;
    };
    let image = image(1, 100_000);
    setting.registry.push("app", "1", &image);
    let path = format!("{}/v2/app/blobs/{}", setting.proxy.url(), layer_of(&image));
    for answer in get_all(&[path.clone(), path]) {
        assert_outcome(&answer, 200, None);
    }
    assert_eq!(setting.gate.count("GET", "blobs"), 2);
    assert!(crate::support::proxy::blobs(setting.data.path()).is_empty());
    setting.proxy.stop();
}
