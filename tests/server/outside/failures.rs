//! A conversion that failed is not begun by every retry; nobody gets a failure that is another's.

use ::http::StatusCode;
use serde_json::Value;

use crate::outside::{JSON, PLATFORM, events, image};
use crate::support::gate::Gate;
use crate::support::http::{self, Answer};
use crate::support::image::{Image, Sealed, gzip};
use crate::support::noise;
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
use crate::support::tar::Tar;

const BEGINS: &str = "a conversion begins";

const TOKEN: &str = "0123456789abcdef";

/// An image whose layer is cut off: what there is of it has the digest that the manifest says.
fn broken() -> Sealed {
    let tar = Tar::new().file("file", noise(7, 200_000)).finish();
    let packed = gzip(&tar);
    let mut image = Image::gzip(&[tar]);
    image.layers[0].bytes = packed[..packed.len() / 2].to_vec();
    image.manifest["layers"][0] = image.layers[0].descriptor();
    image.seal()
}

struct Setting {
    _registry: Registry,
    gate: Gate,
    proxy: Proxy,
    _data: tempfile::TempDir,
}

impl Setting {
    fn new(images: &[(&str, &Sealed)], options: &[&str]) -> Option<Self> {
        let registry = Registry::start()?;
        for (tag, image) in images {
            registry.push("team/app", tag, image);
        }
        let gate = Gate::before(registry.address());
        let data = tempfile::tempdir().unwrap();
        let token = registry.directory().join("token");
        std::fs::write(&token, TOKEN).unwrap();
        let token = ["--admin-token-file", token.to_str().unwrap()];
        let options = [&PLATFORM[..], &JSON, &["--attempts", "1"], &token, options].concat();
        let proxy = Proxy::start(&gate.url(), data.path(), &options);
        Some(Self {
            _registry: registry,
            gate,
            proxy,
            _data: data,
        })
    }

    fn pull(&self, tag: &str) -> Answer {
        self.proxy.get(&format!("team/app/manifests/{tag}_obd"))
    }

    fn downloads(&self, image: &Sealed) -> usize {
        self.gate.count("GET", &image.blobs[1].digest())
    }

    fn failures(&self) -> Vec<Value> {
        let url = format!("{}/api/v1/failures", self.proxy.admin());
        let answer = http::get(&url);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["failures"].as_array().unwrap().clone()
    }

    fn forget(&self, query: &str) -> Answer {
        let url = format!("{}/api/v1/failures{query}", self.proxy.admin());
        let bearer = format!("Bearer {TOKEN}");
        http::send("DELETE", &url, &[("authorization", &bearer)], b"")
    }
}

/// The text of an error, which must say that it is one from before, and when to ask again.
#[track_caller]
fn remembered(answer: &Answer) -> String {
    let retry: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=300).contains(&retry), "{answer:?}");
    let errors = answer.json()["errors"].clone();
    let text = errors[0]["message"].as_str().unwrap().to_owned();
    assert!(text.contains("remembered from "), "{text}");
    text
}

