//! `[[policy]]`: what it does to pulls.

use nix::sys::signal::Signal;

use super::{FORMAT, MIRRORED, Place, ask, form_of, image, manifest, varies};
use crate::support;
use crate::support::image::{self, Flavour, Packing};
use crate::support::proxy::Proxy;
use crate::support::until::until;

#[track_caller]
fn form(proxy: &Proxy, reference: &str, form: Option<&str>) -> &'static str {
    let answer = manifest(proxy, &format!("/v2/{reference}"), form);
    assert_eq!(answer.status, 200, "{reference}: {answer:?}");
    form_of(&answer)
}

#[test]
fn the_first_rule_that_matches_holds() {
    let Some(place) = Place::new() else { return };
    for repo in ["team/app", "team/tools", "free"] {
        place.registry.push(repo, "1", &place.demo);
        place.registry.push(repo, "2", &place.demo);
    }
    let rules = format!(
        "[[policy]]\nrepository = 'team/*'\ntag = '2'\nwhen = 'never'\n\
         [[policy]]\nrepository = ['team/a*', 'other']\nwhen = 'plain-tag'\nformat = 'native'\n\
         [[policy]]\nupstream = '{MIRRORED}'\nrepository = 'team/*'\nformat = 'original'\n\
         [[policy]]\nupstream = 'elsewhere.test'\nwhen = 'never'\n"
    );
    let proxy = place.ruled("data", &rules, &[]);
    for (reference, header, wanted, is_varying) in [
        ("team/app/manifests/1", None, "native", true),
        ("team/app/manifests/1", Some("auto"), "native", true),
        ("team/app/manifests/1", Some("turbo"), "turbo", true),
        ("team/app/manifests/1", Some("original"), "original", true),
        ("team/app/manifests/2", Some("turbo"), "original", false),
        ("team/tools/manifests/1", Some("turbo"), "original", false),
        ("free/manifests/1", None, "original", true),
        ("free/manifests/1", Some("auto"), "turbo", true),
    ] {
        // The second time from the caches.
        for _ in 0..2 {
            let answer = manifest(&proxy, &format!("/v2/{reference}"), header);
            assert_eq!(
                form_of(&answer),
                wanted,
                "{reference} {header:?}: {answer:?}"
            );
            assert_eq!(
                varies(&answer),
                is_varying,
                "{reference} {header:?}: {answer:?}"
            );
        }
    }
    // Through a mirror a native image without its blobs would not start, whoever pulls it.
    let mirrored = format!("team/app/manifests/1?ns={MIRRORED}");
    assert_eq!(form(&proxy, &mirrored, None), "original");
    // A suffix means what it means, but for what is never converted.
    assert_eq!(form(&proxy, "team/tools/manifests/1_obd", None), "native");
    let before = proxy.metric("overlaybd_proxy_layers_converted_total");
    let never = manifest(&proxy, "/v2/team/app/manifests/2_obd", None);
    assert_eq!(never.status, 404, "{never:?}");
    let error = never.json()["errors"][0].clone();
    assert_eq!(error["code"], "MANIFEST_UNKNOWN");
    let text = error["message"].as_str().unwrap();
    assert!(
        text.contains("2_obd") && text.contains("[[policy]] 1"),
        "{text}"
    );
    assert_eq!(
        proxy.metric("overlaybd_proxy_layers_converted_total"),
        before
    );
    // What the registry really has there is nobody's conversion.
    let own = image(7, Packing::Gzip);
    place.registry.push("team/app", "2_obd", &own);
    let answer = manifest(&proxy, "/v2/team/app/manifests/2_obd", None);
    assert_eq!(answer.body, own.manifest, "{answer:?}");
    // By digest the digest decides.
    let converted = manifest(&proxy, "/v2/team/app/manifests/1_obd", None);
    let digest = converted.header("docker-content-digest").unwrap();
    assert_eq!(
        form(&proxy, &format!("team/app/manifests/{digest}"), None),
        "native"
    );
}

#[test]
fn a_rule_for_sizes_holds_for_images_of_these_sizes() {
    let Some(place) = Place::new() else { return };
    let large = {
        let tar = crate::support::tar::Tar::new();
        let tar = tar.file("file", crate::support::noise(5, 400_000)).finish();
        crate::support::image::Image::gzip(&[tar]).seal()
    };
    place.registry.push("demo", "large", &large);
    // Of an index it is the largest image that is converted: not the one for s390x.
    for (tag, amd64, s390x) in [
        ("index-small", &place.demo, &large),
        ("index-large", &large, &place.demo),
    ] {
        for image in [amd64, s390x] {
            place.registry.push("demo", &image.digest(), image);
        }
        let entries = [amd64.entry("linux", "amd64"), s390x.entry("linux", "s390x")];
        let index = image::index(Flavour::Oci, &entries);
        place
            .registry
            .push_manifest("demo", tag, &index.media_type, &index.bytes);
    }
    let rules = "[[policy]]\nmax-size = '100KB'\nwhen = 'never'\n\
                 [[policy]]\nmin-size = '100KB'\nmax-size = '1MB'\nwhen = 'plain-tag'\n";
    let proxy = place.ruled("data", rules, &[]);
    let get = |tag: &str, header: Option<&str>| {
        let path = format!("/v2/demo/manifests/{tag}");
        let mut answer = manifest(&proxy, &path, header);
        if let Some(one) = answer.json()["manifests"][0]["digest"].as_str() {
            answer = manifest(&proxy, &format!("/v2/demo/manifests/{one}"), None);
        }
        (answer.status, form_of(&answer))
    };
    for _ in 0..2 {
        assert_eq!(get("1", None), (200, "original"));
        assert_eq!(get("1", Some("turbo")), (200, "original"));
        assert_eq!(get("1_obd", None).0, 404);
        assert_eq!(get("large", None), (200, "turbo"));
        assert_eq!(get("large_obd", None), (200, "native"));
        assert_eq!(get("index-small", None), (200, "original"));
        assert_eq!(get("index-large", None), (200, "turbo"));
        assert_eq!(get("index-small_obd", None).0, 404);
        assert_eq!(get("index-large_obd", None), (200, "native"));
    }
}

