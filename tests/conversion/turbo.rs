//! TurboOCI images through the front door: a stock registry behind, what is served in front, and the
//! disk that a node puts together of the small layers and the original ones.

use crate::support;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::image::{self, Flavour, Image, Packing};
use support::layout::Layout;
use support::process::Process;
use support::proxy::Proxy;
use support::registry::Registry;
use support::tar::{self, Entry, Tar};
use support::turbo::{NOTE, OCI_GZIP, OCI_TAR, Turbo};
use support::{noise, unpack, verifier};

/// Three layers with what is peculiar to this format: files that end within a sector, empty, small
/// and sparse ones, replaced and removed ones, hard links.
fn layers() -> Vec<Vec<u8>> {
    let base = Tar::new()
        .dir("etc/")
        .file("etc/passwd", "root:x:0:0::/root:/bin/sh\n")
        .dir("data/")
        .file("data/old", noise(1, 300_001))
        .file("data/replaced", noise(2, 70_000))
        .file("data/empty", "")
        .file("data/block", noise(3, 4096))
        .file("data/sectors", noise(4, 8192 + 512))
        .file("data/zeros", vec![0; 100_000])
        .hard("data/again", "data/old")
        .finish();
    let package = Tar::new()
        .entry(
            Entry::new(tar::FILE, "bin/tool")
                .mode(0o755)
                .data(&noise(5, 3_000_000)),
        )
        .file("data/replaced", noise(6, 12_345))
        .file("data/twice", noise(7, 50_000))
        .file("data/twice", noise(8, 40_001))
        .dir("many/")
        .finish();
    let removal = Tar::new()
        .file("data/.wh.old", "")
        .file("data/new", noise(9, 9_999))
        .soft("link", "data/new")
        .finish();
    vec![base, package, removal]
}

fn image(flavour: Flavour, packings: &[Packing]) -> Image {
    let layers = layers();
    let tars: Vec<_> = layers
        .iter()
        .map(|tar| &tar[..])
        .zip(packings.iter().copied())
        .collect();
    Image::new(flavour, &tars)
}

fn json(proxy: &Proxy, path: &str) -> Value {
    let answer = proxy.get(path);
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    serde_json::from_slice(&answer.body).unwrap()
}

fn data_dir(scratch: &tempfile::TempDir) -> PathBuf {
    scratch.path().join("data")
}

