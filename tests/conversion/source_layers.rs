//! How often the layers of a source are asked for, and what becomes of those that come damaged.

use crate::support;
use support::gate::Gate;
use support::http::Answer;
use support::image::{Blob, Flavour, Image, Packing, Sealed};
use support::proxy::{self, Proxy};
use support::registry::Registry;
use support::tar::Tar;
use support::{noise, run, sha256};

fn repeated() -> Vec<u8> {
    let tar = Tar::new().dir("app").file("app/data", noise(1, 1_000_000));
    tar.file("app/small", "small").finish()
}

/// A layer that changes what [`repeated`] makes.
fn between(number: u64) -> Vec<u8> {
    let tar = Tar::new().file("app/data", noise(10 + number, 200_000));
    tar.file(&format!("app/own-{number}"), "own").finish()
}

/// The same layer at every other place.
fn tars(count: u64) -> Vec<Vec<u8>> {
    let tars = (0..count).map(|number| match number % 2 {
        0 => repeated(),
        _ => between(number),
    });
    tars.collect()
}

#[test]
fn a_layer_that_occurs_many_times_in_an_image_is_fetched_once() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let tars = tars(9);
    let whole = Image::gzip(&tars).seal();
    let layer = whole.blobs[1].digest();
    registry.push("app", "whole", &whole);
    let fetched = || registry.count("GET", &format!("/v2/app/blobs/{layer}"));

    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&registry.url(), data.path(), &[]);
    let manifest = proxy.converted("app", "whole");
    assert_eq!(fetched(), 1);
    proxy.stop();
    // What was kept for it is gone.
    let kept = std::fs::read_dir(data.path().join("tmp")).unwrap().count();
    assert_eq!(kept, 0);

    // One layer after the other, each above those that are there: nothing comes again.
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&registry.url(), data.path(), &[]);
    for count in 1..=tars.len() {
        registry.push("app", "part", &Image::gzip(&tars[..count]).seal());
        proxy.converted("app", "part");
    }
    assert_eq!(
        proxy.converted("app", "whole")["layers"],
        manifest["layers"]
    );
    assert!(fetched() > 1);
    proxy.stop();
}

#[test]
fn an_image_that_is_converted_to_both_formats_is_fetched_once() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let image = Image::gzip(&tars(3)).seal();
    registry.push("app", "1", &image);
    let fetched = || {
        let layers = image.blobs[1..3].iter().map(Blob::digest);
        let count = |layer| registry.count("GET", &format!("/v2/app/blobs/{layer}"));
        layers.map(count).collect::<Vec<_>>()
    };
    let repository = format!("{}/app", registry.address());
    let convert = |results: &[&str]| {
        let what = ["convert", "--plain-http", "-r", &repository, "-i", "1"];
        let output = run(proxy::program().args([&what[..], results].concat()));
        String::from_utf8(output.stdout).unwrap()
    };
    let both = convert(&["--overlaybd", "1_obd", "--turboOCI", "1_turbo"]);
    // The first and the third layer are one.
    assert_eq!(fetched(), [2, 1]);
    let native = convert(&["--overlaybd", "other_obd"]);
    let turbo = convert(&["--turboOCI", "other_turbo"]);
    assert_eq!(both, turbo + &native);

    let before = fetched();
    let data = tempfile::tempdir().unwrap();
    let warmed = run(proxy::program()
        .args(["warm", "--native", "--turbo", "--upstream", &registry.url()])
        .args(["--data-dir", &data.path().display().to_string(), "app:1"]));
    let said = String::from_utf8_lossy(&warmed.stdout);
    assert!(said.contains("2 converted"), "{said}");
    let again: Vec<_> = fetched()
        .iter()
        .zip(before)
        .map(|(now, then)| now - then)
        .collect();
    assert_eq!(again, [2, 1]);
    let kept = std::fs::read_dir(data.path().join("tmp")).unwrap().count();
    assert_eq!(kept, 0);
}

struct Damaged {
    _registry: Registry,
    gate: Gate,
    proxy: Proxy,
    data: tempfile::TempDir,
    layer: String,
}

impl Damaged {
    fn new(registry: Registry, image: &Sealed) -> Self {
        registry.push("app", "1", image);
        let gate = Gate::before(registry.address());
        let data = tempfile::tempdir().unwrap();
        let proxy = Proxy::start(&gate.url(), data.path(), &[]);
        Self {
            _registry: registry,
            gate,
            proxy,
            data,
            layer: image.blobs[1].digest(),
        }
    }

    fn pull(&self) -> Answer {
        self.proxy.get("app/manifests/1_obd")
    }
}

/// The layer in each of the ways that layers are packed.
fn images() -> Vec<(Packing, Sealed)> {
    let tar = repeated();
    let packings = [Packing::Gzip, Packing::Zstd, Packing::Plain];
    let images = packings.map(|packing| {
        let image = Image::new(Flavour::Oci, &[(&tar, packing)]);
        (packing, image.seal())
    });
    images.into()
}

#[test]
fn a_layer_damaged_in_transfer_is_fetched_again() {
    for (packing, image) in images() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let bench = Damaged::new(registry, &image);
        bench.gate.damage(&bench.layer, 1);
        let answer = bench.pull();
        assert_eq!(answer.status, 200, "{packing:?}: {answer:?}");
        bench.proxy.stop();
    }
}

#[test]
fn a_layer_damaged_in_every_transfer_is_502_and_stores_nothing() {
    for (packing, image) in images() {
        let Some(registry) = Registry::start() else {
            return;
        };
        let bench = Damaged::new(registry, &image);
        bench.gate.damage(&bench.layer, 2);
        let answer = bench.pull();
        assert_eq!(answer.status, 502, "{packing:?}: {answer:?}");
        let text = answer.text();
        let named = format!(
            "layer {} came from the upstream with other bytes",
            bench.layer
        );
        assert!(text.contains(&named), "{packing:?}: {text}");
        assert_eq!(proxy::blobs(bench.data.path()).len(), 0);
        // It is whole the next time.
        let answer = bench.pull();
        assert_eq!(answer.status, 200, "{packing:?}: {answer:?}");
        let digest = answer.json()["layers"][0]["digest"].clone();
        let digest = digest.as_str().unwrap();
        let blob = bench.proxy.get(&format!("app/blobs/{digest}"));
        assert_eq!(sha256(&blob.body), digest);
        bench.proxy.stop();
    }
}
