//! Which spans there are, and how they hang together.

use crate::support::http;
use crate::support::image::Image;
use crate::support::noise;
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
use crate::support::tar::Tar;
use crate::support::until::until;
use crate::traces::collector::{CLIENT, Collector, INTERNAL, SERVER, Span};
use crate::traces::{SOON, SPAN, TRACE, Upstream, traced, traceparent, with};

#[track_caller]
fn get(url: &str, headers: &[(&str, &str)]) {
    let headers = [&[("accept", http::ACCEPT)], headers].concat();
    let answer = http::send("GET", url, &headers, b"");
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn one_trace_leads_from_the_client_to_the_upstream() {
    let Some(upstream) = Upstream::start() else {
        return;
    };
    let (collector, data) = (Collector::start(), tempfile::tempdir().unwrap());
    let proxy = traced(&upstream, &collector, data.path(), &[], &[]);
    let parent = traceparent("01");
    let url = format!("{}/v2/team/app/manifests/1?x=signaturesecret", proxy.url());
    let headers = [
        ("traceparent", &*parent),
        ("tracestate", "vendor=1, other=2"),
        ("baggage", "user=7"),
        ("user-agent", "test/1"),
        ("x-request-id", "the-request"),
    ];
    get(&url, &headers);
    let server = collector.wait("GET /v2/{name}/manifests/{reference}");
    assert_eq!((&*server.trace, &*server.parent), (TRACE, SPAN));
    assert_eq!((server.kind, server.is_error), (SERVER, false));
    assert_eq!(server.state, "vendor=1,other=2");
    for (key, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/v2/team/app/manifests/1"),
        ("http.route", "/v2/{name}/manifests/{reference}"),
        ("http.response.status_code", "200"),
        ("client.address", "127.0.0.1"),
        ("server.address", "127.0.0.1"),
        ("user_agent.original", "test/1"),
        ("overlaybd.repository", "team/app"),
        ("overlaybd.outcome", "passed"),
        ("overlaybd.request.id", "the-request"),
    ] {
        assert_eq!(server.get(key), value, "{key}");
    }
    let clients = until("the exchanges", || {
        let spans = collector.spans();
        let found: Vec<Span> = spans
            .into_iter()
            .filter(|span| span.kind == CLIENT)
            .collect();
        (!found.is_empty()).then_some(found)
    });
    let told = upstream.tap.values("traceparent");
    for client in &clients {
        assert_eq!((&*client.trace, &client.parent), (TRACE, &server.id));
        assert_eq!(client.get("server.address"), "127.0.0.1");
        assert_eq!(client.get("http.response.status_code"), "200");
        let full = client.get("url.full");
        assert_eq!(
            full,
            format!("{}/v2/team/app/manifests/1", upstream.tap.url())
        );
        let wanted = format!("00-{TRACE}-{}-01", client.id);
        assert!(told.contains(&wanted), "{wanted} in {told:?}");
    }
    // Each exchange is told of its own span, and of no other.
    assert_eq!(told.len(), clients.len(), "{told:?}");
    let states = upstream.tap.values("tracestate");
    assert!(states.iter().all(|state| state == "vendor=1,other=2"));
    // It came with the request.
    assert!(
        upstream
            .tap
            .values("baggage")
            .contains(&"user=7".to_owned())
    );
    let access = until("the access line", || {
        let log = proxy.log();
        let line = log
            .lines()
            .find(|line| line.contains("the-request") && line.contains("answered"));
        line.map(ToOwned::to_owned)
    });
    assert!(access.contains(TRACE), "{access}");
    proxy.stop();
}

#[test]
fn a_conversion_is_a_trace_that_is_linked_with_its_requests() {
    let Some(upstream) = Upstream::start() else {
        return;
    };
    let (collector, data) = (Collector::start(), tempfile::tempdir().unwrap());
    let told_of = Collector::start();
    let hook = format!("{}/hooksecret", told_of.url());
    let more = ["--webhook", &hook];
    let proxy = traced(&upstream, &collector, data.path(), &[], &more);
    let parent = traceparent("01");
    let url = format!("{}/v2/team/app/manifests/1_obd", proxy.url());
    get(&url, &[("traceparent", &parent)]);
    let conversion = collector.wait("convert image");
    let server = collector.wait("GET /v2/{name}/manifests/{reference}");
    let waiting = collector.wait("wait for conversion");
    assert_eq!((&*waiting.trace, &waiting.parent), (TRACE, &server.id));
    assert_eq!(server.get("overlaybd.outcome"), "converted");
    assert_ne!(conversion.trace, TRACE);
    assert_eq!((&*conversion.parent, conversion.kind), ("", INTERNAL));
    let link = |span: &Span| (span.trace.clone(), span.id.clone());
    assert_eq!(conversion.links, [link(&server)]);
    assert_eq!(waiting.links, [link(&conversion)]);
    for (key, value) in [
        ("overlaybd.repository", "team/app"),
        ("overlaybd.tag", "1"),
        ("overlaybd.format", "native"),
        ("overlaybd.layers.made", "2"),
        ("overlaybd.platforms", "linux/amd64"),
    ] {
        assert_eq!(conversion.get(key), value, "{key}");
    }
    let spans = collector.spans();
    let of = |name: &str| -> Vec<&Span> {
        let found = spans.iter().filter(|span| span.trace == conversion.trace);
        found.filter(|span| span.name == name).collect()
    };
    for (name, count) in [
        ("download layer", 2),
        ("apply layer", 2),
        ("seal layer", 2),
        ("record image", 1),
    ] {
        let found = of(name);
        assert_eq!(found.len(), count, "{name}: {spans:#?}");
        for span in found {
            assert_eq!(span.parent, conversion.id, "{name}");
        }
    }
    // What is fetched for a layer is below its download.
    let told = upstream.tap.values("traceparent");
    for download in of("download layer") {
        let below = spans.iter().filter(|span| span.parent == download.id);
        let below: Vec<&Span> = below.collect();
        assert!(!below.is_empty() && below.iter().all(|span| span.kind == CLIENT));
        let digest = download.get("overlaybd.layer.digest");
        for span in below {
            assert!(span.get("url.full").ends_with(digest), "{span:?}");
            let wanted = format!("00-{}-{}-01", conversion.trace, span.id);
            assert!(told.contains(&wanted), "{wanted} in {told:?}");
        }
    }
    // Who is told of the conversion's end is told of its trace.
    let posted = collector.wait("POST");
    assert_eq!(
        (&posted.trace, &posted.parent),
        (&conversion.trace, &conversion.id)
    );
    assert_eq!(
        posted.get("url.full"),
        format!("{}/REDACTED", told_of.url())
    );
    let wanted = format!("traceparent: 00-{}-{}-01", posted.trace, posted.id);
    assert!(
        told_of.heads()[0].contains(&wanted),
        "{:?}",
        told_of.heads()
    );
    let log = proxy.log();
    let line = log
        .lines()
        .find(|line| line.contains("an image was converted"));
    assert!(line.unwrap().contains(&conversion.trace), "{log}");
    proxy.stop();
}

#[test]
fn an_image_of_many_layers_has_a_bounded_number_of_spans() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let layers = (0..100).map(|n| Tar::new().file(&format!("f{n}"), noise(n, 100)).finish());
    let layers: Vec<Vec<u8>> = layers.collect();
    registry.push("app", "many", &Image::gzip(&layers).seal());
    let (collector, data) = (Collector::start(), tempfile::tempdir().unwrap());
    let endpoint = collector.url();
    let options = ["--platform", "linux/amd64", "--otlp-endpoint", &endpoint];
    let proxy = Proxy::start_as(with(&[SOON]), &registry.url(), data.path(), &options);
    let answer = proxy.converted("app", "many");
    assert_eq!(answer["layers"].as_array().unwrap().len(), 100);
    let conversion = collector.wait("convert image");
    proxy.stop();
    assert_eq!(conversion.get("overlaybd.spans.bounded"), "true");
    assert_eq!(conversion.get("overlaybd.layers.made"), "100");
    let spans = collector.spans();
    let below = spans
        .iter()
        .filter(|span| span.trace == conversion.trace && span.id != conversion.id);
    assert_eq!(below.count(), 256);
}

