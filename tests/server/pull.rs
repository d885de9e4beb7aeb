//! A pull, end to end: a stock registry behind, a stock client in front, and the converted image
//! verified by e2fsck, the kernel and other extractors.

use crate::support;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Barrier;

use serde_json::{Value, json};
use support::image::{self, Flavour, Image, Packing, Sealed};
use support::layout::Layout;
use support::proxy::{self, Proxy};
use support::pulled::Pulled;
use support::registry::Registry;
use support::tar::{self, Entry, Tar};
use support::walk::Tree;
use support::{noise, skopeo, unpack};

const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const CONVERTED: &str = "overlaybd_proxy_layers_converted_total";

/// An image in small: a usr-merged base, a package, a removal, an opaque directory.
fn layers() -> Vec<Vec<u8>> {
    let base = Tar::new()
        .entry(
            Entry::new(tar::DIRECTORY, "./")
                .mode(0o755)
                .mtime(1_500_000_000),
        )
        .soft("bin", "usr/bin")
        .dir("etc/")
        .file("etc/passwd", "root:x:0:0::/root:/bin/sh\n")
        .entry(Entry::new(tar::DIRECTORY, "root/").mode(0o700))
        .entry(Entry::new(tar::DIRECTORY, "tmp/").mode(0o1777))
        .dir("usr/")
        .dir("usr/bin/")
        .entry(
            Entry::new(tar::FILE, "usr/bin/su")
                .mode(0o4755)
                .data(&noise(1, 70_000)),
        )
        // As tars have it: a hard link's mode is the file's.
        .entry(
            Entry::new(tar::HARD, "usr/bin/sudo")
                .link("usr/bin/su")
                .mode(0o4755),
        )
        .entry(Entry::new(tar::CHAR, "null").device(1, 3).mode(0o666))
        .dir("cache/")
        .file("cache/old", noise(2, 300_000))
        .finish();
    let package = Tar::new()
        .entry(
            Entry::new(tar::FILE, "bin/tool")
                .mode(0o755)
                .data(&noise(3, 2_000_000)),
        )
        .dir("opt/")
        .entry(Entry::new(tar::DIRECTORY, "opt/data/").owner(1000, 100_000))
        .file("opt/data/zeros", vec![0; 1_000_000])
        .file("opt/data/gone", "gone")
        .finish();
    let removal = Tar::new()
        .file("opt/data/.wh.gone", "")
        .dir("cache/")
        .file("cache/.wh..wh..opq", "")
        .file("cache/new", "new\n")
        .hard("opt/passwd", "etc/passwd")
        .finish();
    let change = Tar::new()
        .entry(
            Entry::new(tar::FILE, "etc/passwd")
                .pax("mtime", "1700000000.000000001")
                .data(b"nobody:x:65534:65534::/:/bin/false\n"),
        )
        .file(".wh.null", "")
        .finish();
    vec![base, package, removal, change]
}

/// The source's tree by GNU tar, which umoci has to confirm.
fn expected(layers: &[Vec<u8>]) -> Option<Tree> {
    if !support::is_root("unpacking with owners") || !support::have(&["umoci", "tar"]) {
        return None;
    }
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    layout.add("source", &Image::gzip(layers).seal());
    let umoci = unpack::umoci(layout.path(), "source");
    let gnu = unpack::gnu_tar_of(layers);
    umoci.assert_is(&gnu, &BTreeSet::new(), "umoci beside GNU tar");
    Some(gnu)
}

/// One packing a layer.
fn packed(flavour: Flavour, packings: [Packing; 4]) -> Image {
    let layers = layers();
    let tars: Vec<_> = layers.iter().map(|tar| &tar[..]).zip(packings).collect();
    Image::new(flavour, &tars)
}

fn mixed() -> Image {
    packed(
        Flavour::Oci,
        [
            Packing::Gzip,
            Packing::Zstd,
            Packing::GzipMembers,
            Packing::Plain,
        ],
    )
}

fn have_clients() -> bool {
    support::have(&["skopeo", "e2fsck"])
}

