//! The line of the log that each request has.

use ::http::StatusCode;
use serde_json::Value;

use crate::outside::{JSON, PLATFORM, image};
use crate::support::gate::Gate;
use crate::support::http::{self, Answer};
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
use crate::support::until::until;

/// `me:hunter2`, and a password in the place of the name.
const LOGIN: &str = "Basic bWU6aHVudGVyMg==";
const SECRET: &str = "hunter2";

struct Setting {
    registry: Registry,
    gate: Gate,
    proxy: Proxy,
    _data: tempfile::TempDir,
}

impl Setting {
    fn new() -> Option<Self> {
        let registry = Registry::start()?;
        registry.push("team/app", "1", &image(1));
        let gate = Gate::before(registry.address());
        let data = tempfile::tempdir().unwrap();
        let options = [
            &PLATFORM[..],
            &JSON,
            &["--auth-cache-ttl", "0", "--attempts", "1"],
        ]
        .concat();
        let upstream = format!("{},ns=hub.example", gate.url());
        let proxy = Proxy::start(&upstream, data.path(), &options);
        Some(Self {
            registry,
            gate,
            proxy,
            _data: data,
        })
    }

    /// Sends a request; its answer, and the line that the log has of it.
    #[track_caller]
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> (Answer, Value) {
        let url = format!("{}{path}", self.proxy.url());
        let headers = [&[("accept", http::ACCEPT)], headers].concat();
        let answer = http::send(method, &url, &headers, b"");
        let id = answer.header("x-request-id").unwrap().to_owned();
        // The line is written when the connection has taken the last byte.
        let line = until("the line of a request", || self.line(&id));
        (answer, line)
    }

    fn line(&self, id: &str) -> Option<Value> {
        let log = self.proxy.log();
        let mut lines = log.lines().filter(|line| line.starts_with('{'));
        lines.find_map(|line| {
            let event: Value = serde_json::from_str(line).ok()?;
            let is_access = event["target"] == "overlaybd_proxy::access";
            (is_access && event["span"]["id"] == id).then_some(event)
        })
    }

    #[track_caller]
    fn outcome(&self, path: &str) -> String {
        let (answer, line) = self.send("GET", path, &[]);
        assert_eq!(line["status"], answer.status, "{line}");
        line["outcome"].as_str().unwrap().to_owned()
    }
}

#[test]
fn a_request_is_logged_with_upstream_namespace_user_and_agent() {
    let Some(setting) = Setting::new() else {
        return;
    };
    let path = "/v2/team/app/manifests/1?ns=hub.example";
    let headers = [
        ("authorization", LOGIN),
        ("user-agent", "containerd/2.1\tfor a test"),
    ];
    let (answer, line) = setting.send("GET", path, &headers);
    assert_eq!(answer.status, 200, "{answer:?}");
    let gate = setting.gate.url();
    assert_eq!(line["upstream"], gate.trim_start_matches("http://"));
    assert_eq!(line["ns"], "hub.example", "{line}");
    assert_eq!(line["user"], "me", "{line}");
    assert_eq!(line["agent"], "containerd/2.1\\tfor a test", "{line}");
    assert_eq!(line["path"], "/v2/team/app/manifests/1", "{line}");
    assert_eq!(line["outcome"], "passed", "{line}");
    assert_eq!(line["bytes"], answer.body.len(), "{line}");
    let (first, all) = (&line["first_byte_ms"], &line["ms"]);
    assert!(first.as_u64().unwrap() <= all.as_u64().unwrap(), "{line}");

    // What is not there is not made up.
    let (_, line) = setting.send("GET", "/v2/", &[]);
    for field in ["ns", "user", "agent"] {
        assert!(line.get(field).is_none(), "{field}: {line}");
    }
    // No client fills the log.
    let long = "x".repeat(5000);
    let (_, line) = setting.send("GET", "/v2/", &[("user-agent", &long)]);
    let agent = line["agent"].as_str().unwrap();
    assert!(agent.len() < 300 && agent.starts_with("xxx"), "{agent}");

    // A name that is refused may be the password.
    setting.gate.fail(Some(StatusCode::UNAUTHORIZED));
    let (answer, line) = setting.send("GET", "/v2/other/manifests/1", &headers);
    assert_eq!(answer.status, 401, "{answer:?}");
    assert!(line.get("user").is_none(), "{line}");
    let log = setting.proxy.log();
    for secret in [SECRET, LOGIN] {
        assert!(!log.contains(secret), "{log}");
    }
    setting.proxy.stop();
}

#[test]
fn a_request_is_logged_with_what_came_of_it() {
    let Some(setting) = Setting::new() else {
        return;
    };
    let converted = "/v2/team/app/manifests/1_obd";
    assert_eq!(setting.outcome(converted), "converted");
    assert_eq!(setting.outcome(converted), "hit");
    let (manifest, _) = setting.send("GET", converted, &[]);
    let layer = manifest.json()["layers"][0]["digest"].clone();
    let layer = format!("/v2/team/app/blobs/{}", layer.as_str().unwrap());
    assert_eq!(setting.outcome(&layer), "hit");
    let (_, line) = setting.send("HEAD", &layer, &[]);
    assert_eq!(line["outcome"], "hit", "{line}");
    let (_, line) = setting.send("GET", &layer, &[("user-agent", "overlaybd/1.0")]);
    assert_eq!(line["outcome"], "redirected", "{line}");
    assert_eq!(setting.outcome("/v2/team/app/manifests/1"), "passed");
    // The upstream's word, too.
    assert_eq!(setting.outcome("/v2/team/app/manifests/none"), "passed");
    assert_eq!(setting.outcome("/elsewhere"), "refused");
    assert_eq!(setting.outcome("/v2/a/tags/list?ns=nowhere"), "refused");
    // What was allowed before is served while the upstream is away.
    setting.gate.fail(Some(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(setting.outcome(converted), "stale");
    assert_eq!(setting.outcome(&layer), "stale");
    let (answer, line) = setting.send("GET", "/v2/other/manifests/1_obd", &[]);
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(line["outcome"], "failed", "{line}");
    setting.gate.fail(None);
    setting.proxy.stop();
    drop(setting.registry);
}
