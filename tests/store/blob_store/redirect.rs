//! Clients that are sent to the bucket.

use crate::blob_store::{PLATFORM, empty, image, metric, pull};
use crate::support::http::{get, send};
use crate::support::image::layer_digests;
use crate::support::registry::Registry;
use crate::support::s3::Bucket;
use crate::support::until::until;
use crate::support::{command, have, noise, run, sha256};

const REDIRECT: [&str; 3] = ["--blob-store-redirect", "--url-ttl", "5m"];

#[test]
fn a_reader_is_sent_to_the_bucket_and_reads_there() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    if !have(&["curl"]) {
        return;
    }
    registry.push("app", "1", &image(31, 1));
    let data = tempfile::tempdir().unwrap();
    let options = [&PLATFORM[..], &REDIRECT].concat();
    let proxy = bucket.replica(&registry.url(), data.path(), &options);
    let made = proxy.converted("app", "1");
    let layer = layer_digests(&made)[0].clone();
    let url = format!("{}/v2/app/blobs/{layer}", proxy.url());

    let answer = send("GET", &url, &[], b"");
    assert_eq!(answer.status, 307, "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("private, no-store"));
    let address = answer.header("location").unwrap().to_owned();
    assert!(address.starts_with(&bucket.gate.url()), "{address}");
    assert!(address.contains("X-Amz-Expires=300&"), "{address}");
    // Whoever has the address needs nothing else; whoever changes it has nothing.
    let whole = get(&address);
    assert_eq!((whole.status, sha256(&whole.body)), (200, layer.clone()));
    let part = send("GET", &address, &[("range", "bytes=1000-1999")], b"");
    assert_eq!(
        (part.status, &part.body[..]),
        (206, &whole.body[1000..2000])
    );
    let other = layer_digests(&made)[1].clone();
    let hex = |digest: &str| digest.strip_prefix("sha256:").unwrap().to_owned();
    let path = |digest: &str| format!("{}/{}", &hex(digest)[..2], hex(digest));
    let forged = address.replace(&path(&layer), &path(&other));
    assert_ne!(forged, address);
    assert_eq!(get(&forged).status, 403);
    assert_eq!(send("PUT", &address, &[], b"x").status, 403);
    assert!(!proxy.log().contains("X-Amz-Signature"));

    // HEAD tells of the blob itself.
    let head = send("HEAD", &url, &[], b"");
    assert_eq!(head.status, 200);
    let length = whole.body.len().to_string();
    assert_eq!(head.header("content-length"), Some(&*length));

    // curl, as most clients do, follows; with its range.
    let followed = |more: &[&str]| {
        let mut curl = command("curl");
        curl.args(["-sSfL", "--user", "some:one"])
            .args(more)
            .arg(&url);
        run(&mut curl).stdout
    };
    assert_eq!(followed(&[]), whole.body);
    assert_eq!(followed(&["-r", "5-9"]), whole.body[5..10]);

    // overlaybd remembers where its GET leads; what it asks for in ranges is answered.
    let agent = ("user-agent", "overlaybd/1.0.16");
    let probe = send("GET", &url, &[agent, ("range", "bytes=0-0")], b"");
    assert_eq!(probe.status, 206, "{probe:?}");
    let opened = send("GET", &url, &[agent], b"");
    assert_eq!(opened.status, 307, "{opened:?}");
    assert!(
        opened
            .header("location")
            .unwrap()
            .starts_with(&bucket.gate.url())
    );
    assert!(metric(&proxy, "blob_store_redirects_total") >= 4);
    proxy.stop();
}