#[test]
fn a_turbo_image_holds_metadata_and_reads_as_its_source() {
    if !support::have(&["e2fsck", "tar"]) {
        return;
    }
    let Some(registry) = Registry::start() else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    for (tag, packings) in [
        ("gzip", [Packing::Gzip; 3]),
        ("mixed", [Packing::Gzip, Packing::Plain, Packing::Gzip]),
    ] {
        let source = image(Flavour::Oci, &packings).seal();
        registry.push("demo", tag, &source);
        let proxy = Proxy::start(&registry.url(), &scratch.path().join(tag), &[]);
        let answer = proxy.get(&format!("demo/manifests/{tag}_turbo"));
        assert_eq!(
            answer.status,
            200,
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
        assert_eq!(answer.header("overlaybd-outcome"), Some("converted"));
        assert_eq!(answer.header("overlaybd-fallback"), None);
        let manifest: Value = serde_json::from_slice(&answer.body).unwrap();
        for (one, packing) in manifest["layers"].as_array().unwrap().iter().zip(packings) {
            assert_eq!(one["mediaType"], OCI_GZIP);
            let kind = &one["annotations"][format!("{NOTE}turbo-oci/target-media-type")];
            let expected = match packing {
                Packing::Plain => OCI_TAR,
                _ => OCI_GZIP,
            };
            assert_eq!(kind, expected);
        }
        // None of the noise is in the layers.
        let sizes = manifest["layers"].as_array().unwrap().iter();
        let size: u64 = sizes.map(|one| one["size"].as_u64().unwrap()).sum();
        assert!(size < 120_000, "{size}");
        // containerd compares the diff ids when it unpacks.
        let config = json(
            &proxy,
            &format!(
                "demo/blobs/{}",
                manifest["config"]["digest"].as_str().unwrap()
            ),
        );
        for (one, diff_id) in manifest["layers"]
            .as_array()
            .unwrap()
            .iter()
            .zip(config["rootfs"]["diff_ids"].as_array().unwrap())
        {
            let blob = proxy.get(&format!("demo/blobs/{}", one["digest"].as_str().unwrap()));
            let mut tar = Vec::new();
            let mut gzip = flate2::read::MultiGzDecoder::new(&blob.body[..]);
            std::io::Read::read_to_end(&mut gzip, &mut tar).unwrap();
            assert_eq!(support::sha256(&tar), diff_id.as_str().unwrap());
        }
        let origin = |digest: &str| registry.blob_path(digest);
        let found = Turbo::of(&proxy, "demo", &manifest, origin).tree();
        if let (Some(found), true) = (found, support::is_root("unpacking with owners")) {
            let expected = unpack::gnu_tar_of(&layers());
            found.assert_is(&expected, &BTreeSet::new(), tag);
        }
        // Every check of it, through the proxy.
        let image = proxy.image("demo", &format!("{tag}_turbo"));
        let checked = support::run(support::proxy::program().args(["check", &image]));
        let said = String::from_utf8_lossy(&checked.stdout);
        assert!(said.contains("the same: "), "{said}");
        // By digest, and found the second time.
        let digest = support::sha256(&answer.body);
        assert_eq!(
            proxy.get(&format!("demo/manifests/{digest}")).body,
            answer.body
        );
        let again = proxy.get(&format!("demo/manifests/{tag}_turbo"));
        assert_eq!(again.body, answer.body);
        proxy.stop();
    }
}

#[test]
fn a_check_fetches_each_layer_of_the_source_once() {
    let Some(registry) = Registry::start() else {
        return;
    };
    // Builders leave several empty layers, which are one blob.
    let empty = Tar::new().finish();
    let layers = [layers(), vec![empty.clone(), empty]].concat();
    let source = Image::gzip(&layers).seal();
    registry.push("demo", "1", &source);
    let scratch = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&registry.url(), &data_dir(&scratch), &[]);
    json(&proxy, "demo/manifests/1_turbo");
    let before = registry.requests().len();
    let image = proxy.image("demo", "1_turbo");
    support::run(support::proxy::program().args(["check", &image]));
    let requests = registry.requests().split_off(before);
    for layer in image::layer_digests(&serde_json::from_slice(&source.manifest).unwrap()) {
        let of_it = |request: &&String| request.starts_with("GET") && request.contains(&layer);
        assert_eq!(requests.iter().filter(of_it).count(), 1, "{requests:#?}");
    }
}

#[test]
fn a_layer_is_put_on_turbo_layers_of_an_earlier_run_with_the_same_bytes() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let layers = layers();
    let below = Image::gzip(&layers[..2]).seal();
    let whole = Image::gzip(&layers).seal();
    registry.push("demo", "below", &below);
    registry.push("demo", "whole", &whole);
    let scratch = tempfile::tempdir().unwrap();
    let first = {
        let proxy = Proxy::start(&registry.url(), &data_dir(&scratch), &[]);
        let manifest = json(&proxy, "demo/manifests/below_turbo");
        proxy.stop();
        manifest
    };
    let proxy = Proxy::start(&registry.url(), &data_dir(&scratch), &[]);
    let second = json(&proxy, "demo/manifests/whole_turbo");
    assert_eq!(
        image::layer_digests(&second)[..2],
        image::layer_digests(&first)[..]
    );
    assert_eq!(
        proxy.metric("overlaybd_proxy_layers_converted_total"),
        Some(1)
    );
    let anew = tempfile::tempdir().unwrap();
    let other = Proxy::start(&registry.url(), &data_dir(&anew), &[]);
    assert_eq!(json(&other, "demo/manifests/whole_turbo"), second);
}

#[test]
fn images_that_turbo_cannot_carry_become_what_the_fallback_says() {
    let Some(registry) = Registry::start() else {
        return;
    };
    for (tag, packing, reason) in [
        ("zstd", Packing::Zstd, "zstd"),
        ("members", Packing::GzipMembers, "second member"),
    ] {
        let packings = [Packing::Gzip, packing, Packing::Gzip];
        let source = image(Flavour::Oci, &packings).seal();
        registry.push("demo", tag, &source);
        let scratch = tempfile::tempdir().unwrap();
        let proxy = Proxy::start(&registry.url(), &data_dir(&scratch), &[]);
        let native = proxy.get(&format!("demo/manifests/{tag}_obd"));
        for _ in 0..2 {
            let answer = proxy.get(&format!("demo/manifests/{tag}_turbo"));
            assert_eq!(answer.body, native.body, "{tag}");
        }
        assert!(proxy.log().contains(reason), "{}", proxy.log());
        proxy.stop();

        let scratch = tempfile::tempdir().unwrap();
        let options = ["--turbo-fallback", "original"];
        let proxy = Proxy::start(&registry.url(), &data_dir(&scratch), &options);
        for _ in 0..2 {
            let answer = proxy.get(&format!("demo/manifests/{tag}_turbo"));
            assert_eq!(support::sha256(&answer.body), source.digest());
            let fallback = answer.header("overlaybd-fallback").unwrap();
            assert!(fallback.starts_with("original; "), "{fallback}");
            assert!(fallback.contains(reason), "{fallback}");
        }
        proxy.stop();

        let scratch = tempfile::tempdir().unwrap();
        let options = ["--turbo-fallback", "error"];
        let proxy = Proxy::start(&registry.url(), &data_dir(&scratch), &options);
        let answer = proxy.get(&format!("demo/manifests/{tag}_turbo"));
        assert_eq!(answer.status, 422);
        assert!(String::from_utf8_lossy(&answer.body).contains(reason));
        proxy.stop();
    }
}

