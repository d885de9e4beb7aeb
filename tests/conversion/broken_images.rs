//! Broken images: each is a clear error for whoever pulls it, and leaves nothing behind.

use crate::support;
use std::fs;
use std::path::PathBuf;

use serde_json::json;
use support::bench::Bench;
use support::http::Answer;
use support::image::{Flavour, Image, Packing, Sealed, gzip};
use support::proxy::{self, Proxy};
use support::registry::Registry;
use support::tar::{self, Entry, Tar};
use support::{noise, sha256, skopeo};

impl Bench {
    /// Pulls the image as `tag`, which must be refused with this status and code and a text
    /// that has all of `parts`; then nothing may be stored.
    #[track_caller]
    fn refuses(&self, tag: &str, image: &Sealed, status: u16, code: &str, parts: &[&str]) {
        self.layout.add(tag, image);
        self.refuses_tag(tag, status, code, parts);
    }

    #[track_caller]
    fn refuses_tag(&self, tag: &str, status: u16, code: &str, parts: &[&str]) {
        let answer = self.proxy.get(&format!("demo/manifests/{tag}_obd"));
        assert_error(tag, &answer, status, code, parts);
        self.assert_nothing_stored(tag);
        // Asked again, it is no better and no worse.
        let again = self.proxy.get(&format!("demo/manifests/{tag}_obd"));
        assert_eq!(again.status, answer.status, "{tag}: {again:?}");
        self.assert_nothing_stored(tag);
    }

    #[track_caller]
    fn assert_nothing_stored(&self, tag: &str) {
        assert_eq!(proxy::blobs(&self.data), Vec::<PathBuf>::new(), "{tag}");
        assert_eq!(proxy::all_rows(&self.data), 0, "{tag}");
    }

    /// A sound image is converted by the same proxy, and its blobs and rows are seen.
    #[track_caller]
    fn still_converts(&self) {
        let sound = Image::gzip(&[Tar::new().file("sound", "sound").finish()]);
        self.layout.add("sound", &sound.seal());
        let answer = self.proxy.get("demo/manifests/sound_obd");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(proxy::blobs(&self.data).len() >= 2);
        assert!(proxy::all_rows(&self.data) >= 2);
        assert_eq!(
            proxy::rows(&self.data, "overlaybd_proxy_chains"),
            1,
            "the looks at the tables were looks at nothing"
        );
    }
}