/// A registry that holds `image` as `demo:1`, pushed there by skopeo.
fn registry_with(image: &Sealed, scratch: &Path) -> Option<Registry> {
    if !have_clients() {
        return None;
    }
    let registry = Registry::start()?;
    let layout = Layout::create(&scratch.join("source"));
    layout.add("1", image);
    let to = format!("docker://{}/demo:1", registry.address());
    skopeo::copied(&skopeo::layout(layout.path(), "1"), &to, &[]);
    Some(registry)
}

#[test]
fn a_pulled_image_equals_its_source_in_every_packing() {
    let scratch = tempfile::tempdir().unwrap();
    let image = mixed();
    let Some(registry) = registry_with(&image.seal(), scratch.path()) else {
        return;
    };
    let proxy = Proxy::start(&registry.url(), &scratch.path().join("data"), &[]);
    let pulled = Pulled::into_layout(&proxy, "demo", "1_obd", &scratch.path().join("out"));
    pulled.assert_described(&image.config, OCI_LAYER);
    assert_eq!(pulled.layers.len(), 4);
    assert_eq!(proxy.metric(CONVERTED), Some(4));
    if let (Some(found), Some(expected)) = (pulled.tree(), expected(&layers())) {
        found.assert_is(&expected, &BTreeSet::new(), "the pulled image");
        assert!(found.0.contains_key("/usr/bin/tool"), "through the link");
    }
    proxy.stop();
}

#[test]
fn a_docker_image_stays_a_docker_image() {
    let scratch = tempfile::tempdir().unwrap();
    if !have_clients() {
        return;
    }
    let Some(registry) = Registry::start() else {
        return;
    };
    let image = packed(
        Flavour::Docker,
        [
            Packing::Gzip,
            Packing::GzipMembers,
            Packing::Plain,
            Packing::Gzip,
        ],
    );
    registry.push("demo", "1", &image.seal());
    let proxy = Proxy::start(&registry.url(), &scratch.path().join("data"), &[]);
    let pulled = Pulled::into_directory(&proxy, "demo", "1_obd", &scratch.path().join("out"));
    assert_eq!(pulled.manifest["mediaType"], image::DOCKER_MANIFEST);
    assert_eq!(pulled.manifest["config"]["mediaType"], image::DOCKER_CONFIG);
    pulled.assert_described(&image.config, DOCKER_LAYER);
    let answer = proxy.get("demo/manifests/1_obd");
    assert_eq!(answer.header("content-type"), Some(image::DOCKER_MANIFEST));
    if let (Some(found), Some(expected)) = (pulled.tree(), expected(&layers())) {
        found.assert_is(&expected, &BTreeSet::new(), "the pulled image");
    }
}

#[test]
fn an_image_that_skopeo_made_of_schema_2_is_converted() {
    let scratch = tempfile::tempdir().unwrap();
    let layers = layers();
    let image = Image::gzip(&layers).seal();
    if !have_clients() {
        return;
    }
    let Some(registry) = Registry::start() else {
        return;
    };
    let layout = Layout::create(&scratch.path().join("source"));
    layout.add("1", &image);
    // As with `skopeo copy --format v2s2`, which is what pushes to old registries do.
    let mut command = support::command("skopeo");
    command
        .args(["--insecure-policy", "copy", "--format", "v2s2"])
        .arg("--dest-tls-verify=false")
        .arg(skopeo::layout(layout.path(), "1"))
        .arg(format!("docker://{}/demo:1", registry.address()));
    support::run(&mut command);
    let proxy = Proxy::start(&registry.url(), &scratch.path().join("data"), &[]);
    let pulled = Pulled::into_directory(&proxy, "demo", "1_obd", &scratch.path().join("out"));
    assert_eq!(pulled.manifest["mediaType"], image::DOCKER_MANIFEST);
    if let (Some(found), Some(expected)) = (pulled.tree(), expected(&layers)) {
        found.assert_is(&expected, &BTreeSet::new(), "the pulled image");
    }
}

