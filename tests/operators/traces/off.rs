//! Without a collector there are no traces.

use crate::support::http;
use crate::support::proxy::Proxy;
use crate::traces::collector::Collector;
use crate::traces::{Upstream, traceparent, with};

#[test]
fn without_a_collector_headers_pass_as_they_are_and_nothing_is_added() {
    let Some(upstream) = Upstream::start() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let options = ["--platform", "linux/amd64"];
    let proxy = Proxy::start_as(with(&[]), &upstream.tap.url(), data.path(), &options);
    let url = format!("{}/v2/team/app/manifests/1", proxy.url());
    let accept = ("accept", http::ACCEPT);
    assert_eq!(http::send("GET", &url, &[accept], b"").status, 200);
    assert_eq!(
        http::send("GET", &format!("{url}_obd"), &[accept], b"").status,
        200
    );
    assert_eq!(upstream.tap.values("traceparent"), [""; 0]);
    let parent = traceparent("01");
    let headers = [
        accept,
        ("traceparent", &*parent),
        ("tracestate", "a=1, b=2"),
    ];
    assert_eq!(http::send("GET", &url, &headers, b"").status, 200);
    assert_eq!(upstream.tap.values("traceparent"), [parent]);
    assert_eq!(upstream.tap.values("tracestate"), ["a=1, b=2"]);
    assert!(!proxy.log().contains("trace_id"), "{}", proxy.log());
    assert_eq!(proxy.metric("overlaybd_proxy_trace_spans_total"), None);
    proxy.stop();
}

#[test]
fn standard_variables_turn_traces_on_and_off() {
    let Some(upstream) = Upstream::start() else {
        return;
    };
    let collector = Collector::start();
    let base = collector.url();
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", &*base);
    for off in [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ] {
        let data = tempfile::tempdir().unwrap();
        let command = with(&[endpoint, off, crate::traces::SOON]);
        let proxy = Proxy::start_as(command, &upstream.tap.url(), data.path(), &[]);
        assert_eq!(proxy.get("").status, 200);
        assert_eq!(proxy.get("team/app/tags/list").status, 200);
        proxy.stop();
        assert_eq!(collector.connections(), 0, "{off:?}");
    }
    assert_eq!(upstream.tap.values("traceparent"), [""; 0]);
    let data = tempfile::tempdir().unwrap();
    let variables = [
        endpoint,
        crate::traces::SOON,
        ("OTEL_SERVICE_NAME", "mirror"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=a%2Cb,service.name=no",
        ),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b"),
    ];
    let proxy = Proxy::start_as(with(&variables), &upstream.tap.url(), data.path(), &[]);
    assert_eq!(proxy.get("team/app/tags/list").status, 200);
    collector.wait("GET /v2/{name}/tags/list");
    let resource = collector.resource();
    assert_eq!(resource["service.name"], "mirror");
    assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(resource["deployment.environment.name"], "a,b");
    let head = &collector.heads()[0];
    for part in [
        "post /v1/traces http/1.1",
        "api-key: a b",
        "content-encoding: gzip",
        "content-type: application/x-protobuf",
    ] {
        assert!(head.contains(part), "{part} in {head}");
    }
    proxy.stop();
}