#[track_caller]
fn assert_error(tag: &str, answer: &Answer, status: u16, code: &str, parts: &[&str]) {
    assert_eq!(answer.status, status, "{tag}: {answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let errors = answer.json()["errors"].clone();
    assert_eq!(errors[0]["code"], code, "{tag}: {errors}");
    let message = errors[0]["message"].as_str().unwrap();
    for part in parts {
        assert!(message.contains(part), "{tag}: no {part:?} in: {message}");
    }
    assert!(!message.contains("/tmp/"), "{tag}: {message}");
}

fn one_layer(tar: Vec<u8>) -> Sealed {
    Image::gzip(&[tar]).seal()
}

/// An image whose only layer is these bytes, said to be gzip of `tar`.
fn of_bytes(bytes: Vec<u8>, tar: &[u8]) -> Sealed {
    let mut image = Image::gzip(&[tar.to_vec()]);
    image.layers[0].bytes = bytes;
    image.manifest["layers"][0] = image.layers[0].descriptor();
    image.seal()
}

fn plain_tar() -> Vec<u8> {
    Tar::new().file("file", noise(7, 200_000)).finish()
}

#[test]
fn a_layer_that_does_not_inflate_is_refused() {
    let bench = Bench::new(&[]);
    let tar = plain_tar();
    let packed = gzip(&tar);

    let truncated = of_bytes(packed[..packed.len() / 2].to_vec(), &tar);
    let digest = truncated.blobs[1].digest();
    let parts = [digest.as_str(), "inflate"];
    bench.refuses(
        "truncated-gzip",
        &truncated,
        400,
        "MANIFEST_INVALID",
        &parts,
    );

    let mut damaged = packed.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xFF;
    let damaged = of_bytes(damaged, &tar);
    let digest = damaged.blobs[1].digest();
    bench.refuses(
        "damaged-gzip",
        &damaged,
        400,
        "MANIFEST_INVALID",
        &[&digest],
    );

    let mut short_trailer = packed.clone();
    short_trailer.truncate(packed.len() - 4);
    let image = of_bytes(short_trailer, &tar);
    bench.refuses("no-trailer", &image, 400, "MANIFEST_INVALID", &["inflate"]);

    let zstd = zstd::encode_all(&tar[..], 1).unwrap();
    let image = of_bytes(zstd[..zstd.len() - 100].to_vec(), &tar);
    bench.refuses(
        "truncated-zstd",
        &image,
        400,
        "MANIFEST_INVALID",
        &["inflate"],
    );

    let image = of_bytes(noise(9, 10_000), &noise(9, 10_000));
    let digest = image.blobs[1].digest();
    bench.refuses("garbage", &image, 400, "MANIFEST_INVALID", &[&digest]);

    let image = of_bytes(Vec::new(), &tar);
    bench.refuses("empty-blob", &image, 400, "MANIFEST_INVALID", &["layer"]);
    bench.still_converts();
}

#[test]
fn a_layer_with_another_digest_is_refused() {
    type Damage = (&'static str, fn(&mut Vec<u8>));
    let Some(registry) = Registry::start() else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let proxy = Proxy::start(&registry.url(), &data, &["--attempts", "2"]);
    let damage: [Damage; 3] = [
        ("other", |bytes| {
            // Well formed, and another.
            *bytes = gzip(&Tar::new().file("file", noise(8, 200_000)).finish());
        }),
        ("longer", |bytes| bytes.extend(b"more")),
        ("shorter", |bytes| bytes.truncate(bytes.len() - 1000)),
    ];
    for (tag, change) in damage {
        let tar = Tar::new()
            .file(tag, tag)
            .file("file", noise(7, 200_000))
            .finish();
        let image = one_layer(tar);
        registry.push("demo", tag, &image);
        let layer = image.blobs[1].digest();
        let mut bytes = image.blobs[1].bytes.clone();
        change(&mut bytes);
        fs::write(registry.blob_path(&layer), bytes).unwrap();
        let answer = proxy.get(&format!("demo/manifests/{tag}_obd"));
        assert!(matches!(answer.status, 400 | 502), "{tag}: {answer:?}");
        let code = answer.json()["errors"][0]["code"].clone();
        assert!(
            code == "MANIFEST_INVALID" || code == "UNAVAILABLE",
            "{answer:?}"
        );
        assert!(answer.text().contains(&layer), "{tag}: {answer:?}");
        assert_eq!(proxy::blobs(&data), Vec::<PathBuf>::new(), "{tag}");
        assert_eq!(proxy::all_rows(&data), 0, "{tag}");
    }

    // The config is verified likewise: it decides the chain.
    let image = one_layer(plain_tar());
    registry.push("demo", "config", &image);
    let config = image.blobs[0].digest();
    let mut bytes = image.blobs[0].bytes.clone();
    let at = bytes.len() - 2;
    bytes[at] = b' ';
    fs::write(registry.blob_path(&config), bytes).unwrap();
    let answer = proxy.get("demo/manifests/config_obd");
    assert!(matches!(answer.status, 400 | 502), "{answer:?}");
    assert!(answer.text().contains(&config), "{answer:?}");
    assert_eq!(proxy::all_rows(&data), 0);

    // Repaired, the same image is pulled by the same proxy.
    fs::write(registry.blob_path(&config), &image.blobs[0].bytes).unwrap();
    let answer = proxy.get("demo/manifests/config_obd");
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn a_config_with_false_diff_ids_is_refused_and_affects_no_other_image() {
    let bench = Bench::new(&[]);
    let tar = plain_tar();
    let other = Tar::new().file("other", "other").finish();

    // Claims the diff id of another image's layer.
    let mut image = Image::gzip(std::slice::from_ref(&tar));
    image.config["rootfs"]["diff_ids"][0] = json!(sha256(&other));
    let (claimed, actual) = (sha256(&other), sha256(&tar));
    let parts = ["diff id", claimed.as_str(), actual.as_str()];
    bench.refuses("diff-id", &image.seal(), 400, "MANIFEST_INVALID", &parts);

    let mut image = Image::gzip(&[tar.clone(), other.clone()]);
    image.config["rootfs"]["diff_ids"] = json!([sha256(&tar)]);
    let parts = ["2 layers", "1 diff_ids"];
    bench.refuses("fewer", &image.seal(), 400, "MANIFEST_INVALID", &parts);

    let mut image = Image::gzip(std::slice::from_ref(&tar));
    image.config["rootfs"]["diff_ids"] = json!([sha256(&tar), sha256(&other)]);
    let parts = ["1 layers", "2 diff_ids"];
    bench.refuses("more", &image.seal(), 400, "MANIFEST_INVALID", &parts);

    let mut image = Image::gzip(std::slice::from_ref(&tar));
    image.config["rootfs"]["diff_ids"] = json!(["sha256:short"]);
    bench.refuses(
        "no-digest",
        &image.seal(),
        400,
        "MANIFEST_INVALID",
        &["sha256:short"],
    );

    let mut image = Image::gzip(std::slice::from_ref(&tar));
    image.config = json!("a text");
    let sealed = image.seal();
    let config = sealed.blobs[0].digest();
    bench.refuses("no-config", &sealed, 400, "MANIFEST_INVALID", &[&config]);

    let mut image = Image::gzip(std::slice::from_ref(&tar));
    image.manifest["layers"][0]["mediaType"] = json!("application/vnd.cncf.helm.chart.v1");
    bench.refuses(
        "no-layer",
        &image.seal(),
        400,
        "MANIFEST_INVALID",
        &["helm"],
    );

    // The image whose layer was claimed comes out right.
    bench.layout.add("other", &one_layer(other));
    let answer = bench.proxy.get("demo/manifests/other_obd");
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn a_tar_that_leads_out_of_the_image_or_nowhere_is_refused() {
    let bench = Bench::new(&[]);
    let cases = [
        (
            "leads-out",
            Tar::new().file("a/../../etc/passwd", "x"),
            "leads out",
        ),
        ("leads-out-dir", Tar::new().dir("../outside/"), "leads out"),
        (
            "leads-out-link",
            Tar::new().hard("link", "../../etc/shadow"),
            "leads out",
        ),
        (
            "leads-out-whiteout",
            Tar::new().file("../.wh.etc", ""),
            "leads out",
        ),
        (
            "loop",
            Tar::new().soft("a", "b").soft("b", "a").file("a/file", "x"),
            "loop",
        ),
        ("self-loop", Tar::new().soft("a", "a").dir("a/b/"), "loop"),
        (
            "no-target",
            Tar::new().hard("link", "nothing/here"),
            "does not exist",
        ),
        (
            "to-directory",
            Tar::new().dir("dir/").hard("link", "dir"),
            "directory",
        ),
        (
            "through-file",
            Tar::new().file("file", "x").file("file/below", "y"),
            "not a directory",
        ),
    ];
    for (tag, tar, part) in cases {
        let image = one_layer(tar.finish());
        let layer = image.blobs[1].digest();
        let parts = [layer.as_str(), part, "entry"];
        bench.refuses(tag, &image, 400, "MANIFEST_INVALID", &parts);
    }
    bench.still_converts();
}

#[test]
fn a_tar_with_wrong_numbers_is_refused() {
    let bench = Bench::new(&[]);
    let pax = |name: &'static str, value: &'static str| {
        Tar::new().entry(Entry::new(tar::FILE, "liar").data(b"data").pax(name, value))
    };
    // A header with a block of PAX records as they are.
    let records = |bytes: &[u8]| {
        let mut tar = Tar::new();
        tar.raw(&Entry::new(b'x', "PaxHeaders.0/x").data(bytes));
        tar.file("liar", "data")
    };
    let mut huge = Entry::new(tar::FILE, "huge").data(b"data");
    huge.size = Some(0);
    let mut header = tar::header(&huge);
    tar::base256(&mut header[124..136], i64::MAX);
    tar::checksum(&mut header);
    let mut negative = tar::header(&huge);
    tar::base256(&mut negative[124..136], -1);
    tar::checksum(&mut negative);
    let mut checksum = tar::header(&huge);
    checksum[0] ^= 1;

    let cases: [(&str, Vec<u8>, &str); 15] = [
        (
            "size-2-64",
            pax("size", "18446744073709551616").finish(),
            "size",
        ),
        ("size-negative", pax("size", "-1").finish(), "size"),
        ("size-text", pax("size", "many").finish(), "size"),
        ("size-more", pax("size", "1000000").finish(), "liar"),
        ("mtime-text", pax("mtime", "yesterday").finish(), "mtime"),
        (
            "uid-2-63",
            pax("uid", "9223372036854775808").finish(),
            "uid",
        ),
        ("record-long", records(b"99 path=x\n").finish(), "PAX"),
        ("record-short", records(b"3 path=x\n").finish(), "PAX"),
        ("record-zero", records(b"0 path=x\n").finish(), "PAX"),
        (
            "record-2-64",
            records(b"18446744073709551617 path=x\n").finish(),
            "PAX",
        ),
        ("record-name", records(b"9 nothing\n").finish(), "PAX"),
        ("base256-huge", Tar::new().bytes(&header).finish(), "huge"),
        (
            "base256-negative",
            Tar::new().bytes(&negative).finish(),
            "huge",
        ),
        ("checksum", Tar::new().bytes(&checksum).finish(), "checksum"),
        (
            "cut",
            Tar::new()
                .entry(Entry::new(tar::FILE, "cut").data(b"data").size(100_000))
                .unfinished(),
            "truncated",
        ),
    ];
    for (tag, tar, part) in cases {
        let image = one_layer(tar);
        let layer = image.blobs[1].digest();
        let parts = [layer.as_str(), part, "layer tar, byte"];
        bench.refuses(tag, &image, 400, "MANIFEST_INVALID", &parts);
    }
    bench.still_converts();
}

#[test]
fn a_manifest_whose_sizes_overflow_is_refused() {
    let bench = Bench::new(&[]);
    let tar = plain_tar();
    for (tag, size) in [
        ("2-63", json!(9_223_372_036_854_775_807_u64)),
        ("2-64", json!(18_446_744_073_709_551_615_u64)),
        ("negative", json!(-1)),
        ("float", json!(1e30)),
        ("text", json!("12")),
    ] {
        let mut image = Image::gzip(std::slice::from_ref(&tar));
        image.manifest["layers"][0]["size"] = size;
        bench.layout.add(tag, &image.seal());
        let answer = bench.proxy.get(&format!("demo/manifests/{tag}_obd"));
        // The first two are sizes; nobody has the room for them.
        let expected = if tag.starts_with("2-") { 507 } else { 400 };
        assert_eq!(answer.status, expected, "{tag}: {answer:?}");
        assert!(answer.json()["errors"][0]["message"].is_string());
        bench.assert_nothing_stored(tag);
    }
    let layers: Vec<_> = (0..3).map(|_| tar.clone()).collect();
    let mut image = Image::gzip(&layers);
    for layer in 0..3 {
        image.manifest["layers"][layer]["size"] = json!(i64::MAX);
    }
    bench.layout.add("sum", &image.seal());
    let answer = bench.proxy.get("demo/manifests/sum_obd");
    assert_eq!(answer.status, 507, "{answer:?}");
    bench.assert_nothing_stored("sum");
    bench.still_converts();
}

#[test]
fn a_huge_declared_size_evicts_no_blob() {
    let bench = Bench::new(&["--keep", "0"]);
    bench.still_converts();
    let before = proxy::blobs(&bench.data);
    let mut image = Image::gzip(&[plain_tar()]);
    image.manifest["layers"][0]["size"] = json!(i64::MAX);
    bench.layout.add("liar", &image.seal());
    let answer = bench.proxy.get("demo/manifests/liar_obd");
    assert_eq!(answer.status, 507, "{answer:?}");
    assert_eq!(proxy::blobs(&bench.data), before);
}

#[test]
fn more_layers_than_readers_stack_are_refused_before_any_work() {
    let bench = Bench::new(&[]);
    let tar = Tar::new().finish();
    let layers: Vec<_> = (0..256).map(|_| (&tar[..], Packing::Gzip)).collect();
    let image = Image::new(Flavour::Oci, &layers).seal();
    let parts = ["256", "255"];
    bench.refuses("256", &image, 400, "MANIFEST_INVALID", &parts);
    assert_eq!(
        bench
            .proxy
            .metric("overlaybd_proxy_source_read_bytes_total")
            .unwrap_or(0),
        0
    );
    bench.still_converts();
}

#[test]
fn a_layer_larger_than_allowed_is_refused_without_inflating_it_all() {
    let bench = Bench::new(&["--max-layer-size", "1MiB"]);
    let bomb = Tar::new().file("bomb", vec![0; 64 << 20]).finish();
    let image = one_layer(bomb);
    let layer = image.blobs[1].digest();
    assert!(image.blobs[1].bytes.len() < 1 << 20);
    let parts = [layer.as_str(), "1.00 MiB"];
    bench.refuses("bomb", &image, 400, "MANIFEST_INVALID", &parts);
    bench.still_converts();
}

#[test]
fn an_image_larger_than_its_disk_is_refused() {
    let bench = Bench::new(&["--vsize", "32MiB"]);
    let image = one_layer(Tar::new().file("big", noise(3, 40 << 20)).finish());
    let layer = image.blobs[1].digest();
    let parts = [layer.as_str(), "vsize"];
    bench.refuses("big", &image, 400, "MANIFEST_INVALID", &parts);

    // The same in many small files, which run out of inodes first.
    let mut tar = Tar::new();
    for number in 0..20_000 {
        tar = tar.file(&format!("{number}"), "");
    }
    let image = one_layer(tar.finish());
    bench.refuses("many", &image, 400, "MANIFEST_INVALID", &["vsize"]);
    bench.still_converts();
}

#[test]
fn the_layers_below_a_broken_one_are_kept() {
    let bench = Bench::new(&[]);
    let sound = Tar::new().file("sound", noise(1, 50_000)).finish();
    let broken = Tar::new().hard("link", "nothing").finish();
    bench
        .layout
        .add("both", &Image::gzip(&[sound, broken]).seal());
    let answer = bench.proxy.get("demo/manifests/both_obd");
    assert_error(
        "both",
        &answer,
        400,
        "MANIFEST_INVALID",
        &["does not exist"],
    );
    assert_eq!(proxy::blobs(&bench.data).len(), 1);
    assert_eq!(proxy::rows(&bench.data, "overlaybd_proxy_chains"), 1);
    assert_eq!(proxy::rows(&bench.data, "overlaybd_proxy_manifests"), 0);
}

#[test]
fn a_stock_client_prints_the_error() {
    if !support::have(&["skopeo"]) {
        return;
    }
    let bench = Bench::new(&[]);
    let image = one_layer(Tar::new().hard("link", "nothing").finish());
    bench.layout.add("broken", &image);
    let to = format!("dir:{}", bench.data.join("../out").display());
    let output = skopeo::try_copy(&bench.proxy.image("demo", "broken_obd"), &to);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("does not exist"), "{said}");
}
