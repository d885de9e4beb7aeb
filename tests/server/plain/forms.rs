//! Which form a node gets under a plain tag.

use super::{FORMAT, MIRRORED, Place, ask, form_of, manifest, varies};
use crate::support;

#[test]
fn a_node_gets_the_form_that_its_header_names_and_others_the_original() {
    let Some(place) = Place::new() else { return };
    let proxy = place.proxy("data", &[]);
    let suffixed = |suffix: &str| proxy.get(&format!("demo/manifests/1_{suffix}"));
    let (native, turbo) = (suffixed("obd"), suffixed("turbo"));
    // Twice: the second time from the caches.
    for _ in 0..2 {
        for (form, wanted) in [
            (None, &place.demo.manifest[..]),
            (Some("auto"), &turbo.body),
            (Some("turbo"), &turbo.body),
            (Some("native"), &native.body),
            (Some("original"), &place.demo.manifest),
            (Some("Native"), &native.body),
            (Some("erofs, native"), &native.body),
            (Some("erofs"), &place.demo.manifest),
        ] {
            let answer = manifest(&proxy, "/v2/demo/manifests/1", form);
            assert_eq!(answer.status, 200, "{form:?}: {answer:?}");
            assert!(answer.body == wanted, "{form:?}: {answer:?}");
            assert!(varies(&answer), "{form:?}: {answer:?}");
        }
    }
    // What is named by a digest or a suffix is the same for everyone.
    let digest = place.demo.digest();
    for (reference, wanted) in [
        (digest.as_str(), &place.demo.manifest[..]),
        ("1_obd", &native.body),
    ] {
        let path = format!("/v2/demo/manifests/{reference}");
        for form in [None, Some("turbo")] {
            let answer = manifest(&proxy, &path, form);
            assert!(answer.body == wanted, "{reference}: {answer:?}");
            assert!(!varies(&answer), "{reference}: {answer:?}");
        }
    }
    let converted = support::sha256(&turbo.body);
    let path = format!("/v2/demo/manifests/{converted}");
    assert_eq!(manifest(&proxy, &path, None).body, turbo.body);
}

#[test]
fn an_etag_of_one_form_does_not_stand_for_the_other() {
    let Some(place) = Place::new() else { return };
    let proxy = place.proxy("data", &[]);
    let path = "/v2/demo/manifests/1";
    let converted = manifest(&proxy, path, Some("turbo"));
    let etag = converted.header("etag").unwrap().to_owned();
    let again = |form| {
        ask(
            "GET",
            &proxy,
            path,
            &[(FORMAT, form), ("if-none-match", &etag)],
        )
    };
    let same = again("turbo");
    assert_eq!(same.status, 304, "{same:?}");
    assert!(varies(&same), "{same:?}");
    let other = again("original");
    assert_eq!((other.status, form_of(&other)), (200, "original"));
}

