//! What is secret is in no span, no line of the log and no shown setting.

use std::fs;

use crate::support::http;
use crate::traces::collector::Collector;
use crate::traces::{Upstream, traced, with};

#[test]
fn no_secret_is_exported_or_logged() {
    let Some(upstream) = Upstream::start() else {
        return;
    };
    let (collector, data) = (Collector::start(), tempfile::tempdir().unwrap());
    let file = data.path().join("headers");
    fs::write(&file, "# of the vendor\nX-Api-Key: collectorsecret\n").unwrap();
    let log = [
        "--log-level",
        "debug",
        "--webhook",
        "http://127.0.0.1:9/hooksecret",
    ];
    let more = [&["--otlp-headers-file", file.to_str().unwrap()], &log[..]].concat();
    let given = [("OVERLAYBD_PROXY_OTLP_HEADERS", "x-more=optionsecret")];
    let store = tempfile::tempdir().unwrap();
    let proxy = traced(&upstream, &collector, store.path(), &given, &more);
    // me:hunter2
    let headers = [
        ("accept", http::ACCEPT),
        ("authorization", "Basic bWU6aHVudGVyMg=="),
    ];
    for path in [
        "team/app/manifests/1_obd?X-Amz-Signature=signaturesecret",
        "team/app/manifests/1?token=signaturesecret",
        "team/app/blobs/uploads/x?_state=signaturesecret",
    ] {
        let url = format!("{}/v2/{path}", proxy.url());
        http::send("GET", &url, &headers, b"");
    }
    collector.wait("convert image");
    // It is read anew.
    fs::write(&file, "X-Api-Key: anothersecret\n").unwrap();
    assert_eq!(proxy.get("team/app/tags/list").status, 200);
    collector.wait("GET /v2/{name}/tags/list");
    let heads = collector.heads();
    assert!(heads[0].contains("x-api-key: collectorsecret"), "{heads:?}");
    assert!(heads[0].contains("x-more: optionsecret"), "{heads:?}");
    assert!(
        heads.concat().contains("x-api-key: anothersecret"),
        "{heads:?}"
    );
    let log = proxy.log();
    proxy.stop();
    let exported = collector.bodies().concat();
    let exported = String::from_utf8_lossy(&exported);
    assert!(exported.contains("overlaybd.repository"));
    for secret in [
        "hunter2",
        "bWU6aHVudGVyMg",
        "signaturesecret",
        "collectorsecret",
        "anothersecret",
        "optionsecret",
        "hooksecret",
    ] {
        assert!(!exported.contains(secret), "{secret}");
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

#[test]
fn headers_are_hidden_in_shown_settings_and_mistakes() {
    let variables = [
        (
            "OVERLAYBD_PROXY_OTLP_ENDPOINT",
            "https://c.example:4318/?key=hunter2",
        ),
        ("OVERLAYBD_PROXY_OTLP_HEADERS", "api-key=hunter2"),
    ];
    let output = with(&variables).args(["config", "check"]).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        shown.contains("otlp-endpoint = \"https://c.example:4318/?***\""),
        "{shown}"
    );
    assert!(shown.contains("otlp-headers = \"***\""), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
    for (name, wrong) in [
        (
            "OVERLAYBD_PROXY_OTLP_ENDPOINT",
            "https://me:hunter2@c.example",
        ),
        ("OVERLAYBD_PROXY_OTLP_HEADERS", "hunter2"),
    ] {
        let mut command = with(&[variables[0], variables[1], (name, wrong)]);
        let output = command.args(["config", "check"]).output().unwrap();
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(name) && !said.contains("hunter2"), "{said}");
    }
}