#[test]
fn an_invalid_parent_begins_a_trace_of_its_own() {
    let Some(upstream) = Upstream::start() else {
        return;
    };
    let (collector, data) = (Collector::start(), tempfile::tempdir().unwrap());
    let proxy = traced(&upstream, &collector, data.path(), &[], &[]);
    let url = format!("{}/v2/team/app/manifests/1", proxy.url());
    let parent = traceparent("01").to_uppercase();
    get(&url, &[("traceparent", &parent), ("tracestate", "a=1")]);
    let server = collector.wait("GET /v2/{name}/manifests/{reference}");
    assert_eq!((&*server.parent, &*server.state), ("", ""));
    assert_ne!(server.trace, TRACE);
    let told = upstream.tap.values("traceparent");
    assert!(
        told.iter().all(|told| told.contains(&server.trace)),
        "{told:?}"
    );
    proxy.stop();
}

#[test]
fn what_is_sent_again_is_counted_and_errors_are_named() {
    // Nobody listens there.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let (collector, data) = (Collector::start(), tempfile::tempdir().unwrap());
    let endpoint = collector.url();
    let options = ["--otlp-endpoint", &endpoint, "--attempts", "2"];
    let command = crate::traces::with(&[crate::traces::SOON]);
    let proxy = crate::traces::Proxy::start_as(command, &address, data.path(), &options);
    assert_eq!(proxy.get("team/app/manifests/1_obd").status, 502);
    let server = collector.wait("GET /v2/{name}/manifests/{reference}");
    assert!(server.is_error);
    assert_eq!(server.get("error.type"), "502");
    let spans = collector.spans();
    let sent = spans.iter().filter(|span| span.kind == CLIENT);
    let counts: Vec<Option<&str>> = sent
        .map(|span| {
            assert!(span.is_error);
            assert_eq!(span.get("error.type"), "unreachable");
            let count = span.attributes.get("http.request.resend_count");
            count.map(String::as_str)
        })
        .collect();
    assert!(
        counts.contains(&None) && counts.contains(&Some("1")),
        "{counts:?}"
    );
    proxy.stop();
}
