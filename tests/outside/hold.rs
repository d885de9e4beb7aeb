//! The hold is the hold, also before an upstream that is silent.

use nix::sys::signal::Signal;

use crate::support::http;
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
use crate::{PLATFORM, converted_layer, image};

/// Longer than any hold here, shorter than the patience of the test's client.
const SILENCE: [&str; 4] = ["--response-timeout", "40s", "--attempts", "3"];

#[test]
fn a_silent_upstream_holds_a_request_for_the_hold_and_no_longer() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("app", "1", &image(1));
    for (on_timeout, status) in [("wait", 307), ("busy", 429), ("original", 504)] {
        let data = tempfile::tempdir().unwrap();
        let options = [
            &PLATFORM[..],
            &SILENCE,
            &[
                "--hold",
                "1s",
                "--auth-cache-ttl",
                "0",
                "--on-timeout",
                on_timeout,
            ],
        ]
        .concat();
        let proxy = Proxy::start(&registry.url(), data.path(), &options);
        let layer = converted_layer(&proxy, "app", "1");
        registry.signal(Signal::SIGSTOP);
        let ask = |path: &str| http::send("GET", &format!("{}/v2/{path}", proxy.url()), &[], b"");
        let manifest = ask("app/manifests/1_obd");
        let blob = ask(&layer);
        registry.signal(Signal::SIGCONT);
        assert_eq!(manifest.status, status, "{on_timeout}: {manifest:?}");
        match status {
            307 => assert_eq!(manifest.header("location"), Some("/v2/app/manifests/1_obd")),
            429 => assert!(manifest.header("retry-after").is_some(), "{manifest:?}"),
            _ => assert!(manifest.text().contains("within 1s"), "{manifest:?}"),
        }
        // Whether this client may have it cannot be told.
        assert_eq!(blob.status, 504, "{blob:?}");
        assert_eq!(proxy.get("app/manifests/1_obd").status, 200);
        assert_eq!(proxy.get(&layer).status, 200);
    }
}