#[test]
fn an_evicted_turbo_layer_is_made_again() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push(
        "demo",
        "1",
        &image(Flavour::Oci, &[Packing::Gzip; 3]).seal(),
    );
    let scratch = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&registry.url(), &data_dir(&scratch), &[]);
    let manifest = json(&proxy, "demo/manifests/1_turbo");
    proxy.stop();
    for blob in support::proxy::blobs(&data_dir(&scratch)) {
        std::fs::remove_file(blob).unwrap();
    }
    let proxy = Proxy::start(&registry.url(), &data_dir(&scratch), &[]);
    for digest in image::layer_digests(&manifest) {
        let answer = proxy.get(&format!("demo/blobs/{digest}"));
        assert_eq!(answer.status, 200);
        assert_eq!(support::sha256(&answer.body), digest);
    }
}

#[test]
fn an_empty_turbo_suffix_leaves_the_upstreams_tags_alone() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push(
        "demo",
        "1",
        &image(Flavour::Oci, &[Packing::Gzip; 3]).seal(),
    );
    let scratch = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(
        &registry.url(),
        &data_dir(&scratch),
        &["--turbo-suffix", ""],
    );
    assert_eq!(proxy.get("demo/manifests/1_turbo").status, 404);
}

#[test]
fn the_disk_of_a_turbo_image_is_that_of_the_native_one() {
    let Some(registry) = Registry::start() else {
        return;
    };
    if !support::have(&["tar"]) {
        return;
    }
    // A sparse file, whose parts lie on sectors of the tar and of the file, or do not.
    let holes = tempfile::tempdir().unwrap();
    let file = File::create(holes.path().join("sparse")).unwrap();
    for (at, length) in [(0, 5000), (20_480, 8192), (40_000, 100), (65_536, 8193)] {
        std::os::unix::fs::FileExt::write_all_at(&file, &noise(20, length), at).unwrap();
    }
    file.set_len(100_001).unwrap();
    let mut gnu_tar = support::command("tar");
    gnu_tar.args([
        "--create",
        "--sparse",
        "--format=posix",
        "--file=-",
        "--directory",
    ]);
    let sparse = support::run(gnu_tar.arg(holes.path()).arg("sparse")).stdout;
    // GNU tar's parts begin with a block of the file. These do not, so that what is mapped of
    // one begins behind its front.
    let parts = Tar::new()
        .entry(
            Entry::new(tar::FILE, "parts")
                .data(&noise(21, 20_480 + 8192 + 100))
                .pax("GNU.sparse.size", "100001")
                .pax("GNU.sparse.numblocks", "3")
                .pax("GNU.sparse.map", "512,20480,40448,8192,70000,100"),
        )
        .finish();
    let layers = [layers(), vec![sparse, parts]].concat();
    registry.push("demo", "1", &Image::gzip(&layers).seal());
    for inline in ["0", "4KiB", "1MiB"] {
        let scratch = tempfile::tempdir().unwrap();
        let options = ["--vsize", "1", "--turbo-inline", inline];
        let proxy = Proxy::start(&registry.url(), &data_dir(&scratch), &options);
        let raw = scratch.path().join("turbo.raw");
        let origin = |digest: &str| registry.blob_path(digest);
        Turbo::pull(&proxy, "demo", "1_turbo", origin).disk(&raw);
        let native = proxy.converted("demo", "1");
        let native: Vec<PathBuf> = image::layer_digests(&native)
            .iter()
            .map(|digest| {
                let path = scratch.path().join(&digest["sha256:".len()..]);
                let blob = proxy.get(&format!("demo/blobs/{digest}"));
                std::fs::write(&path, &blob.body).unwrap();
                path
            })
            .collect();
        let expected = scratch.path().join("native.raw");
        verifier::disk(&native, &expected);
        assert!(is_equal(&raw, &expected), "--turbo-inline {inline}");
    }
}

