//! What the entries of an index turn out to be, and what becomes of those that are no image to
//! convert.

use crate::support;
use std::process::Output;

use serde_json::{Value, json};
use support::bench::Bench;
use support::image::{Blob, Flavour, Image, Packing, Sealed, index};
use support::layout::Layout;
use support::proxy::{Proxy, program};
use support::tar::Tar;
use support::{noise, sha256};

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const BLOB_DIGEST: &str = "containerd.io/snapshot/overlaybd/blob-digest";

fn tar(seed: u64) -> Vec<u8> {
    Tar::new().file("data", noise(seed, 50_000)).finish()
}

fn image(seed: u64) -> Image {
    Image::gzip(&[tar(seed)])
}

impl Bench {
    fn store(&self, image: &Sealed) -> Value {
        self.layout.store(image);
        json!({
            "mediaType": image.media_type,
            "digest": image.digest(),
            "size": image.manifest.len(),
        })
    }

    /// Stores a document of any kind.
    fn put(&self, media_type: &str, document: &Value) -> Value {
        let bytes = serde_json::to_vec(document).unwrap();
        json!({"mediaType": media_type, "digest": self.layout.put(&bytes), "size": bytes.len()})
    }

    /// What the tag becomes.
    #[track_caller]
    fn pull(&self, tag: &str) -> Value {
        let answer = self.proxy.get(&format!("demo/manifests/{tag}_obd"));
        let log = self.proxy.log();
        assert_eq!(answer.status, 200, "{tag}: {answer:?}\n{log}");
        // Asked again, it is the same.
        let again = self.proxy.get(&format!("demo/manifests/{tag}_obd"));
        assert_eq!(again.body, answer.body, "{tag}");
        answer.json()
    }

