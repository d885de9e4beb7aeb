//! Collectors that are away, slow or full: requests are served all the same.

use crate::support::proxy::Proxy;
use crate::support::until::until;
use crate::traces::collector::{Answers, Collector};
use crate::traces::{SOON, Upstream, traced, with};

/// What became of spans, by outcome.
fn spans(proxy: &Proxy, outcome: &str) -> u64 {
    let answer = crate::support::http::get(&format!("{}/metrics", proxy.admin()));
    let prefix = format!("overlaybd_proxy_trace_spans_total{{outcome=\"{outcome}\"}} ");
    let text = answer.text();
    let value = text.lines().find_map(|line| line.strip_prefix(&prefix));
    value.map_or(0, |value| value.parse().unwrap())
}

#[test]
fn a_collector_that_is_away_costs_spans_and_one_warning() {
    let Some(upstream) = Upstream::start() else {
        return;
    };
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let data = tempfile::tempdir().unwrap();
    let options = ["--otlp-endpoint", &endpoint];
    let proxy = Proxy::start_as(with(&[SOON]), &upstream.tap.url(), data.path(), &options);
    for _ in 0..3 {
        let before = spans(&proxy, "failed");
        assert_eq!(proxy.get("team/app/tags/list").status, 200);
        until("spans are given up", || {
            (spans(&proxy, "failed") > before).then_some(())
        });
    }
    let log = proxy.log();
    assert_eq!(log.matches("spans were lost").count(), 1, "{log}");
    proxy.stop();
}

#[test]
fn spans_beyond_the_queue_are_dropped_and_counted() {
    let Some(upstream) = Upstream::start() else {
        return;
    };
    let (collector, data) = (Collector::start(), tempfile::tempdir().unwrap());
    collector.answers(Answers::Never);
    let variables = [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "4"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "3600000"),
    ];
    let more = ["--drain", "1s", "--response-timeout", "1h"];
    let proxy = traced(&upstream, &collector, data.path(), &variables, &more);
    for _ in 0..20 {
        assert_eq!(proxy.get("team/app/tags/list").status, 200);
    }
    assert!(spans(&proxy, "dropped") > 0);
    // The end does not wait for it.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(proxy.pid()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    until("the end", || {
        proxy
            .log()
            .contains("the last spans were not sent")
            .then_some(())
    });
    proxy.end();
}

#[test]
fn a_busy_collector_is_asked_again() {
    let Some(upstream) = Upstream::start() else {
        return;
    };
    let (collector, data) = (Collector::start(), tempfile::tempdir().unwrap());
    collector.answers(Answers::Status(503));
    let proxy = traced(&upstream, &collector, data.path(), &[], &[]);
    assert_eq!(proxy.get("team/app/tags/list").status, 200);
    until("it is asked", || {
        (!collector.heads().is_empty()).then_some(())
    });
    collector.answers(Answers::Status(200));
    collector.wait("GET /v2/{name}/tags/list");
    assert_eq!(spans(&proxy, "failed"), 0);
    proxy.stop();
}

#[test]
fn a_collector_that_refuses_is_not_asked_again() {
    let Some(upstream) = Upstream::start() else {
        return;
    };
    let (collector, data) = (Collector::start(), tempfile::tempdir().unwrap());
    collector.answers(Answers::Status(401));
    let proxy = traced(&upstream, &collector, data.path(), &[], &[]);
    assert_eq!(proxy.get("").status, 200);
    until("spans are given up", || {
        (spans(&proxy, "failed") > 0).then_some(())
    });
    assert!(proxy.log().contains("the answer is 401"), "{}", proxy.log());
    proxy.stop();
}

#[test]
fn the_last_spans_are_sent_at_the_end() {
    let Some(upstream) = Upstream::start() else {
        return;
    };
    let (collector, data) = (Collector::start(), tempfile::tempdir().unwrap());
    let endpoint = collector.url();
    let options = ["--otlp-endpoint", &endpoint];
    let variables = [("OTEL_BSP_SCHEDULE_DELAY", "3600000")];
    let command = with(&variables);
    let proxy = Proxy::start_as(command, &upstream.tap.url(), data.path(), &options);
    assert_eq!(proxy.get("team/app/tags/list").status, 200);
    assert!(collector.spans().is_empty());
    proxy.stop();
    let spans = collector.spans();
    let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
    assert!(names.contains(&"GET /v2/{name}/tags/list"), "{names:?}");
}