#[test]
fn a_broken_image_asked_for_twenty_times_begins_one_conversion() {
    let image = broken();
    let Some(setting) = Setting::new(&[("1", &image)], &["--failure-ttl", "5m"]) else {
        return;
    };
    let first = setting.pull("1");
    assert_eq!(first.status, 400, "{first:?}");
    assert_eq!(first.header("retry-after"), None, "{first:?}");
    for _ in 0..19 {
        let again = setting.pull("1");
        assert_eq!(again.status, 400, "{again:?}");
        let text = remembered(&again);
        // It is the same error otherwise.
        let begun = first.json()["errors"][0]["message"].clone();
        assert!(text.starts_with(begun.as_str().unwrap()), "{text}");
    }
    assert_eq!(setting.downloads(&image), 1);
    assert_eq!(events(&setting.proxy, BEGINS).len(), 1);

    let failures = setting.failures();
    assert_eq!(failures.len(), 1, "{failures:?}");
    let failure = &failures[0];
    assert_eq!(failure["repository"], "team/app");
    assert_eq!(failure["tag"], "1");
    assert_eq!(failure["source"], image.digest());
    assert_eq!(failure["format"], "native");
    assert_eq!(failure["fault"], "image");
    assert_eq!(failure["times_returned"], 19);
    assert!(failure["retry_after_seconds"].as_u64().unwrap() <= 300);
    assert!(failure["error"].as_str().unwrap().contains("inflate"));

    // What is meant must be said in full.
    assert_eq!(setting.forget("?repo=team/app").status, 400);
    for other in ["?repository=other", "?repository=team/app&source=sha256:1"] {
        let answer = setting.forget(other);
        assert_eq!(answer.json()["forgotten"], 0, "{other}: {answer:?}");
    }
    assert_eq!(setting.failures().len(), 1);
    let query = format!("?repository=team/app&source={}", image.digest());
    assert_eq!(setting.forget(&query).json()["forgotten"], 1);
    assert_eq!(setting.failures(), Vec::<Value>::new());

    let anew = setting.pull("1");
    assert_eq!(anew.status, 400, "{anew:?}");
    assert_eq!(anew.header("retry-after"), None, "{anew:?}");
    assert_eq!(setting.downloads(&image), 2);
    assert_eq!(events(&setting.proxy, BEGINS).len(), 2);
    // All of them.
    assert_eq!(setting.forget("").json()["forgotten"], 1);
    setting.proxy.stop();
}

#[test]
fn each_request_begins_a_conversion_with_a_time_of_zero() {
    let image = broken();
    let Some(setting) = Setting::new(&[("1", &image)], &["--failure-ttl", "0"]) else {
        return;
    };
    for number in 1..4 {
        let answer = setting.pull("1");
        assert_eq!(answer.status, 400, "{answer:?}");
        assert_eq!(setting.downloads(&image), number);
    }
    assert_eq!(setting.failures(), Vec::<Value>::new());
    setting.proxy.stop();
}

#[test]
fn what_was_refused_to_one_client_is_not_remembered_for_others() {
    let image = image(1);
    let Some(setting) = Setting::new(&[("1", &image)], &["--failure-ttl", "5m"]) else {
        return;
    };
    let layer = image.blobs[1].digest();
    for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN] {
        setting.gate.fail_where(&layer, Some(status));
        let refused = setting.pull("1");
        assert!(refused.status >= 400, "{status}: {refused:?}");
        assert_eq!(setting.failures(), Vec::<Value>::new(), "{status}");
    }
    // Nor that the registry does not show it to a client.
    setting.gate.fail_where(&layer, Some(StatusCode::NOT_FOUND));
    let missing = setting.pull("1");
    assert_eq!(missing.status, 502, "{missing:?}");
    assert_eq!(setting.failures(), Vec::<Value>::new());
    setting.gate.fail_where(&layer, None);
    let allowed = setting.pull("1");
    assert_eq!(allowed.status, 200, "{allowed:?}");
    setting.proxy.stop();
}

#[test]
fn a_failing_upstream_is_asked_again_when_the_failure_is_forgotten() {
    let image = image(1);
    let Some(setting) = Setting::new(&[("1", &image)], &["--failure-ttl", "5m"]) else {
        return;
    };
    let layer = image.blobs[1].digest();
    setting
        .gate
        .fail_where(&layer, Some(StatusCode::INTERNAL_SERVER_ERROR));
    let failed = setting.pull("1");
    assert_eq!(failed.status, 502, "{failed:?}");
    let failures = setting.failures();
    assert_eq!(failures[0]["fault"], "upstream", "{failures:?}");
    // Not for as long as the fault of an image is.
    assert!(failures[0]["retry_after_seconds"].as_u64().unwrap() <= 10);
    assert_eq!(setting.forget("").status, 200);
    setting.gate.fail_where(&layer, None);
    let mended = setting.pull("1");
    assert_eq!(mended.status, 200, "{mended:?}");
    assert_eq!(setting.failures(), Vec::<Value>::new());
    setting.proxy.stop();
}