#[test]
fn nobody_is_sent_to_bytes_that_this_process_has_not_seen() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    registry.push("app", "1", &image(32, 1));
    let data = tempfile::tempdir().unwrap();
    let options = [&PLATFORM[..], &REDIRECT].concat();
    let proxy = bucket.replica(&registry.url(), data.path(), &options);
    let made = proxy.converted("app", "1");
    let layers = layer_digests(&made);
    proxy.stop();
    empty(data.path());
    // The object of one layer is replaced, by a writer who writes what he likes.
    let object = bucket.object(&layers[0]);
    let bytes = std::fs::read(&object).unwrap();
    std::fs::write(&object, noise(1, bytes.len())).unwrap();

    let proxy = bucket.replica(&registry.url(), data.path(), &options);
    let blob = |digest: &str| {
        let url = format!("{}/v2/app/blobs/{digest}", proxy.url());
        send("GET", &url, &[], b"")
    };
    // Bytes, and right ones: the first to ask has the blob made again, and the object replaced.
    let answer = blob(&layers[0]);
    let found = (answer.status, sha256(&answer.body));
    assert_eq!(found, (200, layers[0].clone()));
    // From then on, readers are sent to what is right.
    for layer in &layers {
        let address = until("readers are sent to the bucket", || {
            let answer = blob(layer);
            answer.header("location").map(str::to_owned)
        });
        assert_eq!(sha256(&get(&address).body), *layer);
    }
    // An object that was replaced since is another one.
    let object = bucket.object(&layers[1]);
    std::fs::remove_file(&object).unwrap();
    let answer = blob(&layers[1]);
    assert_eq!(
        (answer.status, sha256(&answer.body)),
        (200, layers[1].clone())
    );
    proxy.stop();
}

#[test]
fn whoever_may_not_have_the_bytes_gets_no_address() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    if !have(&["htpasswd"]) {
        return;
    }
    registry.push("app", "1", &image(33, 1));
    let scratch = tempfile::tempdir().unwrap();
    let users = scratch.path().join("users");
    let mut htpasswd = command("htpasswd");
    htpasswd.args(["-cbB", users.to_str().unwrap(), "bob", "quite-secret"]);
    run(&mut htpasswd);
    let own = ["--own-credentials", "--htpasswd", users.to_str().unwrap()];
    let options = [&PLATFORM[..], &REDIRECT, &own].concat();
    let data = scratch.path().join("data");
    let proxy = bucket.replica(&registry.url(), &data, &options);
    // bob:quite-secret
    let bob = [("authorization", "Basic Ym9iOnF1aXRlLXNlY3JldA==")];
    let manifest = format!("{}/v2/app/manifests/1_obd", proxy.url());
    let made = send("GET", &manifest, &bob, b"").json();
    let layer = layer_digests(&made)[0].clone();
    let url = format!("{}/v2/app/blobs/{layer}", proxy.url());
    assert_eq!(send("GET", &url, &bob, b"").status, 307);
    for headers in [&[][..], &[("authorization", "Basic Ym9iOndyb25n")]] {
        let answer = send("GET", &url, headers, b"");
        assert_eq!(answer.status, 401, "{answer:?}");
        assert_eq!(answer.header("location"), None);
    }
    // A digest that belongs to another repository is none here.
    let elsewhere = format!("{}/v2/other/blobs/{layer}", proxy.url());
    let answer = send("GET", &elsewhere, &bob, b"");
    assert_eq!((answer.status, answer.header("location")), (404, None));
    proxy.stop();
}

#[test]
fn a_bucket_that_does_not_answer_holds_up_no_reader() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    if !have(&["curl"]) {
        return;
    }
    registry.push("app", "1", &image(35, 1));
    let data = tempfile::tempdir().unwrap();
    let options = [&PLATFORM[..], &REDIRECT].concat();
    let proxy = bucket.replica(&registry.url(), data.path(), &options);
    let made = proxy.converted("app", "1");
    let layers = layer_digests(&made);
    // This is never answered.
    let hex = layers[0].strip_prefix("sha256:").unwrap();
    let _question = bucket.gate.hold("HEAD", hex);
    for layer in &layers {
        let url = format!("{}/v2/app/blobs/{layer}", proxy.url());
        let mut curl = command("curl");
        // Half of what the storage has for an answer.
        curl.args(["-sSf", "--max-time", "15", &url]);
        assert_eq!(sha256(&run(&mut curl).stdout), *layer);
    }
    let ready = get(&format!("{}/readyz", proxy.admin())).text();
    let is_told = ready.starts_with("degraded") && ready.contains("no answer within");
    assert!(is_told, "{ready}");
    proxy.stop();
}

#[test]
fn without_the_option_bytes_are_answered() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    registry.push("app", "1", &image(34, 1));
    let data = tempfile::tempdir().unwrap();
    let proxy = bucket.replica(&registry.url(), data.path(), &PLATFORM);
    let made = proxy.converted("app", "1");
    pull(&proxy, "app", &made);
    assert_eq!(metric(&proxy, "blob_store_redirects_total"), 0);
    proxy.stop();
}
