//! Several proxies, and keys that change.

use nix::sys::signal::Signal;

use crate::probe::reader::Reader;
use crate::probe::{KEY, OTHER_KEY, PLATFORM, Scene, blob, keys};
use crate::support::http::send;
use crate::support::proxy::Proxy;
use crate::support::until::until;

/// A proxy of its own before the same registry, which has converted the image too.
fn replica(scene: &Scene, data: &std::path::Path, options: &[&str]) -> Proxy {
    let options = [&PLATFORM[..], options].concat();
    let proxy = Proxy::start(&scene.registry.url(), data, &options);
    assert_eq!(
        crate::probe::layer_digests(&proxy.converted("app", "1")),
        scene.layers
    );
    proxy
}

/// How a range of an address is answered at another proxy.
fn status(address: &str, from: &Proxy, at: &Proxy) -> u16 {
    let address = address.replace(from.url(), at.url());
    send("GET", &address, &[("range", "bytes=0-99")], b"").status
}

#[test]
fn replicas_with_one_key_file_honour_each_others_addresses_and_others_do_not() {
    let scratch = tempfile::tempdir().unwrap();
    let (_, [option, path]) = keys(scratch.path(), &[KEY]);
    let with_key = [option.as_str(), path.as_str()];
    let Some(scene) = Scene::new(&with_key) else {
        return;
    };
    let second = replica(&scene, &scratch.path().join("second"), &with_key);
    let without = replica(&scene, &scratch.path().join("without"), &[]);
    let first = &scene.proxy;
    let address = scene.signed();
    assert_eq!(status(&address, first, first), 206);
    assert_eq!(status(&address, first, &second), 206);
    assert_eq!(status(&address, first, &without), 403);
    // A node that a balancer sends to the one without the file asks that one, and reads there.
    let url = blob(without.url(), "app", &scene.layers[0]);
    let mut reader = Reader::new();
    reader.remember(&url, &address.replace(first.url(), without.url()));
    assert_eq!(reader.read(&url, 0, 100).unwrap().status, 206);
    assert_eq!(reader.answers(0)[0], ("range", 403));
    let theirs = reader.address(&url).to_owned();
    assert_eq!(status(&theirs, &without, first), 403);
}

#[test]
fn keys_are_rotated_without_a_restart() {
    let scratch = tempfile::tempdir().unwrap();
    let (file, [option, path]) = keys(scratch.path(), &[KEY]);
    // Nothing of what was signed is remembered longer than a permission.
    let Some(scene) = Scene::new(&[&option, &path, "--auth-cache-ttl", "0"]) else {
        return;
    };
    let proxy = &scene.proxy;
    let old = scene.signed();
    let reload = |text: &str, count: usize| {
        std::fs::write(&file, text).unwrap();
        let before = proxy.log().matches("reload: reloaded").count();
        proxy.signal(Signal::SIGHUP);
        until("reloaded", || {
            (proxy.log().matches("reload: reloaded").count() > before).then_some(())
        });
        // It is looked at every other second, too.
        let refused = proxy.log().matches("the keys of addresses stay").count();
        assert!(refused.min(1) == count, "{}", proxy.log());
    };
    reload(&format!("{OTHER_KEY}\n{KEY}\n"), 0);
    let new = scene.signed();
    assert_eq!(status(&old, proxy, proxy), 206);
    assert_eq!(status(&new, proxy, proxy), 206);
    // A file that is no list of keys changes nothing.
    reload("too short\n", 1);
    assert_eq!(status(&old, proxy, proxy), 206);
    reload(&format!("{OTHER_KEY}\n"), 1);
    assert_eq!(status(&old, proxy, proxy), 403);
    assert_eq!(status(&new, proxy, proxy), 206);
    // By itself, too.
    std::fs::write(&file, format!("{KEY}\n#\n")).unwrap();
    until("the file is read again", || {
        (status(&new, proxy, proxy) == 403).then_some(())
    });
}
