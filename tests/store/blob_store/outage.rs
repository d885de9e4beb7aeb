//! A storage that is away, or breaks off; and processes that end in the middle.

use http::StatusCode;
use nix::sys::signal::Signal;

use crate::blob_store::{PLATFORM, empty, image, metric, parts, pull, tar};
use crate::support::http::{get, send};
use crate::support::image::{Image, layer_digests};
use crate::support::proxy::{Proxy, program};
use crate::support::registry::Registry;
use crate::support::s3::{Bucket, SECRET, options_of, with_credentials};
use crate::support::until::until;
use crate::support::{noise, sha256};

#[test]
fn without_its_bucket_a_replica_converts_serves_and_uploads_later() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    registry.push("app", "1", &image(21, 1));
    bucket.gate.fail(Some(StatusCode::SERVICE_UNAVAILABLE));
    let data = tempfile::tempdir().unwrap();
    let proxy = bucket.replica(&registry.url(), data.path(), &PLATFORM);
    let made = proxy.converted("app", "1");
    pull(&proxy, "app", &made);
    let ready = get(&format!("{}/readyz", proxy.admin()));
    assert_eq!(ready.status, 200);
    let text = ready.text();
    assert!(
        text.starts_with("degraded") && text.contains("blob store"),
        "{text}"
    );
    assert!(!proxy.log().contains(SECRET));
    bucket.gate.fail(None);
    for digest in parts(&made) {
        let object = until("the blob is in the bucket", || bucket.bytes(&digest));
        assert_eq!(sha256(&object), digest);
    }
    until("it is ready again", || {
        let ready = get(&format!("{}/readyz", proxy.admin()));
        (ready.text() == "ok\n").then_some(())
    });
    proxy.stop();
}

#[test]
fn one_blob_that_is_refused_holds_up_no_other() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    let tags = ["1", "2", "3"];
    for (number, tag) in (1..).zip(tags) {
        registry.push("app", tag, &image(25, number));
    }
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&registry.url(), data.path(), &PLATFORM);
    let made = tags.map(|tag| proxy.converted("app", tag));
    proxy.stop();
    let mut all: Vec<_> = made.iter().flat_map(parts).collect();
    // The directory is gone through in the order of digests.
    let refused = all.iter().min().unwrap().clone();
    let hex = refused.strip_prefix("sha256:").unwrap();
    bucket.gate.fail_where(hex, Some(StatusCode::FORBIDDEN));
    let proxy = bucket.replica(&registry.url(), data.path(), &PLATFORM);
    all.retain(|digest| *digest != refused);
    for digest in &all {
        let object = until("the blob is in the bucket", || bucket.bytes(digest));
        assert_eq!(sha256(&object), *digest);
    }
    assert_eq!(bucket.bytes(&refused), None);
    bucket.gate.fail_where(hex, None);
    until("the last is in the bucket", || bucket.bytes(&refused));
    proxy.stop();
}

#[test]
fn a_conversion_is_cancelled_while_it_uploads_and_the_upload_goes_on() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    let large = Image::gzip(&[tar("large", &noise(26, 20 << 20))]);
    registry.push("app", "1", &large.seal());
    let scratch = tempfile::tempdir().unwrap();
    let (token, data) = (scratch.path().join("token"), scratch.path().join("data"));
    std::fs::write(&token, "the-token-of-the-operator").unwrap();
    let options = [
        &PLATFORM[..],
        &["--admin-token-file", token.to_str().unwrap()],
    ]
    .concat();
    let proxy = bucket.replica(&registry.url(), &data, &options);
    let operator = [("authorization", "Bearer the-token-of-the-operator")];
    let conversions = format!("{}/api/v1/conversions", proxy.admin());
    let part = bucket.gate.hold("PUT", "partNumber=2");
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| proxy.get("app/manifests/1_obd"));
        part.wait();
        let running = send("GET", &conversions, &operator, b"").json();
        let id = &running["conversions"][0]["id"];
        let cancelled = send("DELETE", &format!("{conversions}/{id}"), &operator, b"");
        assert!(cancelled.status < 300, "{cancelled:?} {running}");
        asked.join().unwrap()
    });
    assert_eq!(answer.status, 503, "{answer:?}");
    let text = answer.text();
    assert!(text.contains("cancelled"), "{text}");
    // Nobody waits for the upload, which was not cut off.
    let layer = {
        let blobs = crate::support::proxy::blobs(&data);
        let read = blobs.iter().map(|path| std::fs::read(path).unwrap());
        sha256(&read.max_by_key(Vec::len).unwrap())
    };
    assert_eq!(bucket.bytes(&layer), None);
    part.release();
    let object = until("the blob is in the bucket", || bucket.bytes(&layer));
    assert_eq!(sha256(&object), layer);
    assert_eq!(bucket.gate.count("DELETE", "/blobs/"), 0);
    proxy.stop();
}

