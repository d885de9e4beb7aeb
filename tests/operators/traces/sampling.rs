//! Which traces are recorded.

use crate::support::http;
use crate::traces::collector::Collector;
use crate::traces::{TRACE, Upstream, traced, traceparent};

#[test]
fn without_a_share_only_what_clients_record_is_recorded() {
    let Some(upstream) = Upstream::start() else {
        return;
    };
    let (collector, data) = (Collector::start(), tempfile::tempdir().unwrap());
    let more = ["--trace-sample", "0"];
    let proxy = traced(&upstream, &collector, data.path(), &[], &more);
    let url = format!("{}/v2/team/app/manifests/1", proxy.url());
    let ask = |url: &str, parent: Option<&str>| {
        let mut headers = vec![("accept", http::ACCEPT)];
        headers.extend(parent.map(|parent| ("traceparent", parent)));
        assert_eq!(http::send("GET", url, &headers, b"").status, 200);
    };
    ask(&url, None);
    ask(&format!("{url}_obd"), Some(&traceparent("00")));
    let told = upstream.tap.values("traceparent");
    assert!(
        !told.is_empty() && told.iter().all(|told| told.ends_with("-00")),
        "{told:?}"
    );
    assert!(told.iter().any(|told| told.contains(TRACE)), "{told:?}");
    ask(&url, Some(&traceparent("01")));
    collector.wait("GET /v2/{name}/manifests/{reference}");
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");
    proxy.stop();
}

#[test]
fn a_sampler_that_does_not_ask_clients_is_not_turned_on_by_them() {
    let Some(upstream) = Upstream::start() else {
        return;
    };
    let (collector, data) = (Collector::start(), tempfile::tempdir().unwrap());
    let variables = [("OTEL_TRACES_SAMPLER", "always_off")];
    let proxy = traced(&upstream, &collector, data.path(), &variables, &[]);
    let url = format!("{}/v2/team/app/manifests/1", proxy.url());
    let parent = traceparent("01");
    let headers = [("accept", http::ACCEPT), ("traceparent", &parent)];
    assert_eq!(http::send("GET", &url, &headers, b"").status, 200);
    let told = upstream.tap.values("traceparent");
    assert!(
        !told.is_empty() && told.iter().all(|told| told.ends_with("-00")),
        "{told:?}"
    );
    proxy.stop();
    assert_eq!(collector.connections(), 0);
}
