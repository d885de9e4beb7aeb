//! Pins in a data directory, with and without a proxy that uses it.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;

use crate::pins::{
    Place, converted, good, image, json, parts, path_of, pull, sha256, tar, text, there,
};
use crate::support::image::{Flavour, Image, index};
use crate::support::proxy::program;
use crate::support::until::until;

const PLATFORM: [&str; 2] = ["--platform", "linux/amd64"];

#[test]
fn a_pinned_image_outlives_evictions_kills_and_restarts() {
    let place = Place::new();
    for tag in ["a", "b"] {
        place.layout.add(tag, &image(u64::from(tag.as_bytes()[0])));
    }
    let proxy = place.proxy(&PLATFORM);
    let (pinned, blobs) = converted(&proxy, "a");
    let (other, _) = converted(&proxy, "b");
    let line = good(&place.cache(&["pin", &pinned]));
    assert!(
        line.starts_with(&format!("pinned {pinned}  4 blobs, ")),
        "{line}"
    );
    // The process that pinned it is gone, and so is the one that served it, at once.
    proxy.signal(Signal::SIGKILL);
    drop(proxy);
    let listed = json(&place.cache(&["ls", "--json"]));
    let listed = listed["blobs"].as_array().unwrap();
    let marked = listed.iter().filter(|blob| blob["is_pinned"] == true);
    let marked: Vec<_> = marked
        .map(|blob| blob["digest"].as_str().unwrap())
        .collect();
    assert_eq!(marked.len(), blobs.len());
    assert!(marked.iter().all(|digest| blobs.contains(*digest)));

    // Another process evicts.
    let planned = json(&place.cache(&["gc", "--to", "0", "--dry-run", "--json"]));
    let evicted = json(&place.cache(&["gc", "--to", "0", "--json"]));
    assert_eq!(planned["evicted"], evicted["evicted"]);
    assert_eq!(there(&place.data()), blobs);

    // The proxy evicts by itself, and says that it cannot keep to the bound.
    let small = ["--cache-size", "0", "--keep", "0s"];
    let proxy = place.proxy(&[&PLATFORM[..], &small].concat());
    assert_eq!(converted(&proxy, "b").0, other);
    until("all that is not pinned is evicted", || {
        (there(&place.data()) == blobs).then_some(())
    });
    let complaint = "the pinned blobs alone exceed the cache size";
    assert!(proxy.log().contains(complaint), "{}", proxy.log());
    converted(&proxy, "b");
    until("it is evicted again", || {
        (there(&place.data()) == blobs).then_some(())
    });
    assert_eq!(proxy.log().matches(complaint).count(), 1, "{}", proxy.log());
    let bytes: u64 = blobs
        .iter()
        .map(|digest| path_of(&place.data(), digest).metadata().unwrap().len())
        .sum();
    let metric = |name: &str| proxy.metric(&format!("overlaybd_proxy_{name}"));
    assert_eq!(metric("blobs_pinned_bytes"), Some(bytes));
    assert_eq!(metric("blobs_pinned"), Some(4));
    let before = metric("layers_converted_total");
    pull(&proxy, &blobs);
    assert_eq!(metric("layers_converted_total"), before);

    good(&place.cache(&["unpin", &pinned]));
    until("it is evicted, too", || {
        there(&place.data()).is_disjoint(&blobs).then_some(())
    });
    proxy.stop();
}

#[test]
fn a_layer_of_two_pinned_images_stays_until_both_are_unpinned() {
    let place = Place::new();
    place.layout.add("a", &image(1));
    place.layout.add("b", &image(2));
    let proxy = place.proxy(&PLATFORM);
    let ((a, of_a), (b, of_b)) = (converted(&proxy, "a"), converted(&proxy, "b"));
    proxy.stop();
    let shared: BTreeSet<_> = of_a.intersection(&of_b).cloned().collect();
    assert_eq!(shared.len(), 1);
    good(&place.cache(&["pin", &a, &b]));
    assert_eq!(
        good(&place.cache(&["unpin", &a])),
        format!("unpinned {a}\n")
    );
    good(&place.cache(&["gc", "--to", "0"]));
    assert_eq!(there(&place.data()), of_b);
    // A layer can be pinned by itself.
    let layer = shared.first().unwrap();
    good(&place.cache(&["pin", layer]));
    good(&place.cache(&["unpin", &b]));
    good(&place.cache(&["gc", "--to", "0"]));
    assert_eq!(there(&place.data()), shared);
    good(&place.cache(&["unpin", layer]));
    good(&place.cache(&["gc", "--to", "0"]));
    assert!(there(&place.data()).is_empty());
}