/// An index of an image for here, one for elsewhere and an attestation of the first.
fn index(registry: &Registry, flavour: Flavour) -> (Sealed, Sealed, Value) {
    let layers = layers();
    let tars: Vec<_> = layers.iter().map(|tar| (&tar[..], Packing::Gzip)).collect();
    let here = Image::new(flavour, &tars);
    let elsewhere = Image::new(flavour, &tars[..1]).platform("linux", "s390x");
    let (here, elsewhere) = (here.seal(), elsewhere.seal());
    let (attestation, attested) = Sealed::attestation(&here);
    let mut entries = vec![
        here.entry("linux", "amd64"),
        elsewhere.entry("linux", "s390x"),
    ];
    for image in [&here, &elsewhere] {
        registry.push("demo", &image.digest(), image);
    }
    if flavour == Flavour::Oci {
        registry.push("demo", &attestation.digest(), &attestation);
        entries.push(attested);
    }
    let index = image::index(flavour, &entries);
    registry.push_manifest("demo", "1", &index.media_type, &index.bytes);
    (here, elsewhere, entries[1].clone())
}

#[test]
fn an_index_keeps_other_platforms_and_loses_its_attestations() {
    if !have_clients() {
        return;
    }
    for flavour in [Flavour::Oci, Flavour::Docker] {
        let scratch = tempfile::tempdir().unwrap();
        let Some(registry) = Registry::start() else {
            return;
        };
        let (here, elsewhere, kept) = index(&registry, flavour);
        let more = ["--platform", "linux/amd64"];
        let proxy = Proxy::start(&registry.url(), &scratch.path().join("data"), &more);
        let answer = proxy.get("demo/manifests/1_obd");
        assert_eq!(answer.status, 200, "{answer:?}");
        let entries = answer.json()["manifests"].as_array().unwrap().clone();
        assert_eq!(entries.len(), 2, "{entries:?}");
        assert_eq!(
            entries[0]["platform"],
            json!({"os": "linux", "architecture": "amd64"})
        );
        assert_ne!(entries[0]["digest"], here.digest());
        assert_eq!(entries[1], kept);
        if flavour == Flavour::Oci {
            assert!(proxy.log().contains("attestation"), "{}", proxy.log());
        }

        // The client finds its way through the index to either of them.
        let out = scratch.path().join("out");
        skopeo::copied(
            &proxy.image("demo", "1_obd"),
            &format!("dir:{}", out.display()),
            &["--override-arch", "amd64"],
        );
        let manifest: Value =
            serde_json::from_slice(&fs::read(out.join("manifest.json")).unwrap()).unwrap();
        let layer = manifest["layers"][0]["digest"].as_str().unwrap();
        let blob = fs::read(out.join(&layer["sha256:".len()..])).unwrap();
        assert_eq!(support::sha256(&blob), layer);
        let other = proxy.get(&format!("demo/manifests/{}", elsewhere.digest()));
        assert_eq!(&other.body[..], &elsewhere.manifest[..], "passed through");

        let all = scratch.path().join("all");
        let proxy = Proxy::start(&registry.url(), &all, &["--platform", "all"]);
        let answer = proxy.get("demo/manifests/1_obd");
        let entries = answer.json()["manifests"].as_array().unwrap().clone();
        assert_eq!(entries.len(), 2);
        assert_ne!(entries[1]["digest"], elsewhere.digest());
        assert_eq!(entries[1]["platform"], kept["platform"]);
    }
}

#[test]
fn two_hundred_concurrent_clients_cause_one_conversion() {
    let scratch = tempfile::tempdir().unwrap();
    let image = mixed().seal();
    let Some(registry) = registry_with(&image, scratch.path()) else {
        return;
    };
    let before = registry.requests().len();
    let proxy = Proxy::start(&registry.url(), &scratch.path().join("data"), &[]);
    let barrier = Barrier::new(200);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..200)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    proxy.get("demo/manifests/1_obd")
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    });
    for answer in &answers {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.body, answers[0].body);
    }
    assert_eq!(proxy.metric(CONVERTED), Some(4));
    let requests = registry.requests().split_off(before);
    for layer in &image.blobs[1..] {
        let path = format!("/blobs/{}", layer.digest());
        let fetched = requests
            .iter()
            .filter(|r| r.starts_with("GET") && r.contains(&path));
        assert_eq!(fetched.count(), 1, "{path} of {requests:?}");
    }
}

