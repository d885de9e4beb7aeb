//! The OpenTelemetry Collector understands what is sent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::process::Process;
use crate::support::proxy::Proxy;
use crate::support::until::until;
use crate::support::{self, http};
use crate::traces::{SOON, SPAN, TRACE, Upstream, traceparent, with};

/// The collector, built once and kept; `None`, and said, where that cannot be.
fn program() -> Option<PathBuf> {
    // Debian's Go is too old for it, so tests/setup.sh does not bring one.
    if support::find("go").is_none() {
        eprintln!("SKIPPED: the OpenTelemetry Collector is built with go");
        return None;
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("otel-collector");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/operators/traces/collector.sh");
    let output = Command::new(script).arg(&directory).output().unwrap();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        support::skip(&format!("no OpenTelemetry Collector to be had: {said}"));
        return None;
    }
    Some(directory.join("collector"))
}

#[test]
fn the_opentelemetry_collector_takes_a_trace() {
    let Some(program) = program() else {
        return;
    };
    let Some(upstream) = Upstream::start() else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let (config, out) = (
        scratch.path().join("config.yaml"),
        scratch.path().join("out"),
    );
    // It has no way to say which port it was given.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let text = format!(
        "receivers:\n  otlp:\n    protocols:\n      http:\n        endpoint: {address}\n\
         exporters:\n  file:\n    path: {}\n    flush_interval: 10ms\n\
         service:\n  telemetry:\n    metrics:\n      level: none\n  pipelines:\n    traces:\n      \
         receivers: [otlp]\n      exporters: [file]\n",
        out.display()
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new(program);
    command.arg(format!("--config=file:{}", config.display()));
    let mut collector = Process::start(command, &scratch.path().join("log"));
    collector.wait_for("Everything is ready");
    let endpoint = format!("http://{address}");
    let options = ["--platform", "linux/amd64", "--otlp-endpoint", &endpoint];
    for compression in ["none", "gzip"] {
        let variables = [SOON, ("OTEL_EXPORTER_OTLP_COMPRESSION", compression)];
        let data = tempfile::tempdir().unwrap();
        let proxy = Proxy::start_as(with(&variables), &upstream.tap.url(), data.path(), &options);
        let parent = traceparent("01");
        let headers = [("accept", http::ACCEPT), ("traceparent", &*parent)];
        let url = format!("{}/v2/team/app/manifests/1_obd", proxy.url());
        assert_eq!(http::send("GET", &url, &headers, b"").status, 200);
        proxy.stop();
    }
    let spans = until("two conversions", || {
        let text = fs::read_to_string(&out).unwrap_or_default();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let spans: Vec<Value> = lines
            .flat_map(|line| {
                line["resourceSpans"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default()
            })
            .flat_map(|one| one["scopeSpans"].as_array().cloned().unwrap_or_default())
            .flat_map(|one| one["spans"].as_array().cloned().unwrap_or_default())
            .collect();
        let ended = spans.iter().filter(|span| span["name"] == "convert image");
        (ended.count() == 2).then_some(spans)
    });
    let servers: Vec<&Value> = spans.iter().filter(|span| span["kind"] == 2).collect();
    assert_eq!(servers.len(), 2);
    for server in servers {
        assert_eq!(server["traceId"], TRACE);
        assert_eq!(server["parentSpanId"], SPAN);
        let mut spans = spans.iter();
        let conversion = spans.find(|span| {
            let links = span["links"].as_array();
            span["name"] == "convert image"
                && links.is_some_and(|links| links[0]["spanId"] == server["spanId"])
        });
        let conversion = conversion.unwrap();
        assert_eq!(conversion["links"][0]["traceId"], TRACE);
        assert_ne!(conversion["traceId"], TRACE);
    }
    collector.stop();
}
