//! Images that `convert` makes.

use serde_json::{Value, json};

use super::support::proxy::program;
use super::support::{self, skopeo};
use super::trace::unpacked;
use super::{LIST, Workshop, assert_described, check, inspect};

const OCI: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER: &str = "application/vnd.docker.image.rootfs.diff.tar";

#[test]
fn the_layer_is_the_uppermost_and_the_image_one_that_clients_take() {
    let workshop = Workshop::new();
    let list = workshop.list("list", LIST);
    for (tag, media_type) in [("1", OCI), ("docker", DOCKER)] {
        let plain = workshop.convert(tag, "plain", &[]);
        let converted = workshop.convert(tag, "out", &["--prefetch-list", &list]);
        assert_eq!((plain.count(), converted.count()), (2, 3));
        let blob = converted.blob(2);
        assert_described(&converted.layer(2), &blob, media_type);
        let (config, layers) = (converted.config(), converted.manifest()["layers"].clone());
        let digests: Vec<&Value> = (0..3).map(|number| &layers[number]["digest"]).collect();
        assert_eq!(json!(digests), config["rootfs"]["diff_ids"]);
        // One entry for each layer, in their order; and no clock.
        let mut history = plain.config()["history"].as_array().unwrap().clone();
        history.push(json!({"created_by": "Acceleration Layer"}));
        assert_eq!(config["history"], json!(history));
        assert_eq!(config["config"], plain.config()["config"]);
        check(&converted.name, &workshop.source(tag));
        // A layout is of OCI types for skopeo.
        if media_type == OCI && support::have(&["skopeo"]) {
            let copy = workshop.path(&format!("copy-{tag}"));
            skopeo::copied(&converted.name, &format!("dir:{}", copy.display()), &[]);
        }
        let shown = inspect(&converted.name);
        assert!(shown[2]["blob"].is_null() && shown[0]["trace"].is_null());
        let ranges = shown[2]["trace"]["ranges"].as_array().unwrap();
        assert_eq!(shown[2]["trace"]["records"], ranges.len());
        assert_eq!(ranges.len(), super::trace::records(&unpacked(&blob)).len());
    }
}

#[test]
fn the_list_decides_the_layer_and_the_same_list_makes_the_same_bytes() {
    let workshop = Workshop::new();
    let data = workshop.path("data").display().to_string();
    let (one, other) = (
        workshop.list("one", LIST),
        workshop.list("other", "/bin/tool\n"),
    );
    let stored = |more: &[&str]| {
        let more = [&["--data-dir", &data], more].concat();
        workshop.convert("1", "out", &more).digest
    };
    let with = stored(&["--prefetch-list", &one]);
    let second = stored(&["--prefetch-list", &other]);
    let without = stored(&[]);
    let ordered = stored(&["--prefetch-list", &one, "--acceleration-layer=false"]);
    let mut all = vec![&with, &second, &without, &ordered];
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 4, "{all:?}");
    // With the store of all of them, and with none, on one thread.
    assert_eq!(stored(&["--prefetch-list", &one]), with);
    assert_eq!(stored(&[]), without);
    let again = workshop.convert("1", "again", &["--prefetch-list", &one, "--threads", "1"]);
    assert_eq!(again.digest, with);
    let same = workshop.list("same", &format!("\n{LIST}\n/bin/tool\n"));
    assert_eq!(stored(&["--prefetch-list", &same]), with);
}

#[test]
fn the_disk_is_that_of_the_layers_below() {
    let workshop = Workshop::new();
    let list = workshop.list("list", LIST);
    let ordered = ["--prefetch-list", &list, "--acceleration-layer=false"];
    let below = workshop.convert("1", "below", &ordered);
    let converted = workshop.convert("1", "out", &["--prefetch-list", &list]);
    let export = |image: &str, name: &str| {
        let raw = workshop.path(name);
        support::run(program().args(["export", image, "--output"]).arg(&raw));
        std::fs::read(raw).unwrap()
    };
    let disk = export(&converted.name, "disk");
    assert!(disk == export(&below.name, "below.raw"));
    // As a source, it is an image that needs no conversion.
    let out = format!("oci:{}:twice", workshop.path("twice").display());
    let mut again = program();
    again.args(["convert", "--quiet", "--prefetch-list", &list]);
    let ran = support::run(again.args([&converted.name, &out]));
    assert_eq!(
        String::from_utf8(ran.stdout).unwrap().trim(),
        converted.digest
    );
    assert!(disk == export(&out, "twice.raw"));
}

#[test]
fn a_trace_that_nodes_would_not_replay_is_found_by_check() {
    let workshop = Workshop::new();
    let list = workshop.list("list", LIST);
    let converted = workshop.convert("1", "out", &["--prefetch-list", &list]);
    let (blob, mut manifest) = (converted.blob(2), converted.manifest());
    let mut config = converted.config();
    let changed = |change: &dyn Fn(&mut [u8])| {
        let mut blob = blob.clone();
        change(&mut blob);
        blob
    };
    let size = unpacked(&blob).len();
    let far = changed(&|blob| {
        let trace = &mut blob[512..512 + size];
        trace[24 + 16 + 5] = 1;
        let checksum = super::trace::crc(&trace[24..]);
        trace[16..20].copy_from_slice(&checksum.to_le_bytes());
    });
    for (number, (blob, said)) in [
        (changed(&|blob| blob[512 + 40] ^= 1), "checksum"),
        (changed(&|blob| blob[512 + 8] ^= 1), "bytes of records"),
        (changed(&|blob| blob[0] = b'T'), "damaged"),
        (far, "record 0 reads up to byte"),
    ]
    .into_iter()
    .enumerate()
    {
        let digest = converted.layout.put(&blob);
        config["rootfs"]["diff_ids"][2] = json!(digest);
        let bytes = serde_json::to_vec(&config).unwrap();
        manifest["config"]["digest"] = json!(converted.layout.put(&bytes));
        manifest["config"]["size"] = json!(bytes.len());
        manifest["layers"][2]["digest"] = json!(digest);
        manifest["layers"][2]["annotations"]["containerd.io/snapshot/overlaybd/blob-digest"] =
            json!(digest);
        let tag = format!("bad-{number}");
        let document = support::image::Blob {
            media_type: manifest["mediaType"].as_str().unwrap().to_owned(),
            bytes: serde_json::to_vec(&manifest).unwrap(),
        };
        converted.layout.put(&document.bytes);
        converted.layout.tag(&tag, &document);
        let image = format!("oci:{}:{tag}", converted.layout.path().display());
        let source = workshop.source("1");
        let ran = program()
            .args(["check", &image, "--source", &source])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
        assert_ne!(ran.status.code(), Some(0), "{text}");
        for part in [said, "acceleration layer"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