#[test]
fn a_restart_serves_what_was_converted_without_converting_or_downloading() {
    let scratch = tempfile::tempdir().unwrap();
    let image = mixed().seal();
    let Some(registry) = registry_with(&image, scratch.path()) else {
        return;
    };
    let data = scratch.path().join("data");
    let first = {
        let proxy = Proxy::start(&registry.url(), &data, &[]);
        let pulled = Pulled::into_layout(&proxy, "demo", "1_obd", &scratch.path().join("a"));
        proxy.stop();
        pulled
    };
    // Nothing but the manifest is left to be had.
    for blob in &image.blobs {
        fs::remove_file(registry.blob_path(&blob.digest())).unwrap();
    }
    let before = registry.requests().len();
    let proxy = Proxy::start(&registry.url(), &data, &[]);
    let second = Pulled::into_layout(&proxy, "demo", "1_obd", &scratch.path().join("b"));
    assert_eq!(second.manifest, first.manifest);
    assert_eq!(second.config, first.config);
    assert_eq!(proxy.metric(CONVERTED).unwrap_or(0), 0);
    let requests = registry.requests().split_off(before);
    let may = requests
        .iter()
        .filter(|request| request.starts_with("HEAD"));
    assert!(
        may.count() > 0,
        "nobody was asked whether the client may: {requests:?}"
    );
    let blobs: Vec<_> = requests.iter().filter(|r| r.contains("/blobs/")).collect();
    assert!(blobs.is_empty(), "{blobs:?}");
}

#[test]
fn bytes_depend_neither_on_the_run_nor_on_the_number_of_threads() {
    let scratch = tempfile::tempdir().unwrap();
    let image = mixed().seal();
    let Some(registry) = registry_with(&image, scratch.path()) else {
        return;
    };
    for algorithm in ["lz4", "zstd"] {
        let pull = |name: &str, threads: &str| {
            let data = scratch.path().join(format!("{algorithm}-{name}"));
            let more = ["--threads", threads, "--algorithm", algorithm];
            let proxy = Proxy::start(&registry.url(), &data, &more);
            let answer = proxy.get("demo/manifests/1_obd");
            assert_eq!(answer.status, 200, "{answer:?}");
            (answer.body, proxy::blobs(&data).len())
        };
        let one = pull("one", "1");
        assert_eq!(one, pull("again", "1"));
        assert_eq!(one, pull("five", "5"));
    }
}

#[test]
fn a_layout_directory_is_an_upstream_like_another() {
    if !have_clients() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let image = mixed();
    let layout = Layout::create(&scratch.path().join("source"));
    layout.add("1", &image.seal());
    let upstream = format!("oci:{}", layout.path().display());
    let proxy = Proxy::start(&upstream, &scratch.path().join("data"), &[]);
    let pulled = Pulled::into_layout(&proxy, "demo", "1_obd", &scratch.path().join("out"));
    pulled.assert_described(&image.config, OCI_LAYER);
    if let (Some(found), Some(expected)) = (pulled.tree(), expected(&layers())) {
        found.assert_is(&expected, &BTreeSet::new(), "the pulled image");
    }

    // The same bytes as from a registry.
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("demo", "1", &image.seal());
    let proxy = Proxy::start(&registry.url(), &scratch.path().join("other"), &[]);
    let other = Pulled::into_layout(&proxy, "demo", "1_obd", &scratch.path().join("out2"));
    assert_eq!(other.manifest, pulled.manifest);
}

#[test]
fn plain_tags_and_their_blobs_pass_through_unchanged() {
    let scratch = tempfile::tempdir().unwrap();
    let image = mixed().seal();
    let Some(registry) = registry_with(&image, scratch.path()) else {
        return;
    };
    let data = scratch.path().join("data");
    let proxy = Proxy::start(&registry.url(), &data, &[]);
    let back = scratch.path().join("back");
    skopeo::copied(&proxy.image("demo", "1"), &skopeo::layout(&back, "1"), &[]);
    let back = Layout::open(&back);
    assert_eq!(back.blob(&image.digest()), image.manifest);
    for blob in &image.blobs {
        assert_eq!(back.blob(&blob.digest()), blob.bytes);
    }
    assert_eq!(proxy.metric(CONVERTED).unwrap_or(0), 0);
    assert_eq!(proxy::blobs(&data), Vec::<PathBuf>::new());
    let missing = proxy.get("demo/manifests/nothing_obd");
    assert_eq!(missing.status, 404, "{missing:?}");
    assert_eq!(missing.json()["errors"][0]["code"], "MANIFEST_UNKNOWN");
}
