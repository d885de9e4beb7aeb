//! What a node gets as it is, whatever it says.

use serde_json::json;

use super::{FORMAT, Place, ask, form_of, image, manifest, varies};
use crate::support;
use crate::support::gate::Gate;
use crate::support::image::{self, Blob, Flavour, Image, OCI_MANIFEST, Packing};
use crate::support::proxy::Proxy;
use crate::support::tar::Tar;

#[test]
fn what_is_no_linux_image_or_is_converted_already_stays_as_it_is() {
    let Some(place) = Place::new() else { return };
    let registry = &place.registry;
    let chart = Blob {
        media_type: "application/vnd.cncf.helm.config.v1+json".to_owned(),
        bytes: b"{}".to_vec(),
    };
    registry.push_blob("demo", &chart.bytes);
    let artifact = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": chart.descriptor(),
        "layers": [],
    });
    registry.push_manifest(
        "demo",
        "chart",
        OCI_MANIFEST,
        artifact.to_string().as_bytes(),
    );
    let tar = Tar::new().file("x", "y").finish();
    let windows = Image::gzip(&[tar]).platform("windows", "amd64").seal();
    registry.push("demo", "windows", &windows);
    let entries = [
        windows.entry("windows", "amd64"),
        place.demo.entry("linux", "s390x"),
    ];
    let index = image::index(Flavour::Oci, &entries);
    registry.push_manifest("demo", "others", &index.media_type, &index.bytes);
    let proxy = place.proxy("data", &[]);
    let converted = proxy.get("demo/manifests/1_obd");
    for part in ["config", "layers"] {
        let part = &converted.json()[part];
        let part = part.get(0).unwrap_or(part);
        let digest = part["digest"].as_str().unwrap();
        registry.push_blob("demo", &proxy.get(&format!("demo/blobs/{digest}")).body);
    }
    let media_type = converted.header("content-type").unwrap();
    registry.push_manifest("demo", "already", media_type, &converted.body);
    let before = registry.count("GET", "/blobs/");
    for tag in ["chart", "windows", "others", "already"] {
        let path = format!("/v2/demo/manifests/{tag}");
        let plain = manifest(&proxy, &path, None);
        assert_eq!(plain.status, 200, "{tag}");
        for form in ["auto", "native", "turbo"] {
            let answer = manifest(&proxy, &path, Some(form));
            assert_eq!(answer.body, plain.body, "{tag} {form}: {answer:?}");
            let header = |name| (answer.header(name), plain.header(name));
            let (given, source) = header("content-type");
            assert_eq!(given, source, "{tag} {form}");
            assert!(varies(&answer), "{tag} {form}: {answer:?}");
        }
    }
    // That they are none is found once a form, and HEAD and GET were six.
    let asked = registry.count("GET", "/blobs/") - before;
    assert!(asked <= 2, "{asked}: {:?}", registry.requests());
    let missing = manifest(&proxy, "/v2/demo/manifests/missing", Some("auto"));
    assert_eq!(missing.status, 404, "{missing:?}");
    assert_eq!(missing.json()["errors"][0]["code"], "MANIFEST_UNKNOWN");
}

#[test]
fn a_plain_tag_whose_conversion_fails_is_the_original() {
    let Some(place) = Place::new() else { return };
    let tar = Tar::new().file("x", "y").finish();
    let mut lie = Image::gzip(&[tar]);
    lie.config["rootfs"]["diff_ids"][0] = json!(support::sha256(b"another tar"));
    let lie = lie.seal();
    place.registry.push("demo", "lie", &lie);
    let proxy = place.proxy("data", &[]);
    assert_eq!(proxy.get("demo/manifests/lie_obd").status, 400);
    let answer = manifest(&proxy, "/v2/demo/manifests/lie", Some("native"));
    assert_eq!(answer.body, lie.manifest, "{answer:?}");
    let fallback = answer.header("overlaybd-fallback").unwrap();
    assert!(fallback.contains("diff id"), "{fallback}");
    assert!(
        proxy.log().contains("answered with the original"),
        "{}",
        proxy.log()
    );
}

/// What a node gets while the conversion of an image is held up, at this path.
fn held(on_timeout: &str, path: &str) -> Option<(support::http::Answer, support::image::Sealed)> {
    let place = Place::new()?;
    let gate = Gate::before(place.registry.address());
    let slow = image(3, Packing::Gzip);
    place.registry.push("demo", "slow", &slow);
    let hold = gate.hold("GET", &slow.blobs[1].digest());
    let options = [
        "--platform",
        "linux/amd64",
        "--hold",
        "50ms",
        "--on-timeout",
        on_timeout,
    ];
    let proxy = Proxy::start(&gate.url(), &place.path("data"), &options);
    let answer = ask("GET", &proxy, path, &[(FORMAT, "auto")]);
    hold.release();
    // It goes on.
    support::until::until("it is converted", || {
        let answer = ask("GET", &proxy, path, &[(FORMAT, "auto")]);
        (form_of(&answer) == "turbo").then_some(())
    });
    Some((answer, slow))
}

#[test]
fn a_conversion_that_takes_too_long_is_answered_as_on_timeout_says() {
    let path = "/overlaybd/v2/demo/manifests/slow";
    let Some((answer, slow)) = held("original", path) else {
        return;
    };
    assert_eq!(answer.body, slow.manifest, "{answer:?}");
    assert!(varies(&answer));
    let (answer, _) = held("wait", path).unwrap();
    assert_eq!(answer.status, 307, "{answer:?}");
    let location = answer.header("location").unwrap();
    assert_eq!(location, format!("{path}?overlaybd-waits=1"));
    assert!(varies(&answer));
    let (answer, _) = held("busy", path).unwrap();
    assert_eq!(answer.status, 429, "{answer:?}");
}
