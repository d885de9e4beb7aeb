//! The same at a running proxy, and the verification of its blobs.

use std::fs::{self, File};

use serde_json::{Value, json};

use crate::pins::{Place, converted, good, image, json, path_of, send, sha256, text, there};
use crate::support::http;
use crate::support::until::until;

const OPTIONS: [&str; 4] = ["--platform", "linux/amd64", "--scrub", "off"];

/// A list without the times of use: what another process uses is recorded a little late.
fn without_uses(mut list: Value) -> Value {
    for blob in list["blobs"].as_array_mut().into_iter().flatten() {
        let used = blob.as_object_mut().unwrap().remove("last_use");
        assert!(used.is_some_and(|used| used.is_u64()), "{blob}");
    }
    list
}

#[test]
fn an_image_is_pinned_by_its_name_at_a_running_proxy() {
    let place = Place::new();
    place.layout.add("a", &image(1));
    place.layout.add("b", &image(2));
    let proxy = place.proxy(&OPTIONS);
    let early = place.ask(&proxy, &["cache", "pin", "app:a"]);
    assert_eq!(early.status.code(), Some(4), "{early:?}");
    assert!(text(&early.stderr).contains("jobs start"), "{early:?}");
    let ((manifest, blobs), (other, _)) = (converted(&proxy, "a"), converted(&proxy, "b"));

    let line = good(&place.ask(&proxy, &["cache", "pin", "app:a"]));
    assert!(
        line.starts_with(&format!("pinned {manifest}  4 blobs, ")),
        "{line}"
    );
    for arguments in [&["ls", "--json"][..], &["ls", "--pins", "--json"]] {
        let asked = [&["cache"], arguments].concat();
        assert_eq!(
            without_uses(json(&place.ask(&proxy, &asked))),
            without_uses(json(&place.cache(arguments)))
        );
    }
    let pins = json(&place.cache(&["ls", "--pins", "--json"]));
    assert_eq!(pins["pins"][0]["digest"], manifest);
    let status = good(&place.ask(&proxy, &["status"]));
    assert!(status.contains("pinned       4 blobs, "), "{status}");
    let summary = http::get(&format!("{}/api/v1/cache", proxy.admin())).json();
    assert_eq!(summary["pinned"]["blobs"], 4);
    assert_eq!(summary["pinned"]["bytes"], pins["pins"][0]["bytes"]);

    let refused = place.ask(&proxy, &["cache", "rm", &manifest]);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    assert!(text(&refused.stderr).contains("cache unpin"), "{refused:?}");
    let refused = send(
        &proxy,
        "DELETE",
        &format!("/cache/blobs/{manifest}"),
        &Value::Null,
    );
    assert_eq!(refused.status, 409, "{refused:?}");
    good(&place.ask(&proxy, &["cache", "rm", &other]));
    assert!(!there(&place.data()).contains(&other));

    let gc = |more: &[&str]| {
        let arguments = [&["cache", "gc", "--to", "0", "--json"], more].concat();
        json(&place.ask(&proxy, &arguments))
    };
    let planned = gc(&["--dry-run"]);
    assert_eq!(planned["blobs"], 2, "{planned}");
    until("what was read is closed", || {
        gc(&[]);
        (there(&place.data()) == blobs).then_some(())
    });
    // An eviction without a body is one to the bound, as before.
    let bare = send(&proxy, "POST", "/cache/evictions", &Value::Null);
    assert_eq!(bare.json(), json!({ "bytes_freed": 0 }));

    let line = good(&place.ask(&proxy, &["cache", "unpin", &manifest]));
    assert_eq!(line, format!("unpinned {manifest}\n"));
    let again = place.ask(&proxy, &["cache", "unpin", &manifest]);
    assert_eq!(again.status.code(), Some(4), "{again:?}");
    until("nothing is kept", || {
        gc(&[]);
        there(&place.data()).is_empty().then_some(())
    });
    let both = place.ask(&proxy, &["cache", "ls", "--data-dir", "/tmp"]);
    assert_eq!(both.status.code(), Some(2), "{both:?}");
    let part = text(&both.stderr);
    assert!(
        part.contains("--admin") && part.contains("leave one of them out"),
        "{part}"
    );
    proxy.stop();
}

