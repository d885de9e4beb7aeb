//! What is kept, and for how long.

use crate::source_cache::{PLATFORM, Setting, assert_outcome, image, layer_of, outcomes};
use crate::support::gate::Gate;
use crate::support::proxy::{Proxy, blobs};
use crate::support::until::until;

#[test]
fn source_blobs_are_evicted_before_converted_ones() {
    let Some(setting) = Setting::new(&["--cache-size", "6MiB", "--keep", "1h"]) else {
        return;
    };
    let first = image(0, 1 << 20);
    setting.registry.push("app", "0", &first);
    let converted = setting.proxy.converted("app", "0");
    let converted = converted["layers"][0]["digest"].as_str().unwrap();
    for n in 1..10 {
        let image = image(n, 1 << 20);
        setting.registry.push("app", &n.to_string(), &image);
        let answer = setting
            .proxy
            .get(&format!("app/blobs/{}", layer_of(&image)));
        assert_outcome(&answer, 200, Some("filled"));
    }
    let size = || -> u64 {
        let blobs = blobs(setting.data.path());
        let sizes = blobs.iter().filter_map(|path| path.metadata().ok());
        sizes.map(|metadata| metadata.len()).sum()
    };
    until("the bound holds", || (size() <= 6 << 20).then_some(()));
    let left = blobs(setting.data.path());
    let is_there = |digest: &str| left.iter().any(|path| path.ends_with(&digest[7..]));
    assert!(is_there(converted), "{left:?}");
    assert!(!is_there(&layer_of(&first)), "{left:?}");
    // The one that was pulled last is there, or within reach.
    let answer = setting
        .proxy
        .get(&format!("app/blobs/{}", layer_of(&first)));
    assert_outcome(&answer, 200, Some("filled"));
    setting.proxy.stop();
}

#[test]
fn a_blob_that_is_larger_than_the_cache_is_passed_through() {
    let Some(setting) = Setting::new(&["--cache-size", "1MiB"]) else {
        return;
    };
    let image = image(1, 2 << 20);
    setting.registry.push("app", "1", &image);
    let path = format!("app/blobs/{}", layer_of(&image));
    for _ in 0..2 {
        assert_outcome(&setting.proxy.get(&path), 200, None);
    }
    assert_eq!(setting.gate.count("GET", &path), 2);
    assert!(blobs(setting.data.path()).is_empty());
    setting.proxy.stop();
}

#[test]
fn the_cache_outlives_the_process() {
    let Some(setting) = Setting::new(&[]) else {
        return;
    };
    let image = image(1, 1 << 20);
    setting.registry.push("app", "1", &image);
    let paths = [
        "app/manifests/1".to_owned(),
        format!("app/blobs/{}", layer_of(&image)),
    ];
    for path in &paths {
        setting.fill(path);
    }
    let Setting {
        proxy,
        registry,
        data,
        ..
    } = setting;
    proxy.stop();
    let gate = Gate::before(registry.address());
    let options = [&PLATFORM[..], &["--cache-source"]].concat();
    let proxy = Proxy::start(&gate.url(), data.path(), &options);
    for path in &paths {
        assert_outcome(&proxy.get(path), 200, Some("hit"));
    }
    assert_eq!(gate.count("GET", ""), 0, "{:?}", gate.seen());
    assert_eq!(outcomes(&proxy, "hit"), 2);
    // A file that was written to is not served.
    let hex = layer_of(&image)[7..].to_owned();
    let file = blobs(data.path())
        .into_iter()
        .find(|path| path.ends_with(&hex));
    let file = file.unwrap();
    proxy.stop();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, &bytes).unwrap();
    let proxy = Proxy::start(&gate.url(), data.path(), &options);
    let answer = proxy.get(&paths[1]);
    assert_outcome(&answer, 200, Some("filled"));
    assert!(answer.body == crate::source_cache::bytes_of(&image, &layer_of(&image)));
    proxy.stop();
}
