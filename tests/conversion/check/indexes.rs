//! Indexes of indexes, what an index leaves out, and images without layers.

use serde_json::{Value, json};

use super::command::{INDEX, Layout, check, convert, differences, problems, program};
use super::layers::layer;
use super::trees::text;

#[test]
fn an_index_of_indexes_is_checked_image_by_image() {
    let place = tempfile::tempdir().unwrap();
    let layout = Layout::new(&place.path().join("both"));
    let image = |architecture: &str, spec: &str| {
        let mut image = layout.image(architecture, &[&layer(spec)]);
        image["platform"] = json!({"os": "linux", "architecture": architecture});
        image
    };
    let index = |entries: &[Value]| {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        layout.put(INDEX, index.to_string().as_bytes())
    };
    let (amd64, arm64) = (image("amd64", "file a -> x"), image("arm64", "file b -> y"));
    // Its entry says what the image does not.
    let mut inner = index(&[layout.image("s390x", &[&layer("file c -> z")])]);
    inner["platform"] = json!({"os": "linux", "architecture": "s390x"});
    layout.name("1", index(&[index(&[amd64, index(&[arm64])]), inner]));
    convert(&layout.at("1"), &layout.at("1_obd"), &["--platform", "all"]);
    let (report, code) = check(&[&layout.at("1_obd")]);
    assert_eq!(code, 0, "{report:#}");
    let platforms: Vec<&Value> = report["images"].as_array().unwrap().iter().collect();
    let platforms: Vec<&str> = platforms
        .iter()
        .map(|image| image["platform"].as_str().unwrap())
        .collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64", "linux/s390x"]);
    // One of them alone, held against all.
    let digest = report["images"][1]["converted"].as_str().unwrap();
    let one = format!("oci:{}@{digest}", place.path().join("both").display());
    let (report, code) = check(&[&one, "--source", &layout.at("1")]);
    assert_eq!(
        (report["images"][0]["platform"].as_str(), code),
        (Some("linux/arm64"), 0)
    );
    // Another disk is found, however deep it lies.
    let other = index(&[index(&[
        image("amd64", "file a -> x"),
        index(&[image("arm64", "file b -> changed")]),
    ])]);
    layout.name("2", other);
    let (report, code) = check(&[&layout.at("1_obd"), "--source", &layout.at("2")]);
    assert_eq!(
        (differences(&report), code),
        (vec!["/b: size".to_owned()], 7)
    );
    assert!(problems(&report).contains("nothing like"), "{report:#}");
}

#[test]
fn an_endless_index_is_an_error() {
    let place = tempfile::tempdir().unwrap();
    let layout = Layout::new(&place.path().join("layout"));
    let mut entry = layout.image("amd64", &[&layer("file a")]);
    for _ in 0..9 {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
        entry = layout.put(INDEX, index.to_string().as_bytes());
    }
    layout.name("deep", entry);
    let (report, code) = check(&[&layout.at("deep"), "--source", &layout.at("deep")]);
    assert_eq!(code, 7);
    assert!(
        problems(&report).contains("than are looked at"),
        "{report:#}"
    );
}

#[test]
fn images_left_out_of_a_converted_index_are_listed_without_an_error() {
    let place = tempfile::tempdir().unwrap();
    let source = Layout::new(&place.path().join("source"));
    let images: Vec<Value> = ["amd64", "s390x"]
        .iter()
        .map(|architecture| {
            let mut image = source.image(architecture, &[&layer("file a")]);
            image["platform"] = json!({"os": "linux", "architecture": architecture});
            image
        })
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": images});
    source.name("1", source.put(INDEX, index.to_string().as_bytes()));
    let target = Layout::at_path(&place.path().join("target"));
    convert(
        &source.at("1"),
        &target.at("1"),
        &["--platform", "linux/amd64"],
    );
    let arguments = [&target.at("1"), "--source", &source.at("1")];
    let (report, code) = check(&arguments);
    assert_eq!(
        (&report["left_out"], code),
        (&json!([images[1]["digest"]]), 0),
        "{report:#}"
    );
    // Asked for, it is reported as missing.
    let (report, code) = check(&[&arguments[..], &["--platform", "linux/s390x"]].concat());
    assert_eq!(code, 7);
    assert!(problems(&report).contains("is missing"), "{report:#}");
}

#[test]
fn an_image_without_layers_is_an_empty_root() {
    let place = tempfile::tempdir().unwrap();
    let source = Layout::new(&place.path().join("source"));
    source.name("empty", source.image("amd64", &[]));
    source.name("full", source.image("amd64", &[&layer("file a")]));
    let target = Layout::at_path(&place.path().join("target"));
    let output = program(&["convert", "-q", &source.at("empty"), &target.at("empty")]);
    assert!(output.status.success());
    let checked = |source: &str| check(&[&target.at("empty"), "--source", source]);
    let (report, code) = checked(&source.at("empty"));
    assert_eq!((report["images"][0]["names"].as_u64(), code), (Some(0), 0));
    let (report, code) = checked(&source.at("full"));
    assert_eq!(
        (differences(&report), code),
        (vec!["/a: missing".to_owned()], 7)
    );

    let raw = place.path().join("disk.raw");
    let output = program(&["export", &target.at("empty"), "-o", text(&raw)]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("has no layers"), "{said}");
    assert!(!raw.exists());
}
