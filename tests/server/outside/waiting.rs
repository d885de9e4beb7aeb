//! Requests that wait keep nobody out.

use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;

use crate::outside::{PLATFORM, connect_from, converted_layer, head_from, image, refused, waiting};
use crate::support::gate::{Gate, Hold};
use crate::support::http;
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
use crate::support::until::until;

/// A proxy with few places before a registry with two images; the layer of the second is held
/// up.
fn scene(more: &[&str]) -> Option<(Registry, Gate, Proxy, Hold, tempfile::TempDir)> {
    let registry = Registry::start()?;
    registry.push("app", "1", &image(1));
    registry.push("slow", "1", &image(2));
    let gate = Gate::before(registry.address());
    let data = tempfile::tempdir().unwrap();
    let options = [
        &PLATFORM[..],
        &["--hold", "1h", "--auth-cache-ttl", "0"],
        more,
    ]
    .concat();
    let proxy = Proxy::start(&gate.url(), data.path(), &options);
    let hold = gate.hold("GET", &image(2).blobs.last().unwrap().digest());
    Some((registry, gate, proxy, hold, data))
}

/// Runs something while as many requests as may wait for the slow image do so.
fn while_all_wait(proxy: &Proxy, hold: &Hold, count: u64, work: impl FnOnce()) {
    let url = format!("{}/v2/slow/manifests/1_obd", proxy.url());
    std::thread::scope(|scope| {
        let held: Vec<_> = (0..count)
            .map(|_| scope.spawn(|| http::send("GET", &url, &[], b"")))
            .collect();
        hold.wait();
        until("all wait", || (waiting(proxy) >= count).then_some(()));
        work();
        hold.release();
        for one in held {
            assert_eq!(one.join().unwrap().status, 200);
        }
    });
}

#[test]
fn cached_images_are_served_while_all_waiting_places_are_taken() {
    let places = [
        "--max-requests",
        "8",
        "--max-waiting",
        "8",
        "--address-share",
        "100%",
    ];
    let Some((_registry, _gate, proxy, hold, _data)) = scene(&places) else {
        return;
    };
    let layer = converted_layer(&proxy, "app", "1");
    let readyz = format!("{}/readyz", proxy.admin());
    while_all_wait(&proxy, &hold, 8, || {
        let url = format!("{}/v2/{layer}", proxy.url());
        for _ in 0..20 {
            // The permission is not remembered: each asks the upstream.
            let range = http::send("GET", &url, &[("range", "bytes=0-99")], b"");
            assert_eq!(range.status, 206, "{range:?}");
        }
        assert_eq!(proxy.get("app/manifests/1_obd").status, 200);
        assert_eq!(proxy.get("app/manifests/1").status, 200);
        refused(&proxy.get("slow/manifests/1_obd"), 503);
        let ready = http::get(&readyz);
        assert_eq!(ready.status, 200, "{ready:?}");
        assert!(
            ready
                .text()
                .contains("waiting for conversions: 8 of at most 8"),
            "{ready:?}"
        );
    });
    assert_eq!(http::get(&readyz).text(), "ok\n");
    assert_eq!(waiting(&proxy), 0);
}

#[test]
fn a_client_address_gets_its_share_of_the_waiting_places() {
    let places = ["--max-waiting", "4", "--address-share", "75%"];
    let Some((_registry, _gate, proxy, hold, _data)) = scene(&places) else {
        return;
    };
    let host = proxy.host().to_owned();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    while_all_wait(&proxy, &hold, 3, || {
        refused(&proxy.get("slow/manifests/1_obd"), 429);
        // The rest is there for others.
        let other = runtime.spawn(async move {
            head_from([127, 0, 0, 2], &host, "/v2/slow/manifests/1_obd", "").await
        });
        until("another client waits too", || {
            (waiting(&proxy) == 4).then_some(())
        });
        hold.release();
        let head = runtime.block_on(other).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    });
}

#[test]
fn a_silent_upstream_blocks_no_request_to_another() {
    let places = [
        "--max-requests",
        "4",
        "--max-waiting",
        "4",
        "--address-share",
        "100%",
    ];
    let Some((_registry, gate, proxy, _hold, _data)) = scene(&places) else {
        return;
    };
    let layer = converted_layer(&proxy, "app", "1");
    let holds: Vec<_> = (0..4).map(|_| gate.hold("GET", "/tags/list")).collect();
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| proxy.get("app/tags/list")))
            .collect();
        holds.iter().for_each(Hold::wait);
        let range = format!("{}/v2/{layer}", proxy.url());
        let range = http::send("GET", &range, &[("range", "bytes=0-99")], b"");
        assert_eq!(range.status, 206, "{range:?}");
        refused(&proxy.get("app/tags/list"), 503);
        let ready = http::get(&format!("{}/readyz", proxy.admin()));
        assert!(ready.text().contains("of at most 4"), "{ready:?}");
        holds.iter().for_each(Hold::release);
        for one in asked {
            assert_eq!(one.join().unwrap().status, 200);
        }
    });
}

#[test]
fn a_client_address_gets_its_share_of_the_connections() {
    let places = ["--max-connections", "8", "--address-share", "50%"];
    let Some((_registry, _gate, proxy, _hold, _data)) = scene(&places) else {
        return;
    };
    let host: Arc<str> = proxy.host().into();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut held = Vec::new();
        for _ in 0..4 {
            let mut stream = connect_from([127, 0, 0, 2], &host).await;
            stream.write_all(b"GET /v2/ HTTP/1.1\r\n").await.unwrap();
            held.push(stream);
        }
        let fifth = head_from([127, 0, 0, 2], &host, "/v2/", "").await;
        assert_eq!(fifth, "");
        let other = head_from([127, 0, 0, 3], &host, "/v2/", "").await;
        assert!(other.starts_with("HTTP/1.1 200 "), "{other}");
        drop(held);
    });
    until("there are places again", || {
        let head = runtime.block_on(head_from([127, 0, 0, 2], &host, "/v2/", ""));
        head.starts_with("HTTP/1.1 200 ").then_some(())
    });
    assert!(proxy.log().contains("--address-share"), "{}", proxy.log());
}