#[test]
fn an_index_is_pinned_with_its_manifests_and_their_layers() {
    let place = Place::new();
    let architectures = ["amd64", "arm64"];
    let images = [1, 2].map(|seed| Image::gzip(&[tar(seed), tar(10 + seed)]));
    let entries: Vec<_> = images
        .into_iter()
        .zip(architectures)
        .map(|(image, architecture)| {
            let sealed = image.platform("linux", architecture).seal();
            place.layout.store(&sealed);
            sealed.entry("linux", architecture)
        })
        .collect();
    place.layout.tag("both", &index(Flavour::Oci, &entries));
    let proxy = place.proxy(&[]);
    let answer = proxy.get("app/manifests/both_obd");
    assert_eq!(answer.status, 200, "{answer:?}\n{}", proxy.log());
    let pinned = sha256(&answer.body);
    let mut all = BTreeSet::from([pinned.clone()]);
    for entry in answer.json()["manifests"].as_array().unwrap() {
        let digest = entry["digest"].as_str().unwrap();
        let manifest = proxy.get(&format!("app/manifests/{digest}"));
        all.extend(parts(digest, &manifest.json()));
    }
    proxy.stop();
    assert_eq!(all.len(), 1 + 2 * 4);
    let pins = |output| json(output)["pins"].clone();
    good(&place.cache(&["pin", &pinned]));
    let listed = pins(&place.cache(&["ls", "--pins", "--json"]));
    assert_eq!(listed[0]["digest"], pinned);
    assert_eq!(
        (&listed[0]["blobs"], &listed[0]["missing"]),
        (&9.into(), &0.into())
    );
    good(&place.cache(&["gc", "--to", "0"]));
    assert_eq!(there(&place.data()), all);
}

#[test]
fn what_is_pinned_is_not_removed_and_the_error_says_what_to_unpin() {
    let place = Place::new();
    place.layout.add("a", &image(1));
    let proxy = place.proxy(&PLATFORM);
    let (manifest, blobs) = converted(&proxy, "a");
    proxy.stop();
    good(&place.cache(&["pin", &manifest]));
    for digest in &blobs {
        let refused = place.cache(&["rm", digest]);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        let said = text(&refused.stderr);
        assert!(
            said.contains(&format!("cache unpin {manifest}` first")),
            "{said}"
        );
    }
    assert_eq!(there(&place.data()), blobs);
    let layer = blobs.iter().find(|digest| **digest != manifest).unwrap();
    let refused = place.cache(&["unpin", layer]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    good(&place.cache(&["unpin", &manifest]));
    good(&place.cache(&["rm", layer]));
    let refused = place.cache(&["pin", layer]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        text(&refused.stderr).contains("there is no blob"),
        "{refused:?}"
    );
    // A part that is not there now is kept when it is.
    let line = good(&place.cache(&["pin", &manifest]));
    assert!(line.contains("; 1 of them are not there now"), "{line}");
    let proxy = place.proxy(&PLATFORM);
    pull(&proxy, &blobs);
    proxy.stop();
    good(&place.cache(&["gc", "--to", "0"]));
    assert_eq!(there(&place.data()), blobs);
    let named = place.cache(&["pin", "app:a"]);
    assert_eq!(named.status.code(), Some(2), "{named:?}");
    assert!(text(&named.stderr).contains("--admin"), "{named:?}");
}

#[test]
fn a_service_s_variables_do_not_stand_in_the_way_of_commands() {
    let place = Place::new();
    place.layout.add("a", &image(1));
    let proxy = place.proxy(&PLATFORM);
    let (_, blobs) = converted(&proxy, "a");
    let list = |more: &[&str], admin: &str| {
        let mut command = program();
        command
            .args(["cache", "ls", "--json"])
            .args(more)
            .env("OVERLAYBD_PROXY_DATA_DIR", place.data())
            .env("OVERLAYBD_PROXY_ADMIN", admin);
        let listed = json(&command.output().unwrap());
        listed["blobs"].as_array().unwrap().len()
    };
    // A variable alone does not mean the proxy, which would not answer here.
    assert_eq!(list(&[], "127.0.0.1:1"), blobs.len());
    assert_eq!(
        list(&["--admin", proxy.admin()], "127.0.0.1:1"),
        blobs.len()
    );
    proxy.stop();
}