#[test]
fn a_mirrored_node_gets_a_native_image_only_where_its_name_leads_to_the_blobs() {
    let Some(place) = Place::new() else { return };
    let proxy = place.proxy("data", &[]);
    let address = place.registry.address();
    let get = |proxy, tag: &str, ns: Option<&str>, form| {
        let query = ns.map_or_else(String::new, |ns| format!("?ns={ns}"));
        let answer = manifest(
            proxy,
            &format!("/v2/demo/manifests/{tag}{query}"),
            Some(form),
        );
        assert_eq!(answer.status, 200, "{tag} {ns:?} {form}: {answer:?}");
        let fallback = answer.header("overlaybd-fallback").unwrap_or_default();
        (form_of(&answer), fallback.to_owned())
    };
    for (tag, ns, form, wanted, reason) in [
        ("1", None, "native", "native", ""),
        ("1", Some(MIRRORED), "native", "original", "--push"),
        ("1", Some(address), "native", "original", "--push"),
        ("1", Some(MIRRORED), "auto", "turbo", ""),
        ("zstd", None, "auto", "native", "zstd"),
        ("zstd", Some(MIRRORED), "auto", "original", "zstd"),
        ("zstd", Some(MIRRORED), "turbo", "original", "zstd"),
    ] {
        let (found, fallback) = get(&proxy, tag, ns, form);
        assert_eq!(found, wanted, "{tag} {ns:?} {form}: {fallback}");
        assert!(fallback.contains(reason), "{tag} {ns:?} {form}: {fallback}");
        assert_eq!(fallback.is_empty(), reason.is_empty(), "{fallback}");
    }
    // Pushed, the blobs are at the registry itself, and not at the one that it is a mirror of.
    let pushing = place.proxy("pushing", &["--push"]);
    for (ns, form, wanted) in [
        (Some(address), "auto", "native"),
        (Some(address), "native", "native"),
        (Some(address), "turbo", "turbo"),
        (Some(MIRRORED), "auto", "turbo"),
        (Some(MIRRORED), "native", "original"),
        (None, "auto", "native"),
    ] {
        assert_eq!(get(&pushing, "1", ns, form).0, wanted, "{ns:?} {form}");
    }
    let elsewhere = place.proxy("elsewhere", &["--push-repo", "converted"]);
    assert_eq!(get(&elsewhere, "1", Some(address), "auto").0, "turbo");
    assert_eq!(get(&elsewhere, "1", None, "auto").0, "native");
}

#[test]
fn without_turbo_images_nodes_get_what_starts() {
    let Some(place) = Place::new() else { return };
    let proxy = place.proxy("data", &["--turbo-suffix", ""]);
    let mirrored = format!("/v2/demo/manifests/1?ns={MIRRORED}");
    for (path, form, wanted) in [
        ("/v2/demo/manifests/1", "auto", "native"),
        ("/v2/demo/manifests/1", "turbo", "original"),
        (&mirrored, "auto", "original"),
    ] {
        let answer = manifest(&proxy, path, Some(form));
        assert_eq!(form_of(&answer), wanted, "{path} {form}: {answer:?}");
    }
}

#[test]
fn the_fallback_of_turbo_images_is_that_of_plain_tags_too() {
    let Some(place) = Place::new() else { return };
    let path = "/v2/demo/manifests/zstd";
    let original = place.proxy("original", &["--turbo-fallback", "original"]);
    for _ in 0..2 {
        let answer = manifest(&original, path, Some("auto"));
        assert_eq!(answer.body, place.zstd.manifest, "{answer:?}");
        assert!(varies(&answer));
    }
    let error = place.proxy("error", &["--turbo-fallback", "error"]);
    for _ in 0..2 {
        let answer = manifest(&error, path, Some("auto"));
        assert_eq!(answer.status, 422, "{answer:?}");
        assert!(varies(&answer), "{answer:?}");
    }
    assert_eq!(manifest(&error, path, None).status, 200);
}

#[test]
fn the_listener_for_nodes_converts_plain_tags_and_shares_the_rest() {
    let Some(place) = Place::new() else { return };
    let mut proxy = place.proxy("data", &["--listen-overlaybd", "127.0.0.1:0"]);
    let listener = proxy.overlaybd();
    let get = |base: &str, form: Option<&str>| {
        let form = form.map(|form| (FORMAT, form));
        let headers: Vec<_> = form.into_iter().chain([("host", "proxy.test")]).collect();
        let url = format!("{base}/v2/demo/manifests/1");
        let answer = support::http::send("GET", &url, &headers, b"");
        assert!(varies(&answer), "{answer:?}");
        form_of(&answer)
    };
    // Both have the same path and the same Host, as behind one balancer.
    for _ in 0..2 {
        assert_eq!(get(&listener, None), "turbo");
        assert_eq!(get(proxy.url(), None), "original");
        assert_eq!(get(&listener, Some("native")), "native");
        assert_eq!(get(&listener, Some("original")), "original");
    }
    proxy.stop();
    assert!(support::http::try_send("GET", &format!("{listener}/v2/"), &[], b"").is_err());
}
