//! Traces of `convert`.

use std::path::Path;
use std::process::Command;

use crate::support::run;
use crate::traces::collector::{Answers, CLIENT, Collector, INTERNAL};
use crate::traces::{SPAN, TRACE, Upstream, traceparent, with};

/// `convert team/app:1`, with these variables and options.
fn convert(
    upstream: &Upstream,
    place: &Path,
    variables: &[(&str, &str)],
    more: &[&str],
) -> Command {
    let mut command = with(variables);
    command
        .args(["convert", "--platform", "linux/amd64"])
        .args(more)
        .arg(format!("{}/team/app:1", upstream.tap.url()))
        .arg(format!("oci:{}:1_obd", place.join("out").display()));
    command
}

#[test]
fn a_conversion_by_command_is_in_the_trace_of_who_ran_it() {
    let Some(upstream) = Upstream::start() else {
        return;
    };
    let (collector, place) = (Collector::start(), tempfile::tempdir().unwrap());
    let (endpoint, parent) = (collector.url(), traceparent("01"));
    let variables = [
        ("TRACEPARENT", &*parent),
        ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
    ];
    let option = ["--otlp-endpoint", &*endpoint];
    run(&mut convert(&upstream, place.path(), &variables, &option));
    // They were sent before the command ended.
    let spans = collector.spans();
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let root = named("overlaybd-proxy convert");
    assert_eq!((&*root.trace, &*root.parent), (TRACE, SPAN));
    assert_eq!((root.kind, root.is_error), (INTERNAL, false));
    let conversion = named("convert image");
    assert_eq!(conversion.links, [(root.trace.clone(), root.id.clone())]);
    assert_eq!(conversion.get("overlaybd.layers.made"), "2");
    let below = spans.iter().filter(|span| span.parent == root.id);
    assert!(below.clone().any(|span| span.kind == CLIENT), "{spans:#?}");
    let told = upstream.tap.values("traceparent");
    let of_root = told.iter().filter(|told| told.contains(TRACE));
    assert!(of_root.count() > 0, "{told:?}");
}

#[test]
fn a_collector_that_is_away_or_silent_ends_no_command() {
    let Some(upstream) = Upstream::start() else {
        return;
    };
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let away = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let silent = Collector::start();
    silent.answers(Answers::Never);
    for endpoint in [away, silent.url()] {
        let place = tempfile::tempdir().unwrap();
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "3600000"),
        ];
        let more = ["--response-timeout", "1h"];
        run(&mut convert(&upstream, place.path(), &variables, &more));
        assert!(place.path().join("out/index.json").is_file(), "{endpoint}");
    }
    assert!(silent.connections() > 0);
}

#[test]
fn a_conversion_by_command_that_fails_is_an_error() {
    let Some(upstream) = Upstream::start() else {
        return;
    };
    let (collector, place) = (Collector::start(), tempfile::tempdir().unwrap());
    let endpoint = collector.url();
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint)];
    let mut command = with(&variables);
    let missing = format!("{}/team/app:none", upstream.tap.url());
    let out = format!("oci:{}:1_obd", place.path().display());
    let output = command.args(["convert", &missing, &out]).output().unwrap();
    assert!(!output.status.success());
    let root = collector.wait("overlaybd-proxy convert");
    assert!(root.is_error, "{root:?}");
    assert_eq!(root.get("error.type"), "failed");
}
