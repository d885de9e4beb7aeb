//! The API below `/overlaybd/v2/`, where containerd's `override_path` leads.

use super::{FORMAT, Place, ask, form_of, manifest, varies};
use crate::support::http::{self, Answer};
use crate::support::proxy::Proxy;
use crate::support::{noise, sha256};

#[track_caller]
fn pushed(proxy: &Proxy, bytes: &[u8]) -> Answer {
    let begun = ask("POST", proxy, "/overlaybd/v2/pushed/blobs/uploads/", &[]);
    assert_eq!(begun.status, 202, "{begun:?}");
    let location = begun.header("location").unwrap();
    assert!(
        location.starts_with("/overlaybd/v2/pushed/blobs/uploads/"),
        "{location}"
    );
    let mark = if location.contains('?') { '&' } else { '?' };
    let url = format!("{}{location}{mark}digest={}", proxy.url(), sha256(bytes));
    let octets = [("content-type", "application/octet-stream")];
    http::send("PUT", &url, &octets, bytes)
}

#[test]
fn everything_below_the_path_works_as_above_it_and_keeps_the_path() {
    let Some(place) = Place::new() else { return };
    place.registry.push("other", "1", &place.demo);
    let proxy = place.proxy("data", &[]);
    for _ in 0..2 {
        let answer = manifest(&proxy, "/overlaybd/v2/demo/manifests/1", None);
        assert_eq!(form_of(&answer), "turbo", "{answer:?}");
        assert!(varies(&answer));
        let plain = manifest(&proxy, "/v2/demo/manifests/1", None);
        assert_eq!(form_of(&plain), "original");
        let answer = manifest(&proxy, "/overlaybd/v2/demo/manifests/1", Some("native"));
        assert_eq!(form_of(&answer), "native", "{answer:?}");
        let answer = manifest(&proxy, "/overlaybd/v2/demo/manifests/1", Some("original"));
        assert_eq!(answer.body, place.demo.manifest, "{answer:?}");
        let layer = plain.json()["layers"][0]["digest"]
            .as_str()
            .unwrap()
            .to_owned();
        let blob = ask(
            "GET",
            &proxy,
            &format!("/overlaybd/v2/demo/blobs/{layer}"),
            &[],
        );
        assert_eq!(sha256(&blob.body), layer);
    }
    let turbo = manifest(&proxy, "/overlaybd/v2/demo/manifests/1", None).json();
    let digest = turbo["layers"][0]["digest"].as_str().unwrap();
    let blob = ask(
        "GET",
        &proxy,
        &format!("/overlaybd/v2/demo/blobs/{digest}"),
        &[],
    );
    assert_eq!(sha256(&blob.body), digest);
    assert_eq!(ask("GET", &proxy, "/overlaybd/v2/", &[]).status, 200);
    let moved = ask("GET", &proxy, "/overlaybd/v2", &[]);
    assert_eq!(
        moved.header("location"),
        Some("/overlaybd/v2/"),
        "{moved:?}"
    );
    for path in [
        "/overlaybd",
        "/overlaybd/",
        "/overlaybd/overlaybd/v2/",
        "/overlaybdx/v2/",
    ] {
        assert_eq!(ask("GET", &proxy, path, &[]).status, 404, "{path}");
    }
    let catalog = ask("GET", &proxy, "/overlaybd/v2/_catalog?n=1", &[]);
    assert_eq!(catalog.json()["repositories"][0], "demo");
    let link = catalog.header("link").unwrap();
    assert!(link.starts_with("</overlaybd/v2/_catalog?"), "{link}");
    let tags = ask("GET", &proxy, "/overlaybd/v2/demo/tags/list", &[]);
    assert!(
        tags.json()["tags"].to_string().contains("\"1\""),
        "{tags:?}"
    );
    let bytes = noise(9, 5000);
    let put = pushed(&proxy, &bytes);
    assert_eq!(put.status, 201, "{put:?}");
    let location = put.header("location").unwrap();
    assert!(
        location.starts_with("/overlaybd/v2/pushed/blobs/sha256:"),
        "{location}"
    );
    assert_eq!(ask("GET", &proxy, location, &[]).body, bytes);
}

#[test]
fn tokens_are_had_below_the_path_too() {
    let Some(place) = Place::new() else { return };
    let upstream = format!("{},path-prefix=hub", place.registry.url());
    let proxy = Proxy::start(
        &upstream,
        &place.path("data"),
        &["--platform", "linux/amd64"],
    );
    let ping = ask("GET", &proxy, "/overlaybd/v2/", &[]);
    assert_eq!(ping.status, 401, "{ping:?}");
    let challenge = ping.header("www-authenticate").unwrap();
    let realm = format!("{}/overlaybd/v2/_token", proxy.url());
    assert!(
        challenge.contains(&format!("realm=\"{realm}\"")),
        "{challenge}"
    );
    let token = http::get(&format!("{realm}?scope=repository:hub/demo:pull"));
    let token = token.json()["token"].as_str().unwrap().to_owned();
    let bearer = format!("Bearer {token}");
    let path = "/overlaybd/v2/hub/demo/manifests/1";
    let answer = ask("GET", &proxy, path, &[("authorization", &bearer)]);
    assert_eq!(form_of(&answer), "turbo", "{answer:?}");
    let original = [("authorization", bearer.as_str()), (FORMAT, "original")];
    let answer = ask("GET", &proxy, path, &original);
    assert_eq!(answer.body, place.demo.manifest);
}