#[test]
fn a_running_proxy_says_when_pins_exceed_its_bound() {
    let place = Place::new();
    place.layout.add("a", &image(1));
    let proxy = place.proxy(&[&OPTIONS[..], &["--cache-size", "0"]].concat());
    let (manifest, _) = converted(&proxy, "a");
    let pinned = place.ask(&proxy, &["cache", "pin", &manifest]);
    good(&pinned);
    assert!(
        text(&pinned.stderr).contains("raise --cache-size"),
        "{pinned:?}"
    );
    let status = good(&place.ask(&proxy, &["status"]));
    assert!(status.contains(" of --cache-size"), "{status}");
    proxy.stop();
}

#[test]
fn a_running_proxy_verifies_its_blobs() {
    let place = Place::new();
    place.layout.add("a", &image(1));
    let proxy = place.proxy(&OPTIONS);
    let (manifest, blobs) = converted(&proxy, "a");
    let verify = |more: &[&str]| place.ask(&proxy, &[&["cache", "verify"], more].concat());
    let sound = good(&verify(&[]));
    assert!(
        sound.contains("verified 4 blobs") && sound.contains(" 0 damaged"),
        "{sound}"
    );

    let path = path_of(&place.data(), &manifest);
    let mut bytes = fs::read(&path).unwrap();
    bytes[7] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let found = verify(&["--dry-run", "--json"]);
    assert_eq!(found.status.code(), Some(7), "{found:?}");
    let events: Vec<Value> = text(&found.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let damaged = events.iter().find(|event| event["event"] == "damaged");
    assert_eq!(damaged.unwrap()["digest"], manifest);
    assert_eq!(damaged.unwrap()["path"], path.to_str().unwrap());
    let last = events.last().unwrap();
    assert_eq!(
        (&last["event"], &last["damaged"]),
        (&"verified".into(), &1.into())
    );
    assert!(path.exists());
    let found = verify(&[]);
    assert_eq!(found.status.code(), Some(7), "{found:?}");
    assert!(text(&found.stdout).contains("; moved to "), "{found:?}");
    assert!(!path.exists());
    // In the data directory, it is what `store verify` does.
    let beside = good(&place.cache(&["verify"]));
    assert!(
        beside.contains("verified 3 blobs") && beside.contains(" 0 damaged"),
        "{beside}"
    );
    assert_eq!(blobs.len(), 4);
    proxy.stop();
}

#[test]
fn one_verification_runs_at_a_time_and_can_be_cancelled() {
    let place = Place::new();
    place.layout.add("a", &image(1));
    let proxy = place.proxy(&OPTIONS);
    converted(&proxy, "a");
    // Too long for this test to be read to its end.
    let long = path_of(&place.data(), &sha256(b"long"));
    fs::create_dir_all(long.parent().unwrap()).unwrap();
    File::create(&long).unwrap().set_len(1 << 40).unwrap();
    let path = "/cache/verification";
    let begun = send(&proxy, "POST", path, &json!({}));
    assert_eq!(
        (begun.status, &begun.json()["state"]),
        (202, &"running".into())
    );
    let second = place.ask(&proxy, &["cache", "verify"]);
    assert_eq!(second.status.code(), Some(4), "{second:?}");
    assert!(text(&second.stderr).contains("is under way"), "{second:?}");
    let state = || http::get(&format!("{}/api/v1{path}", proxy.admin())).json();
    until("bytes are read", || {
        state()["bytes"].as_u64().filter(|bytes| *bytes > 0)
    });
    assert_eq!(send(&proxy, "DELETE", path, &Value::Null).status, 202);
    let ended = until("it ends", || {
        let state = state();
        (state["state"] != "running").then_some(state)
    });
    assert_eq!(ended["state"], "cancelled");
    assert!(ended["bytes"].as_u64() < ended["of"].as_u64(), "{ended}");
    assert_eq!(send(&proxy, "DELETE", path, &Value::Null).status, 409);
    assert!(long.exists());
    fs::remove_file(&long).unwrap();
    assert_eq!(send(&proxy, "POST", path, &json!({})).status, 202);
    proxy.stop();
}
