//! TurboOCI images in the registry that they are pushed to.

use serde_json::Value;

use super::support::http;
use super::support::image::{Blob, layer_digests};
use super::support::proxy::{self, Proxy};
use super::support::registry::Registry;
use super::support::until::until;
use super::{PUSH, image, names, pull};

/// Pulls `app:1_turbo`, and waits until the registry has it in `repo` by that tag.
#[track_caller]
fn pull_and_see_the_tag(proxy: &Proxy, registry: &Registry, repo: &str) -> String {
    let converted = pull(proxy, "app/manifests/1_turbo");
    until("the tag is pushed", || {
        (names(registry, repo, "1_turbo")? == converted).then_some(())
    });
    converted
}

/// The document that the registry has under a tag or digest.
#[track_caller]
fn document(registry: &Registry, repo: &str, selector: &str) -> Value {
    let url = format!("{}/v2/{repo}/manifests/{selector}", registry.url());
    let answer = http::send("GET", &url, &[("accept", http::ACCEPT)], b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_slice(&answer.body).unwrap()
}

#[track_caller]
fn assert_has_blob(registry: &Registry, repo: &str, digest: &str) {
    let url = format!("{}/v2/{repo}/blobs/{digest}", registry.url());
    let answer = http::send("HEAD", &url, &[], b"");
    assert_eq!(answer.status, 200, "{repo} has no {digest}");
}

#[test]
fn a_turbo_image_is_pushed_under_a_tag_of_its_own_and_not_made_again() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let source = image(1);
    registry.push("app", "1", &source);
    let converted = {
        let proxy = Proxy::start(&registry.url(), &data, &PUSH);
        let converted = pull_and_see_the_tag(&proxy, &registry, "app");
        assert_eq!(names(&registry, "app", "1_obd"), None);
        for layer in layer_digests(&document(&registry, "app", "1_turbo")) {
            assert_has_blob(&registry, "app", &layer);
        }
        proxy.stop();
        converted
    };

    // As on a replica that shares the index, and made nothing itself.
    for blob in proxy::blobs(&data) {
        std::fs::remove_file(blob).unwrap();
    }
    let before = registry.requests().len();
    let proxy = Proxy::start(&registry.url(), &data, &PUSH);
    assert_eq!(pull(&proxy, "app/manifests/1_turbo"), converted);
    for request in registry.requests().iter().skip(before) {
        for layer in source.blobs.iter().skip(1).map(Blob::digest) {
            let fetches = request.contains("GET") && request.contains(&layer);
            assert!(!fetches, "{request}");
        }
    }
    proxy.stop();
}

#[test]
fn a_turbo_image_that_is_pushed_elsewhere_has_its_source_with_it() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let source = image(1);
    registry.push("app", "1", &source);
    let elsewhere = [&PUSH[1..], &["--push-repo", "team/converted"]].concat();
    let proxy = Proxy::start(&registry.url(), &scratch.path().join("data"), &elsewhere);
    pull_and_see_the_tag(&proxy, &registry, "team/converted");
    let manifest = document(&registry, "team/converted", "1_turbo");
    for layer in manifest["layers"].as_array().unwrap() {
        let note = "containerd.io/snapshot/overlaybd/turbo-oci/target-digest";
        let target = layer["annotations"][note].as_str().unwrap();
        assert_has_blob(&registry, "team/converted", target);
    }
    // A registry that collects garbage keeps what a manifest names.
    document(&registry, "team/converted", &source.digest());
    proxy.stop();
}

#[test]
fn a_turbo_tag_of_this_program_is_updated_without_its_index() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let mut before = String::new();
    for (data, number) in [("one", 1), ("other", 2)] {
        registry.push("app", "1", &image(number));
        let proxy = Proxy::start(&registry.url(), &scratch.path().join(data), &PUSH);
        let converted = pull_and_see_the_tag(&proxy, &registry, "app");
        assert_ne!(converted, before);
        before = converted;
        proxy.stop();
    }
}

#[test]
fn a_turbo_tag_of_another_tool_is_left_alone() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    registry.push("app", "1", &image(1));
    let foreign = registry.push("app", "1_turbo", &image(2));
    let proxy = Proxy::start(&registry.url(), &scratch.path().join("data"), &PUSH);
    assert_ne!(pull(&proxy, "app/manifests/1_turbo"), foreign);
    until("the tag is examined", || {
        proxy.log().contains("it is left alone").then_some(())
    });
    assert_eq!(names(&registry, "app", "1_turbo"), Some(foreign));
    proxy.stop();
}