/// Whether two files have the same bytes.
fn is_equal(one: &Path, other: &Path) -> bool {
    support::command("cmp")
        .arg("--silent")
        .args([one, other])
        .status()
        .unwrap()
        .success()
}

#[test]
fn containerd_unpacks_a_turbo_image_from_a_mirror_without_the_source_layers() {
    if !support::have(&["containerd", "ctr"]) || !support::is_root("containerd") {
        return;
    }
    let Some(registry) = Registry::start() else {
        return;
    };
    let source = Image::gzip(&layers()).seal();
    registry.push("demo", "1", &source);
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let proxy = Proxy::start(&registry.url(), &data_dir(&scratch), &[]);
    let manifest = json(&proxy, "demo/manifests/1_turbo");
    let hosts = at("hosts").join(registry.address());
    std::fs::create_dir_all(&hosts).unwrap();
    let mirror = format!(
        "server = \"{}\"\n[host.\"{}\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
        registry.url(),
        proxy.url()
    );
    std::fs::write(hosts.join("hosts.toml"), mirror).unwrap();
    let config = format!(
        "version = 2\nroot = {:?}\nstate = {:?}\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
         [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
        at("root"),
        at("state"),
        at("grpc.sock"),
        at("ttrpc.sock")
    );
    std::fs::write(at("config.toml"), config).unwrap();
    let mut daemon = support::command("containerd");
    daemon.arg("--config").arg(at("config.toml"));
    let mut daemon = Process::start(daemon, &at("log"));
    daemon.wait_for("containerd successfully booted in ");
    let before = registry.requests().len();
    support::run(
        support::command("ctr")
            .arg("--address")
            .arg(at("grpc.sock"))
            .args(["images", "pull", "--snapshotter", "native", "--hosts-dir"])
            .arg(at("hosts"))
            .arg(format!("{}/demo:1_turbo", registry.address())),
    );
    // It has compared digests and diff ids, and unpacked the layers one upon the other.
    let snapshots = at("root").join("io.containerd.snapshotter.v1.native/snapshots");
    let unpacked: Vec<PathBuf> = std::fs::read_dir(snapshots)
        .unwrap()
        .map(|snapshot| snapshot.unwrap().path())
        .collect();
    assert_eq!(unpacked.len(), manifest["layers"].as_array().unwrap().len());
    for snapshot in unpacked {
        for file in ["ext4.fs.meta", ".turbo.ociv1", "gzip.meta"] {
            assert!(snapshot.join(file).is_file(), "{file}");
        }
    }
    // Neither containerd nor the proxy asked the origin for a layer.
    for request in registry.requests().iter().skip(before) {
        for layer in image::layer_digests(&serde_json::from_slice(&source.manifest).unwrap()) {
            assert!(!request.contains(&layer), "{request}");
        }
    }
}

#[test]
fn convert_puts_a_turbo_image_beside_its_source_for_export_and_check() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    layout.add("1", &Image::gzip(&layers()).seal());
    let at = |tag: &str| format!("oci:{}:{tag}", layout.path().display());
    let run = |arguments: &[&str]| support::run(support::proxy::program().args(arguments));
    run(&["convert", "--vsize", "1", "--turbo", &at("1"), &at("turbo")]);
    run(&["convert", "--vsize", "1", &at("1"), &at("obd")]);
    let raw = |tag: &str| scratch.path().join(tag).display().to_string();
    for tag in ["turbo", "obd"] {
        run(&["export", &at(tag), "--output", &raw(tag)]);
    }
    assert!(is_equal(raw("turbo").as_ref(), raw("obd").as_ref()));
    let shown = run(&["inspect", &at("turbo")]).stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("made on top of the layer below"), "{shown}");

    // Elsewhere its data is found only if its source is there too.
    let elsewhere = format!("oci:{}:turbo", raw("elsewhere"));
    run(&["convert", "--vsize", "1", "--turbo", &at("1"), &elsewhere]);
    run(&["export", &elsewhere, "--output", &raw("copy")]);
    assert!(is_equal(raw("copy").as_ref(), raw("obd").as_ref()));
    let checked = run(&["check", "--source", &at("1"), &at("turbo")]);
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(said.contains("the same: "), "{said}");
}
