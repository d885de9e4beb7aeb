//! `inspect`, on blobs that the reference's tools wrote and on images of our own.

use std::path::Path;

use serde_json::Value;

use super::support::image::Image;
use super::support::layout::Layout;
use super::support::overlaybd::build;
use super::support::proxy::Proxy;
use super::support::tar::Tar;
use super::{Demo, bad, finish, golden, good, program, repository};

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&good(arguments)).unwrap()
}

#[test]
fn a_reference_blob_s_headers_are_shown() {
    for (set, algorithm, block) in [
        ("lz4-4", "lz4", 4096),
        ("lz4-64", "lz4", 65_536),
        ("zstd-16", "zstd", 16_384),
    ] {
        let blobs = golden(set);
        let blob = json(&["inspect", "--json", &blobs[1]]);
        assert_eq!(blob["kind"], "blob");
        assert_eq!(blob["zfile"]["algorithm"], algorithm);
        assert_eq!(blob["zfile"]["block_size"], block);
        assert_eq!(blob["zfile"]["verify"], true);
        assert_eq!(blob["lsmt"]["virtual_size"], 1 << 30);
        assert_eq!(blob["made_by"], Value::Null);
        assert!(blob.get("list").is_none());
        let below = json(&["inspect", "--json", &blobs[0]]);
        assert_eq!(blob["lsmt"]["parent_uuid"], below["lsmt"]["uuid"]);
        let size = std::fs::metadata(&blobs[1]).unwrap().len();
        assert_eq!(blob["size"], size);
    }
}

#[test]
fn mappings_are_listed_where_they_are_asked_for() {
    let blob = &golden("lz4-4")[0];
    let listed = json(&["inspect", "--json", "--mappings", blob]);
    let list = listed["list"].as_array().unwrap();
    assert_eq!(listed["mappings"], list.len());
    let sectors: u64 = list.iter().map(|m| m["length"].as_u64().unwrap()).sum();
    let mapped = listed["data_bytes"].as_u64().unwrap() + listed["zeroed_bytes"].as_u64().unwrap();
    assert_eq!(sectors * 512, mapped);
    let text = good(&["inspect", "--mappings", blob]);
    let first = &list[0];
    let line = format!(
        "    {} +{} at {}",
        first["offset"], first["length"], first["moffset"]
    );
    assert!(text.contains(&line), "{line} in {text}");
}

/// A layer of our own that hides data of the one below with zeros.
fn layer_with_zeros(scratch: &Path) -> Vec<u8> {
    let source = Layout::create(&scratch.join("source"));
    let tars = [
        Tar::new().file("x", super::support::noise(5, 100_000)),
        Tar::new().file("x", vec![0; 100_000]),
    ];
    source.add("1", &Image::gzip(&tars.map(Tar::finish)).seal());
    let out = Layout::open(&scratch.join("out"));
    let at = |layout: &Layout| format!("oci:{}:1", layout.path().display());
    good(&["convert", "-q", &at(&source), &at(&out)]);
    out.blob(out.manifest("1")["layers"][1]["digest"].as_str().unwrap())
}

