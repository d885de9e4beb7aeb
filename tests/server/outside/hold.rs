//! The hold is the hold, also before an upstream that is silent.

use crate::outside::{PLATFORM, converted_layer, image};
use crate::support::gate::Gate;
use crate::support::image::Sealed;
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
use crate::support::until::until;
use crate::support::{self, http};

/// Longer than any hold here, shorter than the timeout of the test's client.
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
                "--stale-if-error",
                "0",
                "--on-timeout",
                on_timeout,
            ],
        ]
        .concat();
        let proxy = Proxy::start(&registry.url(), data.path(), &options);
        let layer = converted_layer(&proxy, "app", "1");
        registry.freeze();
        let ask = |path: &str| http::send("GET", &format!("{}/v2/{path}", proxy.url()), &[], b"");
        let manifest = ask("app/manifests/1_obd");
        let blob = ask(&layer);
        registry.thaw();
        assert_eq!(manifest.status, status, "{on_timeout}: {manifest:?}");
        match status {
            307 => assert_eq!(
                manifest.header("location"),
                Some("/v2/app/manifests/1_obd?overlaybd-waits=1")
            ),
            429 => assert!(manifest.header("retry-after").is_some(), "{manifest:?}"),
            _ => assert!(manifest.text().contains("within 1s"), "{manifest:?}"),
        }
        // Whether this client may have it is not known.
        assert_eq!(blob.status, 504, "{blob:?}");
        assert_eq!(proxy.get("app/manifests/1_obd").status, 200);
        assert_eq!(proxy.get(&layer).status, 200);
    }
}

/// The answer to a client that follows each redirect of a hold, and the number of its requests.
fn waits(more: &[&str], image: &Sealed) -> Option<(http::Answer, usize)> {
    let registry = Registry::start()?;
    registry.push("app", "1", image);
    let gate = Gate::before(registry.address());
    let hold = gate.hold("GET", &image.blobs.last().unwrap().digest());
    let data = tempfile::tempdir().unwrap();
    let options = [&PLATFORM[..], &["--hold", "50ms"], more].concat();
    let proxy = Proxy::start(&gate.url(), data.path(), &options);
    let mut path = "/v2/app/manifests/1_obd".to_owned();
    let mut asked = 0;
    let last = loop {
        asked += 1;
        let url = format!("{}{path}", proxy.url());
        let answer = http::send("GET", &url, &[("accept", http::ACCEPT)], b"");
        if answer.status != 307 {
            break answer;
        }
        answer.header("location").unwrap().clone_into(&mut path);
        assert!(asked < 20, "{answer:?}");
    };
    hold.release();
    // What is the proxy's own is not the upstream's business.
    let seen = registry.requests();
    assert!(!seen.iter().any(|one| one.contains("waits")), "{seen:?}");
    Some((last, asked))
}

#[test]
fn the_tenth_request_of_a_waiting_client_is_not_redirected() {
    let Some((last, asked)) = waits(&["--on-timeout", "wait"], &image(1)) else {
        return;
    };
    assert_eq!((last.status, asked), (429, 10), "{last:?}");
    assert!(last.header("retry-after").is_some(), "{last:?}");
    let image = image(1);
    let options = ["--on-timeout", "wait-then-original"];
    let (last, asked) = waits(&options, &image).unwrap();
    assert_eq!((last.status, asked), (200, 10), "{last:?}");
    assert_eq!(last.header("overlaybd-outcome"), Some("original"));
    assert_eq!(last.body, image.manifest);
}

#[test]
fn skopeo_waits_for_longer_than_it_follows_redirects() {
    if !support::have(&["skopeo"]) {
        return;
    }
    let Some(registry) = Registry::start() else {
        return;
    };
    let image = image(1);
    registry.push("app", "1", &image);
    let gate = Gate::before(registry.address());
    let hold = gate.hold("GET", &image.blobs.last().unwrap().digest());
    let data = tempfile::tempdir().unwrap();
    let options = [&PLATFORM[..], &["--hold", "50ms", "--on-timeout", "wait"]].concat();
    let proxy = Proxy::start(&gate.url(), data.path(), &options);
    let mut skopeo = std::process::Command::new("skopeo");
    skopeo.args(["inspect", "--tls-verify=false", "--raw"]);
    skopeo.arg(proxy.image("app", "1_obd"));
    let output = std::thread::scope(|scope| {
        let output = scope.spawn(|| skopeo.output().unwrap());
        until("it has made all the requests of one chain", || {
            let waited = proxy.metric("overlaybd_proxy_conversion_waits_total");
            (waited >= Some(10) || output.is_finished()).then_some(())
        });
        hold.release();
        output.join().unwrap()
    });
    assert!(output.status.success(), "{output:?}");
}
