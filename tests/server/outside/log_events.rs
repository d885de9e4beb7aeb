//! The log tells what the proxy was started as, and of each conversion that it began, how it ended
//! and for whom; in fields that programs can read.

use ::http::StatusCode;

use crate::outside::{JSON, PLATFORM, converted_layer, events, image, wait_for_events};
use crate::support::gate::Gate;
use crate::support::http;
use crate::support::image::Image;
use crate::support::layout::Layout;
use crate::support::noise;
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
use crate::support::tar::Tar;

/// The password of `me`, and how a client sends the two.
const SECRET: &str = "hunter2";
const LOGIN: &str = "Basic bWU6aHVudGVyMg==";

#[test]
fn the_first_line_says_what_was_started() {
    let scratch = tempfile::tempdir().unwrap();
    // Nothing is asked of it.
    let upstream = "http://127.0.0.1:9,ns=registry.example";
    let data = scratch.path().join("data");
    let login = format!("me:{SECRET}");
    let options = [
        &JSON[..],
        &["--user", &login, "--own-credentials", "--max-waiting", "77"],
        &[
            "--cache-size",
            "5GiB",
            "--failure-ttl",
            "2m",
            "--hold",
            "9s",
        ],
    ]
    .concat();
    let proxy = Proxy::start(upstream, &data, &options);
    let started = wait_for_events(&proxy, "serving", 1);
    let line = &started[0];
    assert_eq!(line["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(line["data_dir"], data.display().to_string());
    assert_eq!(line["index"], "SQLite");
    assert_eq!(line["max_waiting"], 77);
    assert_eq!(line["cache_size"], (5_u64 << 30).to_string());
    assert_eq!(line["failure_ttl"], "2m");
    assert_eq!(line["hold"], "9s");
    assert_eq!(line["push"], "off");
    assert_eq!(line["listen"], proxy.host());
    assert_eq!(line["upstreams"], "127.0.0.1:9,ns=registry.example");
    assert!(line["access"].as_str().unwrap().contains("the proxy's"));
    assert!(!proxy.log().contains(SECRET), "{}", proxy.log());
    proxy.stop();
}

#[test]
fn a_conversion_is_told_from_its_beginning_to_its_end() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let lower = Tar::new().file("lower", noise(1, 20_000)).finish();
    let upper = Tar::new().file("upper", noise(2, 30_000)).finish();
    let first = Image::gzip(std::slice::from_ref(&lower)).seal();
    let second = Image::gzip(&[lower, upper]).seal();
    registry.push("team/app", "1", &first);
    registry.push("team/app", "2", &second);
    let data = tempfile::tempdir().unwrap();
    let options = [&PLATFORM[..], &JSON, &["--push"]].concat();
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    let pull = |tag: &str| {
        let url = format!("{}/v2/team/app/manifests/{tag}_obd", proxy.url());
        let headers = [
            ("accept", http::ACCEPT),
            ("authorization", LOGIN),
            ("x-request-id", "request-of-the-test"),
        ];
        let answer = http::send("GET", &url, &headers, b"");
        assert_eq!(answer.status, 200, "{answer:?}\n{}", proxy.log());
        answer
    };
    pull("1");
    let converted = pull("2");
    // It was converted before, and nothing is told of it.
    pull("2");

    let begun = events(&proxy, "a conversion begins");
    let ended = wait_for_events(&proxy, "an image was converted", 2);
    assert_eq!((begun.len(), ended.len()), (2, 2), "{}", proxy.log());
    for (events, tag, source) in [
        ([&begun[0], &ended[0]], "1", &first),
        ([&begun[1], &ended[1]], "2", &second),
    ] {
        for event in events {
            assert_eq!(event["upstream"], registry.address(), "{event}");
            assert_eq!(event["repo"], "team/app", "{event}");
            assert_eq!(event["tag"], tag, "{event}");
            assert_eq!(event["source"], source.digest(), "{event}");
            assert_eq!(event["format"], "native", "{event}");
            assert_eq!(event["user"], "me", "{event}");
            assert_eq!(event["request"], "request-of-the-test", "{event}");
            let client = event["client"].as_str().unwrap();
            assert!(client.starts_with("127.0.0.1:"), "{event}");
        }
    }
    let end = &ended[1];
    assert_eq!(end["platforms"], "linux/amd64", "{end}");
    assert_eq!(end["layers_found"], 1, "{end}");
    assert_eq!(end["layers_made"], 1, "{end}");
    let size = second.blobs[2].bytes.len();
    assert_eq!(end["bytes_in"], size, "{end}");
    let manifest = converted.json();
    assert_eq!(end["bytes_out"], manifest["layers"][1]["size"], "{end}");
    assert_eq!(
        end["digest"].as_str(),
        converted.header("docker-content-digest"),
        "{end}"
    );
    assert!(end["seconds"].as_f64().unwrap() > 0.0, "{end}");

    // What came of it in the registry.
    let layers = events(&proxy, "a converted layer was pushed");
    assert_eq!(layers.len(), 2, "{layers:?}");
    for (place, layer) in layers.iter().enumerate() {
        assert_eq!(layer["digest"], manifest["layers"][place]["digest"]);
        assert_eq!(layer["bytes"], manifest["layers"][place]["size"]);
        assert_eq!(layer["repo"], "team/app");
        assert_eq!(layer["registry"], registry.address());
    }
    let images = events(&proxy, "a converted image was pushed");
    assert_eq!(images[1]["digest"], end["digest"], "{images:?}");
    let tags = wait_for_events(&proxy, "a converted image got its tag", 2);
    let tags: Vec<_> = tags
        .iter()
        .map(|tag| tag["tag"].as_str().unwrap())
        .collect();
    assert!(
        tags.contains(&"1_obd") && tags.contains(&"2_obd"),
        "{tags:?}"
    );
    assert!(!proxy.log().contains(SECRET), "{}", proxy.log());
    proxy.stop();
}

#[test]
fn a_failed_conversion_names_the_image_and_the_cause() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let image = image(3);
    let source = registry.push("team/app", "3", &image);
    let gate = Gate::before(registry.address());
    let layer = image.blobs[1].digest();
    gate.fail_where(&layer, Some(StatusCode::BAD_GATEWAY));
    let data = tempfile::tempdir().unwrap();
    let options = [&PLATFORM[..], &JSON, &["--attempts", "1"]].concat();
    let proxy = Proxy::start(&gate.url(), data.path(), &options);
    let answer = proxy.get("team/app/manifests/3_obd");
    assert_eq!(answer.status, 502, "{answer:?}");
    let failed = events(&proxy, "an image was not converted");
    assert_eq!(failed.len(), 1, "{}", proxy.log());
    let event = &failed[0];
    assert_eq!(event["level"], "WARN");
    assert_eq!(event["repo"], "team/app");
    assert_eq!(event["tag"], "3");
    assert_eq!(event["source"], source);
    assert_eq!(event["fault"], "upstream");
    let error = event["error"].as_str().unwrap();
    assert!(error.contains(&layer) && error.contains("502"), "{error}");
    assert!(event["client"].as_str().is_some(), "{event}");
    // Nobody has a name here.
    assert!(event.get("user").is_none(), "{event}");
    proxy.stop();
}

#[test]
fn an_eviction_names_the_blob_its_size_and_the_reason() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    for number in 0..8 {
        let tar = Tar::new().file("file", noise(number, 1 << 20)).finish();
        layout.add(&number.to_string(), &Image::gzip(&[tar]).seal());
    }
    let upstream = format!("oci:{}", layout.path().display());
    let options = [&JSON[..], &["--cache-size", "3MiB", "--keep", "0"]].concat();
    let proxy = Proxy::start(&upstream, &scratch.path().join("data"), &options);
    for number in 0..8 {
        converted_layer(&proxy, "demo", &number.to_string());
    }
    let evicted = wait_for_events(&proxy, EVICTED, 1);
    let event = &evicted[0];
    let digest = event["digest"].as_str().unwrap();
    assert!(digest.starts_with("sha256:"), "{event}");
    assert!(event["bytes"].as_u64().unwrap() > 0, "{event}");
    assert_eq!(event["why"], "the blobs exceed the cache size", "{event}");
    proxy.stop();
}

const EVICTED: &str = "a blob was evicted; it is made again when it is requested";