#[test]
fn a_download_that_breaks_off_is_no_blob() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    registry.push("app", "1", &image(22, 1));
    let data = tempfile::tempdir().unwrap();
    let proxy = bucket.replica(&registry.url(), data.path(), &PLATFORM);
    let made = proxy.converted("app", "1");
    empty(data.path());
    let layer = layer_digests(&made)[0].clone();
    let hex = layer.strip_prefix("sha256:").unwrap();
    let halt = bucket.gate.halt(hex, 100_000);
    std::thread::scope(|scope| {
        let pulled = scope.spawn(|| pull(&proxy, "app", &made));
        halt.wait();
        halt.cut();
        pulled.join().unwrap();
    });
    proxy.stop();
}

#[test]
fn a_process_that_is_killed_while_it_uploads_leaves_nothing_visible() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    let large = Image::gzip(&[tar("large", &noise(23, 20 << 20))]);
    registry.push("app", "1", &large.seal());
    let data = tempfile::tempdir().unwrap();
    let proxy = bucket.replica(&registry.url(), data.path(), &PLATFORM);
    let part = bucket.gate.hold("PUT", "partNumber=2");
    let layer = std::thread::scope(|scope| {
        let url = format!("{}/v2/app/manifests/1_obd", proxy.url());
        let asked = scope.spawn(move || crate::support::http::try_send("GET", &url, &[], b""));
        part.wait();
        proxy.signal(Signal::SIGKILL);
        assert!(asked.join().unwrap().is_err());
        // The layer is on the disk alone, and the largest file there.
        let blobs = crate::support::proxy::blobs(data.path());
        let read = blobs.iter().map(|path| std::fs::read(path).unwrap());
        sha256(&read.max_by_key(Vec::len).unwrap())
    });
    drop(proxy);
    part.release();
    assert_eq!(bucket.bytes(&layer), None);
    let proxy = bucket.replica(&registry.url(), data.path(), &PLATFORM);
    let made = proxy.converted("app", "1");
    assert_eq!(layer_digests(&made), std::slice::from_ref(&layer));
    let object = until("the blob is in the bucket", || bucket.bytes(&layer));
    assert_eq!(sha256(&object), layer);
    proxy.stop();
}

#[test]
fn a_bucket_that_cannot_be_used_is_said_at_the_start() {
    let Some(bucket) = Bucket::start() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let start = |secret: &str, place: &str, more: &[&str]| {
        let mut command = with_credentials(program());
        command.env("AWS_SECRET_ACCESS_KEY", secret);
        command.args(["serve", "--upstream", "registry.invalid"]);
        command.args(["--listen", "127.0.0.1:0", "--data-dir"]);
        command.arg(data.path().join("data"));
        command.args(options_of(place, &bucket.gate.url()));
        let output = command.args(more).output().unwrap();
        assert!(!output.status.success());
        let text = String::from_utf8(output.stderr).unwrap();
        let has_secret = text.contains(SECRET) || text.contains("not-the-secret");
        assert!(!has_secret, "{text}");
        text
    };
    let place = "s3://images/obd";
    let text = start("not-the-secret", place, &[]);
    let is_told = text.contains("was refused") && text.contains("s3:PutObject");
    assert!(is_told, "{text}");
    // This server makes a bucket that it lacks; all others answer so.
    bucket.gate.fail(Some(StatusCode::NOT_FOUND));
    let text = start(SECRET, place, &[]);
    bucket.gate.fail(None);
    assert!(text.contains("no such bucket"), "{text}");
    let file = data.path().join("credentials");
    std::fs::write(&file, "[default]\naws_access_key_id = x\n").unwrap();
    let named = ["--blob-store-credentials-file", file.to_str().unwrap()];
    let text = start(SECRET, place, &named);
    assert!(text.contains("aws_secret_access_key"), "{text}");
}

#[test]
fn credentials_come_from_a_file_that_is_read_again() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    registry.push("app", "1", &image(24, 1));
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("credentials");
    let write = |secret: &str| {
        let text = format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = {secret}\n",
            crate::support::s3::KEY_ID
        );
        std::fs::write(&file, text).unwrap();
    };
    write(SECRET);
    let mut command = with_credentials(program());
    command.env("AWS_SECRET_ACCESS_KEY", "not-the-secret");
    let options = bucket.options();
    let options = options.iter().map(String::as_str);
    let named = ["--blob-store-credentials-file", file.to_str().unwrap()];
    let options: Vec<&str> = options.chain(PLATFORM).chain(named).collect();
    let data = scratch.path().join("data");
    let proxy = Proxy::start_as(command, &registry.url(), &data, &options);
    write("rotated-and-wrong");
    let made = proxy.converted("app", "1");
    pull(&proxy, "app", &made);
    assert!(
        metric(&proxy, "blob_store_uploads_failed_total") + metric(&proxy, "blob_store_waiting")
            > 0
    );
    write(SECRET);
    for digest in parts(&made) {
        until("the blob is in the bucket", || bucket.bytes(&digest));
    }
    proxy.stop();
}
