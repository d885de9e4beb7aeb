//! Tags of the upstream's own that end in the suffix.

use serde_json::json;

use crate::outside::{PLATFORM, image};
use crate::support::http::Answer;
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
use crate::support::{http, sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

#[track_caller]
fn is_from_upstream(answer: &Answer, digest: &str) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("overlaybd-outcome"), Some("upstream"));
    assert_eq!(sha256(&answer.body), digest, "{answer:?}");
}

/// A signature, or whatever else is no image.
fn artifact(registry: &Registry, repo: &str, tag: &str) -> String {
    let blob = registry.push_blob(repo, b"{}");
    let part = json!({"mediaType": "application/vnd.example.signature", "digest": blob, "size": 2});
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/vnd.example.signature",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": blob, "size": 2},
        "layers": [part],
    });
    registry.push_manifest(repo, tag, MANIFEST, manifest.to_string().as_bytes())
}

#[test]
fn a_tag_with_the_suffix_is_the_upstreams_where_there_is_no_plain_one() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&registry.url(), data.path(), &PLATFORM);
    let own = registry.push("app", "own_obd", &image(1));
    let signature = artifact(&registry, "app", "sig_obd");
    is_from_upstream(&proxy.get("app/manifests/own_obd"), &own);
    is_from_upstream(&proxy.get("app/manifests/sig_obd"), &signature);
    let none = proxy.get("app/manifests/none_obd");
    assert_eq!(none.status, 404, "{none:?}");
    assert_eq!(none.header("overlaybd-outcome"), None);
}

#[test]
fn where_there_are_both_the_plain_tag_is_converted_unless_the_upstreams_is_preferred() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let start = |more: &[&str]| {
        let options = [&PLATFORM[..], more].concat();
        Proxy::start(&registry.url(), data.path(), &options)
    };
    registry.push("app", "1", &image(1));
    let proxy = start(&[]);
    let pushed = image(2);
    registry.push("app", "one", &pushed);
    let url = format!("{}/v2/app/manifests/1_obd", proxy.url());
    let put = http::send(
        "PUT",
        &url,
        &[("content-type", &pushed.media_type)],
        &pushed.manifest,
    );
    assert_eq!(put.status, 201, "{put:?}");
    let converted = proxy.get("app/manifests/1_obd");
    assert_eq!(converted.header("overlaybd-outcome"), Some("converted"));
    assert_ne!(sha256(&converted.body), pushed.digest());
    proxy.stop();
    let proxy = start(&["--prefer-upstream-tags"]);
    is_from_upstream(&proxy.get("app/manifests/1_obd"), &pushed.digest());
    let url = format!("{}/v2/app/manifests/1_obd", proxy.url());
    let head = http::send("HEAD", &url, &[("accept", http::ACCEPT)], b"");
    assert_eq!(head.header("overlaybd-outcome"), Some("upstream"));
    // Where there is none, the plain one is converted.
    let converted = proxy.get("app/manifests/one_obd");
    assert_eq!(converted.header("overlaybd-outcome"), Some("converted"));
}