    /// The manifest of this digest, which must be that of a converted image.
    #[track_caller]
    fn converted(&self, entry: &Value) -> Value {
        let digest = entry["digest"].as_str().unwrap();
        let answer = self.proxy.get(&format!("demo/manifests/{digest}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(entry["size"], answer.body.len());
        let manifest = answer.json();
        for layer in manifest["layers"].as_array().unwrap() {
            let annotation = &layer["annotations"][BLOB_DIGEST];
            assert_eq!(*annotation, layer["digest"], "{manifest}");
            let digest = layer["digest"].as_str().unwrap();
            let blob = self.proxy.get(&format!("demo/blobs/{digest}"));
            assert_eq!(sha256(&blob.body), digest);
        }
        manifest
    }

    fn convert(&self, tag: &str, out: &str, more: &[&str]) -> Output {
        let mut command = program();
        let source = format!("oci:{}:{tag}", self.layout.path().display());
        let out = self.scratch.path().join(out);
        let out = format!("oci:{}:{tag}", out.display());
        command.args(["convert", &source, &out]).args(more);
        command.output().unwrap()
    }
}

fn with_platform(mut entry: Value, os: &str, architecture: &str) -> Value {
    entry["platform"] = json!({"os": os, "architecture": architecture});
    entry
}

#[test]
fn an_index_in_an_index_keeps_its_shape_and_hands_its_platform_down() {
    let bench = Bench::new(&["--platform", "linux/amd64"]);
    let here = bench.store(&image(1).seal());
    let there = bench.store(&image(2).platform("linux", "s390x").seal());
    // The images say nothing of their platform; what lists them does.
    let inner = index(Flavour::Oci, std::slice::from_ref(&here));
    let other = index(Flavour::Oci, &[there]);
    for document in [&inner, &other] {
        bench.layout.put(&document.bytes);
    }
    let outer = index(
        Flavour::Oci,
        &[
            with_platform(other.descriptor(), "linux", "s390x"),
            with_platform(inner.descriptor(), "linux", "amd64"),
        ],
    );
    bench.layout.tag("1", &outer);
    let made = bench.pull("1");
    let entries = made["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0]["digest"], other.digest());
    assert_eq!(entries[1]["mediaType"], OCI_INDEX);
    assert_eq!(entries[1]["platform"]["architecture"], "amd64");
    let digest = entries[1]["digest"].as_str().unwrap();
    let within = bench.proxy.get(&format!("demo/manifests/{digest}")).json();
    assert_eq!(within["manifests"].as_array().unwrap().len(), 1);
    bench.converted(&within["manifests"][0]);

    // Elsewhere it arrives with all of its parts.
    let output = bench.convert("1", "out", &["--platform", "linux/amd64"]);
    assert!(output.status.success(), "{output:?}");
    let out = Layout::open(&bench.scratch.path().join("out"));
    let outer = out.manifest("1");
    assert_eq!(outer["manifests"].as_array().unwrap().len(), 1);
    let inner = out.json(outer["manifests"][0]["digest"].as_str().unwrap());
    let image = out.json(inner["manifests"][0]["digest"].as_str().unwrap());
    assert!(
        !out.blob(image["layers"][0]["digest"].as_str().unwrap())
            .is_empty()
    );
}

#[test]
fn endlessly_nested_indexes_are_refused() {
    let bench = Bench::new(&[]);
    let mut document = index(Flavour::Oci, &[bench.store(&image(1).seal())]);
    for _ in 0..5 {
        bench.layout.put(&document.bytes);
        document = index(Flavour::Oci, &[document.descriptor()]);
    }
    bench.layout.tag("deep", &document);
    let answer = bench.proxy.get("demo/manifests/deep_obd");
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(
        answer.text().contains("nested more than 4 deep"),
        "{answer:?}"
    );
}

/// Entries that are no image to convert, each with what it is.
fn odd_entries(bench: &Bench) -> Vec<(&'static str, Value)> {
    let gone = format!("sha256:{}", "0".repeat(64));
    let missing = json!({"mediaType": OCI_MANIFEST, "digest": gone, "size": 100});
    let mut empty_platform = missing.clone();
    empty_platform["platform"] = json!({});
    let layer = json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": gone, "size": 5,
    });
    let freebsd = bench.store(&image(3).platform("freebsd", "amd64").seal());
    let mut foreign = image(4).platform("windows", "amd64");
    foreign.manifest["layers"][0]["mediaType"] =
        json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    let foreign = bench.store(&foreign.seal());
    let artifact = bench.put(
        "application/vnd.oci.artifact.manifest.v1+json",
        &json!({"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": []}),
    );
    let content = bench.layout.put(b"{}");
    let chart = bench.put(
        OCI_MANIFEST,
        &json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json",
                       "digest": content, "size": 2},
            "layers": [],
        }),
    );
    let nonsense = bench.put(OCI_MANIFEST, &json!({"schemaVersion": 2, "config": 5}));
    let nothing_in_it = index(Flavour::Oci, &[]);
    bench.layout.put(&nothing_in_it.bytes);
    vec![
        ("missing, of no platform", missing.clone()),
        ("missing, of an empty platform", empty_platform),
        (
            "missing, and wanted",
            with_platform(missing, "linux", "amd64"),
        ),
        ("a layer", layer),
        ("an image for another system", freebsd.clone()),
        (
            "the same, said to be for this one",
            with_platform(freebsd, "linux", "amd64"),
        ),
        ("foreign layers", foreign.clone()),
        (
            "foreign layers, said so",
            with_platform(foreign, "windows", "amd64"),
        ),
        ("an old artifact manifest", artifact),
        ("a chart", chart),
        (
            "a chart, said to be for this system",
            with_platform(nonsense.clone(), "linux", "amd64"),
        ),
        ("nonsense", nonsense),
        ("an index of nothing", nothing_in_it.descriptor()),
    ]
}

#[test]
fn index_entries_that_are_no_container_images_are_kept() {
    let bench = Bench::new(&["--platform", "all"]);
    let good = with_platform(bench.store(&image(1).seal()), "linux", "amd64");
    for (number, (name, odd)) in odd_entries(&bench).into_iter().enumerate() {
        for (place, entries) in [[odd.clone(), good.clone()], [good.clone(), odd.clone()]]
            .into_iter()
            .enumerate()
        {
            let tag = format!("odd-{number}-{place}");
            bench.layout.tag(&tag, &index(Flavour::Oci, &entries));
            let made = bench.pull(&tag);
            let made = made["manifests"].as_array().unwrap();
            assert_eq!(made.len(), 2, "{name}");
            assert_eq!(made[place], odd, "{name}");
            assert_ne!(made[1 - place]["digest"], good["digest"], "{name}");
            bench.converted(&made[1 - place]);
        }
    }
    assert!(bench.proxy.log().contains("left as it is"));
    // Elsewhere the image arrives without what cannot be had, nor is one.
    let entries: Vec<Value> = odd_entries(&bench)
        .into_iter()
        .map(|(_, odd)| odd)
        .collect();
    bench.layout.tag(
        "all",
        &index(Flavour::Oci, &[&entries[..], &[good]].concat()),
    );
    let output = bench.convert("all", "elsewhere", &["--platform", "all"]);
    assert!(output.status.success(), "{output:?}");
    let out = Layout::open(&bench.scratch.path().join("elsewhere"));
    assert_eq!(
        out.manifest("all")["manifests"].as_array().unwrap().len(),
        1
    );
}

