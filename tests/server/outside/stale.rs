//! What is served while the upstream fails, by what it said before.

use http::StatusCode;

use crate::outside::{PLATFORM, converted_layer, image};
use crate::support::gate::Gate;
use crate::support::http::Answer;
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;

/// Each question is asked anew, and once.
const OPTIONS: [&str; 6] = ["--auth-cache-ttl", "0", "--attempts", "1", "--hold", "4s"];

struct Setting {
    registry: Registry,
    gate: Gate,
    proxy: Proxy,
    _data: tempfile::TempDir,
    /// What was read before: the image's manifest and its layer.
    known: [String; 2],
}

impl Setting {
    fn new(more: &[&str]) -> Option<Self> {
        let registry = Registry::start()?;
        registry.push("app", "1", &image(1));
        registry.push("app", "2", &image(2));
        let gate = Gate::before(registry.address());
        let data = tempfile::tempdir().unwrap();
        let options = [&PLATFORM[..], &OPTIONS, more].concat();
        let proxy = Proxy::start(&gate.url(), data.path(), &options);
        let layer = converted_layer(&proxy, "app", "1");
        let fresh = proxy.get(&layer);
        assert_eq!(fresh.status, 200);
        assert_eq!((fresh.header("age"), fresh.header("warning")), (None, None));
        Some(Self {
            registry,
            gate,
            proxy,
            _data: data,
            known: ["app/manifests/1_obd".to_owned(), layer],
        })
    }

    fn stale_permissions(&self) -> u64 {
        let name = "overlaybd_proxy_stale_permissions_total";
        self.proxy.metric(name).unwrap()
    }

    #[track_caller]
    fn assert_known_is_served(&self, what: &str) {
        let before = self.stale_permissions();
        for path in &self.known {
            let answer = self.proxy.get(path);
            assert_eq!(answer.status, 200, "{what}: {answer:?}");
            let warning = answer.header("warning").unwrap_or_default();
            assert!(warning.starts_with("111 "), "{what}: {answer:?}");
            let age = answer.header("age").unwrap().parse::<u64>().unwrap();
            assert!(age < 3600, "{what}: {answer:?}");
        }
        assert!(self.stale_permissions() >= before + 2, "{what}");
        assert!(self.proxy.log().contains("its earlier yes holds"), "{what}");
        // What was never allowed is not now.
        let unknown = self.proxy.get("app/manifests/2_obd");
        assert!(unknown.status >= 400, "{what}: {unknown:?}");
    }

    #[track_caller]
    fn assert_known_is_refused(&self, what: &str) -> Vec<Answer> {
        let paths = self.known.iter();
        let answers: Vec<Answer> = paths.map(|path| self.proxy.get(path)).collect();
        for answer in &answers {
            assert!(answer.status >= 400, "{what}: {answer:?}");
        }
        answers
    }
}

#[test]
fn what_an_upstream_allowed_is_served_while_it_fails() {
    let Some(setting) = Setting::new(&[]) else {
        return;
    };
    for status in [429, 500, 502, 503] {
        setting.gate.fail(StatusCode::from_u16(status).ok());
        setting.assert_known_is_served(&status.to_string());
    }
    setting.gate.fail(None);
    for path in &setting.known {
        let answer = setting.proxy.get(path);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("warning"), None, "{answer:?}");
    }
    setting.registry.freeze();
    setting.assert_known_is_served("a silent upstream");
    setting.registry.thaw();
    setting.proxy.stop();
}

#[test]
fn what_an_upstream_allowed_is_served_while_it_cannot_be_reached() {
    let Some(Setting {
        registry,
        gate,
        proxy,
        _data,
        known,
    }) = Setting::new(&[])
    else {
        return;
    };
    drop(gate);
    for path in &known {
        let answer = proxy.get(path);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.header("warning").is_some(), "{answer:?}");
    }
    proxy.stop();
    drop(registry);
}

#[test]
fn a_refusal_ends_what_an_upstream_allowed() {
    let Some(setting) = Setting::new(&[]) else {
        return;
    };
    for status in [401, 403, 404] {
        setting.gate.fail(StatusCode::from_u16(status).ok());
        setting.assert_known_is_refused(&status.to_string());
        // Also when it fails afterwards.
        setting.gate.fail(Some(StatusCode::SERVICE_UNAVAILABLE));
        setting.assert_known_is_refused("after a refusal");
        setting.gate.fail(None);
        for path in &setting.known {
            assert_eq!(setting.proxy.get(path).status, 200);
        }
    }
    setting.proxy.stop();
}

#[test]
fn nothing_is_served_while_the_upstream_fails_with_stale_if_error_0() {
    let Some(setting) = Setting::new(&["--stale-if-error", "0"]) else {
        return;
    };
    setting.gate.fail(Some(StatusCode::SERVICE_UNAVAILABLE));
    setting.assert_known_is_refused("--stale-if-error 0");
    setting.proxy.stop();
}

#[test]
fn with_own_credentials_blobs_that_are_there_need_no_question() {
    let options = ["--own-credentials", "--stale-if-error", "0"];
    let Some(setting) = Setting::new(&options) else {
        return;
    };
    let [manifest, layer] = &setting.known;
    let asked = setting.registry.requests().len();
    for answer in [setting.proxy.get(layer), setting.proxy.get(layer)] {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(setting.registry.requests().len(), asked);
    setting.gate.fail(Some(StatusCode::SERVICE_UNAVAILABLE));
    let answer = setting.proxy.get(layer);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("warning"), None, "nothing is stale of it");
    // A tag is another matter.
    let answer = setting.proxy.get(manifest);
    assert!(answer.status >= 500, "{answer:?}");
    setting.proxy.stop();
}
