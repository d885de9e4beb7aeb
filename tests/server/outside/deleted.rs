//! What is left of a converted image whose source is deleted at the upstream.

use ::http::StatusCode;

use crate::outside::{PLATFORM, converted_layer, image};
use crate::support::gate::Gate;
use crate::support::http::{self, Answer};
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;

struct Setting {
    registry: Registry,
    gate: Gate,
    proxy: Proxy,
    _data: tempfile::TempDir,
    source: String,
    manifest: String,
    layer: String,
}

impl Setting {
    fn new() -> Option<Self> {
        let registry = Registry::start()?;
        let source = registry.push("app", "1", &image(1));
        registry.push("app", "2", &image(2));
        let gate = Gate::before(registry.address());
        let data = tempfile::tempdir().unwrap();
        let options = [&PLATFORM[..], &["--auth-cache-ttl", "0", "--attempts", "1"]].concat();
        let proxy = Proxy::start(&gate.url(), data.path(), &options);
        let converted = proxy.get("app/manifests/1_obd");
        let digest = converted.header("docker-content-digest").unwrap();
        let manifest = format!("app/manifests/{digest}");
        let layer = converted_layer(&proxy, "app", "1");
        Some(Self {
            registry,
            gate,
            proxy,
            _data: data,
            source,
            manifest,
            layer,
        })
    }

    fn delete(&self) {
        let url = format!("{}/v2/app/manifests/{}", self.registry.url(), self.source);
        let answer = http::send("DELETE", &url, &[], b"");
        assert_eq!(answer.status, 202, "{answer:?}");
    }

    fn range(&self) -> Answer {
        let url = format!("{}/v2/{}", self.proxy.url(), self.layer);
        http::send("GET", &url, &[("range", "bytes=0-99")], b"")
    }
}

#[test]
fn containers_read_on_when_the_source_is_deleted_and_new_pulls_are_404() {
    let Some(setting) = Setting::new() else {
        return;
    };
    assert_eq!(setting.range().status, 206);
    setting.delete();
    let answer = setting.range();
    assert_eq!(answer.status, 206, "{answer:?}");
    assert_eq!(answer.header("warning"), None, "{answer:?}");
    for path in ["app/manifests/1_obd", &setting.manifest] {
        let answer = setting.proxy.get(path);
        assert_eq!(answer.status, 404, "{answer:?}");
    }
    // Not another repository's.
    let elsewhere = setting.layer.replacen("app/", "other/", 1);
    let answer = setting.proxy.get(&elsewhere);
    assert_eq!(answer.status, 404, "{answer:?}");
    setting.proxy.stop();
}

#[test]
fn whoever_may_not_read_the_repository_of_a_deleted_source_has_nothing_of_it() {
    let Some(setting) = Setting::new() else {
        return;
    };
    setting.delete();
    for status in [401, 403, 404] {
        let refused = StatusCode::from_u16(status).ok();
        setting.gate.fail_where("/tags/list", refused);
        let answer = setting.range();
        // As the upstream answers for any blob that it does not have.
        assert_eq!(answer.status, 404, "{status}: {answer:?}");
    }
    setting.gate.fail_where("/tags/list", None);
    assert_eq!(setting.range().status, 206);
    // That the upstream fails takes nothing from whoever was allowed.
    setting.gate.fail(Some(StatusCode::SERVICE_UNAVAILABLE));
    let answer = setting.range();
    assert_eq!(answer.status, 206, "{answer:?}");
    setting.proxy.stop();
}