#[test]
fn an_image_that_was_missing_is_converted_once_it_is_there() {
    let bench = Bench::new(&["--platform", "all"]);
    let good = with_platform(bench.store(&image(1).seal()), "linux", "amd64");
    let late = image(2).platform("linux", "arm64").seal();
    let entry = late.entry("linux", "arm64");
    bench
        .layout
        .tag("sparse", &index(Flavour::Oci, &[good, entry.clone()]));
    assert_eq!(bench.pull("sparse")["manifests"][1], entry);
    let data = bench.scratch.path().join("data");
    let upstream = format!("oci:{}", bench.layout.path().display());
    bench.layout.store(&late);
    bench.proxy.stop();
    let proxy = Proxy::start(&upstream, &data, &["--platform", "all"]);
    let made = proxy.get("demo/manifests/sparse_obd").json();
    assert_ne!(made["manifests"][1]["digest"], entry["digest"]);
    assert_eq!(made["manifests"][1]["platform"], entry["platform"]);
}

#[test]
fn entries_that_differ_by_compression_become_one() {
    let bench = Bench::new(&["--platform", "linux/amd64"]);
    let tar = tar(1);
    let entries = [Packing::Gzip, Packing::Zstd].map(|packing| {
        let image = Image::new(Flavour::Oci, &[(&tar, packing)]).seal();
        let mut entry = with_platform(bench.store(&image), "linux", "amd64");
        if packing == Packing::Zstd {
            entry["annotations"] = json!({"io.github.containers.compression.zstd": "true"});
        }
        entry
    });
    for (tag, order) in [("first", [0, 1]), ("last", [1, 0])] {
        let entries = order.map(|place: usize| entries[place].clone());
        bench.layout.tag(tag, &index(Flavour::Oci, &entries));
        let made = bench.pull(tag);
        assert_eq!(made["manifests"].as_array().unwrap().len(), 1, "{made}");
        assert_eq!(made["manifests"][0].get("annotations"), None);
        bench.converted(&made["manifests"][0]);
    }
}

