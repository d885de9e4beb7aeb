//! A part of an image that the upstream does not have is not taken for a missing image.

use serde_json::json;

use crate::outside::{PLATFORM, image, refused};
use crate::support::image::{Flavour, index};
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;

#[test]
fn a_blob_missing_upstream_is_not_reported_as_a_missing_image() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&registry.url(), data.path(), &PLATFORM);
    // The config, and the layer.
    for (number, part) in [(1, 0), (2, 1)] {
        let image = image(number);
        let repo = format!("app{number}");
        let source = registry.push(&repo, "1", &image);
        let lost = image.blobs[part].digest();
        std::fs::remove_file(registry.blob_path(&lost)).unwrap();
        let answer = proxy.get(&format!("{repo}/manifests/1_obd"));
        refused(&answer, 502);
        let error = &answer.json()["errors"][0];
        assert_eq!(error["code"], "MANIFEST_BLOB_UNKNOWN", "{answer:?}");
        assert!(answer.text().contains(&lost), "{answer:?}");
        // Also where nobody waits for it.
        let log = proxy.log();
        let line = log.lines().find(|line| line.contains("was not converted"));
        let line = line.unwrap_or_else(|| panic!("{log}"));
        assert!(line.contains("app1") || line.contains(&repo), "{line}");
        assert!(log.contains(&source) && log.contains(&lost), "{log}");
    }
    // What is not there at all is not there.
    assert_eq!(proxy.get("none/manifests/1_obd").status, 404);
}

#[test]
fn an_index_entry_missing_upstream_is_not_reported_as_a_missing_image() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&registry.url(), data.path(), &PLATFORM);
    let image = image(1);
    let entry = image.entry("linux", "amd64");
    registry.push("app", "one", &image);
    let list = index(Flavour::Oci, &[entry]);
    assert!(json!(list.media_type).is_string());
    registry.push_manifest("app", "1", &list.media_type, &list.bytes);
    std::fs::remove_file(registry.blob_path(&image.digest())).unwrap();
    let answer = proxy.get("app/manifests/1_obd");
    assert_ne!(answer.status, 404, "{answer:?}");
}
