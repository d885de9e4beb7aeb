//! Objects that are not what their names say.

use std::path::Path;

use crate::blob_store::{PLATFORM, empty, image, metric, pull};
use crate::support::image::layer_digests;
use crate::support::registry::Registry;
use crate::support::s3::Bucket;
use crate::support::sha256;
use crate::support::until::until;

/// The bucket's object of the first layer is changed; it is never served, and made right again.
fn is_mended(seed: u64, damage: impl FnOnce(&Path)) -> Option<()> {
    let (registry, bucket) = (Registry::start()?, Bucket::start()?);
    registry.push("app", "1", &image(seed, 1));
    let data = tempfile::tempdir().unwrap();
    let proxy = bucket.replica(&registry.url(), data.path(), &PLATFORM);
    let made = proxy.converted("app", "1");
    proxy.stop();
    let layer = layer_digests(&made)[0].clone();
    damage(&bucket.object(&layer));
    empty(data.path());

    let proxy = bucket.replica(&registry.url(), data.path(), &PLATFORM);
    pull(&proxy, "app", &made);
    // It was made again, to the same bytes.
    assert!(metric(&proxy, "layers_converted_total") >= 1);
    until("the object is right again", || {
        let object = bucket.bytes(&layer)?;
        (sha256(&object) == layer).then_some(())
    });
    let found = metric(&proxy, "blob_store_damaged_total");
    let is_logged = proxy.log().contains("other bytes than its digest names");
    proxy.stop();
    (found == 1 && is_logged).then_some(())
}

#[test]
fn a_damaged_object_is_not_served_and_is_replaced() {
    let flip = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    let shorten = |path: &Path| {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    };
    if !crate::support::have(&["docker-registry"]) || Bucket::start().is_none() {
        return;
    }
    assert!(is_mended(11, flip).is_some(), "a flipped byte");
    assert!(is_mended(12, shorten).is_some(), "half of it");
}

#[test]
fn an_object_that_is_gone_is_made_again() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    registry.push("app", "1", &image(13, 1));
    let data = tempfile::tempdir().unwrap();
    let proxy = bucket.replica(&registry.url(), data.path(), &PLATFORM);
    let made = proxy.converted("app", "1");
    proxy.stop();
    let layer = layer_digests(&made)[1].clone();
    std::fs::remove_file(bucket.object(&layer)).unwrap();
    empty(data.path());
    let proxy = bucket.replica(&registry.url(), data.path(), &PLATFORM);
    pull(&proxy, "app", &made);
    assert_eq!(metric(&proxy, "layers_converted_total"), 1);
    assert_eq!(sha256(&bucket.bytes(&layer).unwrap()), layer);
    proxy.stop();
}