#[test]
fn an_image_for_another_system_is_left_as_it_is_and_that_is_said() {
    let bench = Bench::new(&["--platform", "all"]);
    for os in ["windows", "freebsd"] {
        bench.layout.add(os, &image(1).platform(os, "amd64").seal());
        let answer = bench.proxy.get(&format!("demo/manifests/{os}_obd"));
        assert_eq!(answer.status, 400, "{os}: {answer:?}");
        assert!(answer.text().contains("no linux image"), "{os}: {answer:?}");
        let output = bench.convert(os, "out", &[]);
        assert_eq!(output.status.code(), Some(3), "{os}: {output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("no linux image"), "{os}: {text}");
    }
}

#[test]
fn other_platforms_are_copied_elsewhere_only_where_that_is_asked_for() {
    let bench = Bench::new(&[]);
    let here = bench.store(&image(1).seal());
    let there = image(2).platform("linux", "s390x").seal();
    let entries = [
        with_platform(here, "linux", "amd64"),
        there.entry("linux", "s390x"),
    ];
    bench.layout.store(&there);
    bench.layout.tag("1", &index(Flavour::Oci, &entries));
    for (out, more, count) in [
        ("without", &["--platform", "linux/amd64"][..], 1),
        (
            "with",
            &["--platform", "linux/amd64", "--keep-platforms"],
            2,
        ),
    ] {
        let output = bench.convert("1", out, more);
        assert!(output.status.success(), "{output:?}");
        let out = Layout::open(&bench.scratch.path().join(out));
        let made = out.manifest("1");
        assert_eq!(made["manifests"].as_array().unwrap().len(), count);
        let copied = out.blob_path(&there.blobs[1].digest()).exists();
        assert_eq!(copied, count == 2);
    }
    // What the proxy serves names all of them: they are where the source is.
    assert_eq!(bench.pull("1")["manifests"].as_array().unwrap().len(), 2);
}

#[test]
fn a_platform_that_was_asked_for_and_is_not_there_is_an_error() {
    let bench = Bench::new(&[]);
    let entry = with_platform(bench.store(&image(1).seal()), "linux", "amd64");
    bench.layout.tag("index", &index(Flavour::Oci, &[entry]));
    bench.layout.add("image", &image(2).seal());
    for (tag, platforms) in [
        ("index", "linux/amd64,linux/s390x"),
        ("image", "linux/s390x"),
    ] {
        let output = bench.convert(tag, "out", &["--platform", platforms]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{tag}: {text}");
        assert!(text.contains("not there for linux/s390x"), "{tag}: {text}");
        assert!(text.contains("it is for linux/amd64"), "{tag}: {text}");
    }
}

#[test]
fn the_same_platforms_are_converted_on_every_machine_and_that_is_said() {
    let bench = Bench::new(&[]);
    let architectures = ["amd64", "arm64", "s390x"];
    let entries = architectures.map(|architecture| {
        let image = image(1).platform("linux", architecture).seal();
        with_platform(bench.store(&image), "linux", architecture)
    });
    bench.layout.tag("1", &index(Flavour::Oci, &entries));
    let made = bench.pull("1");
    for (place, architecture) in architectures.iter().enumerate() {
        let is_same = made["manifests"][place] == entries[place];
        assert_eq!(is_same, *architecture == "s390x", "{architecture}");
    }
    let output = bench.convert("1", "out", &[]);
    let text = String::from_utf8(output.stderr).unwrap();
    let said = "converted: linux/amd64, linux/arm64; not converted: linux/s390x";
    assert!(text.contains(said), "{text}");
}

/// Replaces a part of a document, which must be there.
#[track_caller]
fn edited(document: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = std::str::from_utf8(document).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    text.replacen(from, to, 1).into_bytes()
}

#[test]
fn documents_that_containerd_reads_are_read() {
    let bench = Bench::new(&[]);
    let plain = image(1).seal();
    bench.layout.add("plain", &plain);
    let expected = bench.pull("plain");
    let manifest = &plain.manifest;
    let config = plain.blobs[0].clone();
    let layer = plain.blobs[1].clone();
    let sized = |blob: &Blob| format!(r#","size":{}"#, blob.bytes.len());
    let data = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(&config.bytes)
    };
    let inline = format!(r#"{},"data":"{data}""#, sized(&config));
    for (name, document) in [
        ("no-version", edited(manifest, r#""schemaVersion":2,"#, "")),
        ("no-layer-size", edited(manifest, &sized(&layer), "")),
        ("no-config-size", edited(manifest, &sized(&config), "")),
        (
            "no-layer-type",
            edited(
                manifest,
                &format!(r#""mediaType":"{}","#, layer.media_type),
                "",
            ),
        ),
        (
            "no-config-type",
            edited(
                manifest,
                &format!(r#""mediaType":"{}","#, config.media_type),
                "",
            ),
        ),
        (
            "twice",
            edited(manifest, r#""layers":"#, r#""layers":[{}],"layers":"#),
        ),
        (
            "other-case",
            edited(manifest, r#""layers":"#, r#""Layers":"#),
        ),
        ("inline", edited(manifest, &sized(&config), &inline)),
        (
            "half-a-pair",
            edited(manifest, "{", r#"{"annotations":{"a":"\ud800"},"#),
        ),
        (
            "no-utf-8",
            [&b"{\"annotations\":{\"a\":\"\xff\"},"[..], &manifest[1..]].concat(),
        ),
    ] {
        let document = Blob {
            media_type: OCI_MANIFEST.to_owned(),
            bytes: document,
        };
        bench.layout.tag(name, &document);
        let made = bench.pull(name);
        assert_eq!(made["layers"], expected["layers"], "{name}");
        assert_eq!(made["schemaVersion"], 2, "{name}");
        assert_eq!(
            made["config"]["digest"], expected["config"]["digest"],
            "{name}"
        );
        assert_eq!(made.get("Layers"), None, "{name}");
    }
    // Only inline: the registry has no such blob.
    let mut hidden = image(2);
    hidden.config["config"]["Labels"]["only"] = json!("inline");
    let sealed = hidden.seal();
    bench.layout.put(&sealed.blobs[1].bytes);
    let config = &sealed.blobs[0];
    let data = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(&config.bytes)
    };
    let inline = format!(r#"{},"data":"{data}""#, sized(config));
    let document = Blob {
        media_type: OCI_MANIFEST.to_owned(),
        bytes: edited(&sealed.manifest, &sized(config), &inline),
    };
    bench.layout.tag("only-inline", &document);
    assert!(bench.pull("only-inline")["layers"].is_array());
    // A config as only lenient readers take it.
    let config = edited(
        &plain.blobs[0].bytes,
        r#""os":"linux""#,
        r#""os":"x","os":"linux","author":"\udfff""#,
    );
    let mut odd = plain.clone();
    odd.blobs[0].bytes = config;
    odd.manifest = edited(manifest, &plain.blobs[0].digest(), &odd.blobs[0].digest());
    odd.manifest = edited(
        &odd.manifest,
        &sized(&plain.blobs[0]),
        &sized(&odd.blobs[0]),
    );
    bench.layout.add("config", &odd);
    assert_eq!(bench.pull("config")["layers"], expected["layers"]);
}