#[test]
fn a_rule_says_which_platforms_of_an_index_are_converted() {
    let Some(place) = Place::new() else { return };
    let other = image(4, Packing::Gzip);
    for repo in ["demo", "special"] {
        for image in [&place.demo, &other] {
            place.registry.push(repo, &image.digest(), image);
        }
        let entries = [
            place.demo.entry("linux", "amd64"),
            other.entry("linux", "riscv64"),
        ];
        let index = image::index(Flavour::Oci, &entries);
        place
            .registry
            .push_manifest(repo, "1", &index.media_type, &index.bytes);
    }
    let rules = "[[policy]]\nrepository = 'special'\nplatform = 'linux/riscv64'\n\
                 when = 'plain-tag'\nformat = 'native'\n";
    let proxy = place.ruled("data", rules, &[]);
    let sources = [place.demo.digest(), other.digest()];
    let kept = |path: &str| {
        let answer = manifest(&proxy, path, None);
        assert_eq!(answer.status, 200, "{path}: {answer:?}\n{}", proxy.log());
        let entries = answer.json()["manifests"].clone();
        let digests = [0, 1].map(|n| entries[n]["digest"].as_str().unwrap().to_owned());
        ([0, 1].map(|n| digests[n] == sources[n]), digests[1].clone())
    };
    assert_eq!(kept("/v2/demo/manifests/1_obd").0, [false, true]);
    let (is_kept, converted) = kept("/v2/special/manifests/1");
    assert_eq!(is_kept, [true, false]);
    assert_eq!(kept("/v2/special/manifests/1_obd").1, converted);
    let one = manifest(&proxy, &format!("/v2/special/manifests/{converted}"), None);
    assert_eq!(form_of(&one), "native", "{one:?}");
    let layer = one.json()["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    proxy.stop();
    // What was evicted is made again by the rule's platforms, and not without.
    for (rules, status) in [("", 404), (rules, 200)] {
        for blob in support::proxy::blobs(&place.path("data")) {
            std::fs::remove_file(blob).unwrap();
        }
        let proxy = place.ruled("data", rules, &[]);
        let blob = ask("GET", &proxy, &format!("/v2/special/blobs/{layer}"), &[]);
        assert_eq!(blob.status, status, "{rules}: {blob:?}\n{}", proxy.log());
        proxy.stop();
    }
}

#[test]
fn what_is_never_converted_is_not_prepared_either() {
    let Some(place) = Place::new() else { return };
    place.registry.push("never", "1", &place.demo);
    place.registry.push("turbo", "1", &image(6, Packing::Gzip));
    let rules = "[[policy]]\nrepository = 'never'\nwhen = 'never'\n\
                 [[policy]]\nrepository = 'turbo'\nformat = 'turbo'\n";
    let proxy = place.ruled("data", rules, &["--convert-on-pull", "*"]);
    assert_eq!(form(&proxy, "never/manifests/1", None), "original");
    assert_eq!(form(&proxy, "turbo/manifests/1", None), "original");
    until("the other one is prepared", || {
        proxy.log().contains("prepared").then_some(())
    });
    assert_eq!(
        proxy.metric("overlaybd_proxy_layers_converted_total"),
        Some(1)
    );
    let found = ask("GET", &proxy, "/v2/turbo/manifests/1", &[(FORMAT, "turbo")]);
    assert_eq!(
        found.header("overlaybd-outcome"),
        Some("found"),
        "{found:?}"
    );
}

#[test]
fn a_changed_policy_holds_after_sighup() {
    let Some(place) = Place::new() else { return };
    let proxy = place.ruled("data", "", &["--auth-cache-ttl", "1h"]);
    let get = |header| form(&proxy, "demo/manifests/1", header);
    assert_eq!((get(None), get(Some("auto"))), ("original", "turbo"));
    let file = place.path("data.toml");
    let reload = |rules: &str, said: &str, times| {
        std::fs::write(&file, rules).unwrap();
        proxy.signal(Signal::SIGHUP);
        let count = || proxy.log().matches(said).count();
        until("the reload is logged", || (count() == times).then_some(()));
    };
    reload(
        "[[policy]]\nwhen = 'plain-tag'\nformat = 'native'\n",
        "reloaded",
        1,
    );
    assert_eq!((get(None), get(Some("auto"))), ("native", "native"));
    reload("[[policy]]\nwhen = 'never'\n", "reloaded", 2);
    assert_eq!((get(None), get(Some("auto"))), ("original", "original"));
    reload("[[policy]]\nwhen = 'sometimes'\n", "not reloaded", 1);
    assert_eq!(get(Some("auto")), "original");
    assert!(proxy.log().contains("sometimes"), "{}", proxy.log());
}
