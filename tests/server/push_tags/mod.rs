//! The converted image's tag in the registry that it is pushed to: whose it is, and that the
//! older image of a tag does not take it from the newer.

mod moved;
mod turbo;
mod whose;

use crate::{store_support, support};
use support::image::{Image, Sealed};
use support::proxy::Proxy;
use support::registry::Registry;
use support::tar::Tar;
use support::until::until;
use support::{http, noise, sha256};

const PUSH: [&str; 5] = [
    "--push",
    "--auth-cache-ttl",
    "0",
    "--platform",
    "linux/amd64",
];

fn image(number: u64) -> Sealed {
    let below = Tar::new().file("below", noise(1, 20_000)).finish();
    let above = Tar::new()
        .file("above", noise(100 + number, 20_000))
        .finish();
    Image::gzip(&[below, above]).seal()
}

/// The layer that no other image has.
fn own_layer(image: &Sealed) -> String {
    image.blobs.last().unwrap().digest()
}

/// What a tag names in the registry.
fn names(registry: &Registry, repo: &str, tag: &str) -> Option<String> {
    let url = format!("{}/v2/{repo}/manifests/{tag}", registry.url());
    // While docker-registry writes a tag's file, it answers 500 to who reads it.
    until("the tag can be read", || {
        let answer = http::send("GET", &url, &[("accept", http::ACCEPT)], b"");
        match answer.status {
            200 => Some(Some(sha256(&answer.body))),
            404 => Some(None),
            500 => None,
            _ => panic!("{answer:?}"),
        }
    })
}

#[track_caller]
fn pull(proxy: &Proxy, path: &str) -> String {
    let answer = proxy.get(path);
    assert_eq!(answer.status, 200, "{answer:?}\n{}", proxy.log());
    sha256(&answer.body)
}

/// Pulls `app:1_obd`, and waits until the registry has it by that tag.
#[track_caller]
fn pull_and_see_the_tag(proxy: &Proxy, registry: &Registry) -> String {
    let converted = pull(proxy, "app/manifests/1_obd");
    until("the tag is pushed", || {
        (names(registry, "app", "1_obd")? == converted).then_some(())
    });
    converted
}