#[test]
fn a_layer_that_overlaybd_refuses_is_shown_with_the_reason() {
    let scratch = tempfile::tempdir().unwrap();
    let blob = layer_with_zeros(scratch.path());
    let path = scratch.path().join("layer.obd");
    let name = path.display().to_string();
    let inspect = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let report = json(&["inspect", "--json", "--mappings", &name]);
        let list = report["list"].as_array().unwrap().clone();
        let zeros = list.into_iter().find(|it| it["zeroed"] == true).unwrap();
        let text = good(&["inspect", "--mappings", &name]);
        (report["refused_by_overlaybd"].clone(), zeros, text)
    };
    let line = |zeros: &Value, rest: &str| {
        let (offset, length) = (&zeros["offset"], &zeros["length"]);
        format!("    {offset} +{length} zeros at {rest}\n")
    };

    let (refused, zeros, text) = inspect(&blob);
    assert_eq!(refused, serde_json::json!([]));
    assert_eq!((&zeros["moffset"], &zeros["tag"]), (&8.into(), &0.into()));
    assert!(text.contains(&line(&zeros, "8")), "{text}");
    assert!(!text.contains("REFUSED"), "{text}");

    let (refused, zeros, text) = inspect(&build::version_1(&blob));
    assert_eq!(zeros["moffset"], 0);
    let reason = refused[0].as_str().unwrap();
    let mapping = line(&zeros, "0");
    assert!(reason.contains(mapping.trim()), "{reason}");
    assert!(
        reason.contains("must point at a sector from 8 to "),
        "{reason}"
    );
    assert!(text.contains(&mapping), "{text}");
    assert!(
        text.contains(&format!("REFUSED      by overlaybd: {reason}\n")),
        "{text}"
    );

    let (_, zeros, text) = inspect(&build::changed(&blob, |lsmt| {
        let first = build::zeroed(lsmt)[0];
        lsmt[first + 15] = 3;
    }));
    assert_eq!(zeros["tag"], 3);
    assert!(text.contains(&line(&zeros, "8 tag 3")), "{text}");
}

#[test]
fn a_file_that_is_no_blob_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blob");
    let whole = std::fs::read(&golden("lz4-4")[0]).unwrap();
    let name = path.display().to_string();
    for (bytes, what) in [
        (Vec::new(), "empty"),
        (b"hello".to_vec(), "text"),
        (whole[..whole.len() / 2].to_vec(), "half a blob"),
        (vec![0; 1 << 20], "zeros"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = bad(3, &["inspect", &name]);
        assert!(error.contains(&name), "{what}: {error}");
    }
    let error = bad(2, &["inspect", "/nowhere/blob.obd"]);
    assert!(error.contains("there is no such file"), "{error}");
}

#[test]
fn an_image_is_shown_the_same_from_a_layout_an_archive_and_a_registry() {
    let demo = Demo::new(&["1"]);
    let (layout, archive) = (
        format!("oci:{}:1_obd", demo.path("out")),
        format!("oci-archive:{}:1_obd", demo.path("out.tar")),
    );
    good(&["convert", "-q", &demo.source("1"), &layout]);
    good(&["convert", "-q", &demo.source("1"), &archive]);
    let proxy = Proxy::start(
        &format!("oci:{}", demo.path("source")),
        &demo.directory.path().join("data"),
        &[],
    );
    let remote = format!("{}/layout:1_obd", proxy.host());
    let mut shown: Vec<Value> = [&layout, &archive, &remote]
        .iter()
        .map(|image| json(&["inspect", "--json", image]))
        .collect();
    for report in &mut shown {
        report["image"] = Value::Null;
        let layers = report["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 2);
        assert_eq!(layers[0]["fits"], true);
        assert_eq!(layers[1]["fits"], true);
        assert_eq!(layers[1]["blob"]["made_by"]["parent"], layers[0]["digest"]);
    }
    assert_eq!(shown[0], shown[1]);
    assert_eq!(shown[0], shown[2]);
    proxy.stop();
    // Of the source there is nothing to open.
    let source = json(&["inspect", "--json", &demo.source("1")]);
    assert_eq!(source["layers"][0]["blob"], Value::Null);
    let error = bad(4, &["inspect", &demo.source("none")]);
    assert!(error.contains("none"), "{error}");
}

#[test]
fn the_platform_list_of_the_configuration_does_not_select_an_image() {
    let blob = &repository("tests/golden/lz4-4/0.obd");
    let mut command = program(&["inspect", blob]);
    command.env("OVERLAYBD_PROXY_PLATFORM", "all");
    let ran = finish(command);
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = finish(program(&["inspect", "--platform", "all", blob]));
    assert_eq!(ran.code, 2, "{ran:?}");
}
