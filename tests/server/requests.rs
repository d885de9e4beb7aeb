//! What a pull asks of the upstream: each request is a round trip that someone waits for.

use crate::support;
use std::time::Duration;

use support::gate::Gate;
use support::image::{Image, Sealed};
use support::noise;
use support::proxy::Proxy;
use support::registry::Registry;
use support::tar::Tar;

/// A request as it is compared: the method, and what is asked for.
fn named(seen: &str, image: &Sealed) -> String {
    let (method, path) = seen.split_once(' ').unwrap();
    let what = path.rsplit('/').next().unwrap();
    let blob = image.blobs.iter().position(|blob| blob.digest() == what);
    let name = match blob {
        _ if what == image.digest() => "manifest".to_owned(),
        Some(0) => "config".to_owned(),
        Some(number) => format!("layer {number}"),
        None => what.to_owned(),
    };
    format!("{method} {name}")
}

/// The requests since the last call.
struct Seen<'a> {
    gate: &'a Gate,
    image: &'a Sealed,
    before: usize,
}

impl Seen<'_> {
    fn take(&mut self) -> Vec<String> {
        let seen = self.gate.seen();
        let new = seen[self.before..].iter();
        self.before = seen.len();
        new.map(|seen| named(seen, self.image)).collect()
    }
}

/// Asks for the converted image, then for its blobs; what that asked of the upstream, one after the
/// other.
fn pull(proxy: &Proxy, repo: &str, tag: &str, seen: &mut Seen<'_>) -> [Vec<String>; 2] {
    let manifest = proxy.converted(repo, tag);
    let by_tag = seen.take();
    let layers = manifest["layers"].as_array().unwrap();
    let config = [&manifest["config"]];
    for blob in config.into_iter().chain(layers) {
        let digest = blob["digest"].as_str().unwrap();
        let answer = proxy.get(&format!("{repo}/blobs/{digest}"));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    [by_tag, seen.take()]
}

#[test]
fn a_first_pull_asks_for_each_thing_once_and_a_warm_one_for_the_permission_alone() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let layer = |seed| Tar::new().file("file", noise(seed, 300_000)).finish();
    let image = Image::gzip(&[layer(1), layer(2)]).seal();
    registry.push("app", "1", &image);
    let gate = Gate::before(registry.address());
    let data = tempfile::tempdir().unwrap();
    let permission = Duration::from_secs(2);
    let ttl = format!("{}s", permission.as_secs());
    let proxy = Proxy::start(&gate.url(), data.path(), &["--auth-cache-ttl", &ttl]);
    let mut seen = Seen {
        gate: &gate,
        image: &image,
        before: gate.seen().len(),
    };

    let [mut first, blobs] = pull(&proxy, "app", "1", &mut seen);
    assert_eq!(first[..3], ["HEAD 1", "GET manifest", "GET config"]);
    // These are fetched at one time.
    first[3..].sort();
    assert_eq!(first[3..], ["GET layer 1", "GET layer 2"], "{first:?}");

    // Blobs are had by whoever may have the source by its digest, as the tag's answer said.
    assert!(blobs.is_empty(), "{blobs:?}");

    let warm = pull(&proxy, "app", "1", &mut seen).concat();
    assert!(
        warm.len() <= 1 && warm.iter().all(|it| it == "HEAD 1"),
        "{warm:?}"
    );

    // Once the permission has run out, it is asked for again, and nothing else is.
    std::thread::sleep(permission);
    let [by_tag, blobs] = pull(&proxy, "app", "1", &mut seen);
    assert_eq!(by_tag, ["HEAD 1"]);
    assert!(blobs.is_empty(), "{blobs:?}");

    // A node that only reads asks by the digest.
    let manifest = proxy.converted("app", "1");
    let blob = manifest["layers"][0]["digest"].as_str().unwrap();
    seen.take();
    std::thread::sleep(permission);
    assert_eq!(proxy.get(&format!("app/blobs/{blob}")).status, 200);
    assert_eq!(seen.take(), ["HEAD manifest"]);
}

#[test]
fn an_image_on_layers_that_are_converted_fetches_only_its_own() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let layer = |seed| Tar::new().file("file", noise(seed, 100_000)).finish();
    let base = Image::gzip(&[layer(1)]).seal();
    let above = Image::gzip(&[layer(1), layer(2)]).seal();
    registry.push("app", "base", &base);
    registry.push("app", "above", &above);
    let gate = Gate::before(registry.address());
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&gate.url(), data.path(), &[]);
    proxy.converted("app", "base");
    let mut seen = Seen {
        gate: &gate,
        image: &above,
        before: gate.seen().len(),
    };
    let [asked, _] = pull(&proxy, "app", "above", &mut seen);
    // That the client may have the layer below is asked for, and that is all.
    let wanted = [
        "HEAD above",
        "GET manifest",
        "GET config",
        "HEAD layer 1",
        "GET layer 2",
    ];
    assert_eq!(asked, wanted);
}
