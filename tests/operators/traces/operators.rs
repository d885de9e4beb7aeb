//! Requests at the admin address that begin conversions.

use serde_json::{Value, json};

use crate::support::http;
use crate::support::image::Image;
use crate::support::proxy::Proxy;
use crate::support::tar::Tar;
use crate::traces::collector::{CLIENT, Collector, SERVER};
use crate::traces::{SPAN, TRACE, Upstream, traced, traceparent};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A proxy whose operators and notifications have this secret.
fn steered(upstream: &Upstream, collector: &Collector, place: &std::path::Path) -> Proxy {
    let file = place.join("secret");
    std::fs::write(&file, SECRET).unwrap();
    let file = file.display().to_string();
    let more = [
        "--admin-token-file",
        &file,
        "--notification-secret-file",
        &file,
    ];
    traced(upstream, collector, &place.join("data"), &[], &more)
}

#[track_caller]
fn post(proxy: &Proxy, path: &str, headers: &[(&str, &str)], body: &Value) {
    let json = [("content-type", "application/json")];
    let headers = [&json, headers].concat();
    let url = format!("{}/api/v1{path}", proxy.admin());
    let answer = http::send("POST", &url, &headers, body.to_string().as_bytes());
    assert_eq!(answer.status, 202, "{answer:?}");
}

#[test]
fn a_conversion_leads_to_the_operators_request_that_began_it() {
    let Some(upstream) = Upstream::start() else {
        return;
    };
    let (collector, place) = (Collector::start(), tempfile::tempdir().unwrap());
    let proxy = steered(&upstream, &collector, place.path());
    let (bearer, parent) = (format!("Bearer {SECRET}"), traceparent("01"));
    let headers = [("authorization", &*bearer), ("traceparent", &parent)];
    let wanted = json!({ "repository": "team/app", "tag": "1" });
    post(&proxy, "/conversions", &headers, &wanted);
    let request = collector.wait("POST /api/v1/conversions");
    assert_eq!((&*request.trace, &*request.parent), (TRACE, SPAN));
    assert_eq!((request.kind, request.is_error), (SERVER, false));
    assert_eq!(request.get("http.response.status_code"), "202");
    let conversion = collector.wait("convert image");
    let link = (request.trace.clone(), request.id.clone());
    assert_eq!(conversion.links, [link]);
    // What was asked of the registry for it is below.
    let spans = collector.spans();
    let below = spans.iter().filter(|span| span.parent == request.id);
    assert!(below.clone().any(|span| span.kind == CLIENT), "{spans:#?}");
    assert!(below.clone().any(|span| span.name == "wait for conversion"));
    proxy.stop();
}

#[test]
fn a_conversion_leads_to_the_notification_that_began_it_and_no_secret_is_shown() {
    let Some(upstream) = Upstream::start() else {
        return;
    };
    let (collector, place) = (Collector::start(), tempfile::tempdir().unwrap());
    let proxy = steered(&upstream, &collector, place.path());
    let event = json!({ "push_data": { "tag": "1" }, "repository": { "repo_name": "team/app" } });
    let path = format!("/notifications?secret={SECRET}");
    post(&proxy, &path, &[], &event);
    let request = collector.wait("POST /api/v1/notifications");
    assert_eq!(request.get("url.path"), "/api/v1/notifications");
    let conversion = collector.wait("convert image");
    let link = (request.trace.clone(), request.id.clone());
    assert_eq!(conversion.links, [link]);
    let shown = format!("{:?}", collector.spans());
    assert!(!shown.contains(SECRET), "{shown}");
    // Who only looks has no span.
    for path in ["/", "/metrics", "/api/v1/conversions"] {
        assert_eq!(http::get(&format!("{}{path}", proxy.admin())).status, 200);
    }
    assert_eq!(proxy.get("team/app/tags/list").status, 200);
    collector.wait("GET /v2/{name}/tags/list");
    let spans = collector.spans();
    let of_server = spans.iter().filter(|span| span.kind == SERVER);
    assert_eq!(of_server.count(), 2, "{spans:#?}");
    proxy.stop();
}

#[test]
fn a_notification_whose_tag_comes_later_is_linked_too() {
    let Some(upstream) = Upstream::start() else {
        return;
    };
    let (collector, place) = (Collector::start(), tempfile::tempdir().unwrap());
    let proxy = steered(&upstream, &collector, place.path());
    let event =
        json!({ "push_data": { "tag": "late" }, "repository": { "repo_name": "team/app" } });
    post(
        &proxy,
        &format!("/notifications?secret={SECRET}"),
        &[],
        &event,
    );
    let request = collector.wait("POST /api/v1/notifications");
    let tar = Tar::new().file("late", "late").finish();
    let image = Image::gzip(&[tar]).seal();
    upstream.registry.push("team/app", "late", &image);
    let conversion = collector.wait("convert image");
    let link = (request.trace.clone(), request.id.clone());
    assert_eq!(conversion.links, [link]);
    proxy.stop();
}
