//! Requests that come by HTTP/2 and go on by HTTP/1.1: what belongs to a connection stays there.

use std::process::Stdio;

use serde_json::Value;

use crate::http2::{OPTIONS, Scene, curl, protocols, scripted};
use crate::support::proxy::Proxy;
use crate::support::{self, noise};

#[test]
fn what_belongs_to_a_connection_does_not_pass() {
    if !support::have(&["curl"]) {
        return;
    }
    // It answers with what it was asked.
    let upstream = scripted::echo();
    let data = tempfile::tempdir().unwrap();
    let options = [&OPTIONS[..], &["--h2c"]].concat();
    let proxy = Proxy::start(
        &format!("http://{}", upstream.address),
        data.path(),
        &options,
    );
    let url = format!("{}/v2/team/app/tags/list?n=5", proxy.url());
    let got = curl(
        &url,
        &[
            "--http2-prior-knowledge",
            "-H",
            "TE: trailers",
            "-H",
            "Cookie: a=1",
            "-H",
            "Cookie: b=2",
            "-H",
            "X-Own: kept",
            "-H",
            "Expect: 100-continue",
        ],
    );
    assert_eq!((got.status, &*got.protocol), (200, "2"), "{got:?}");
    let asked: Value = got.json();
    let headers = &asked["headers"];
    assert_eq!(asked["target"], "/v2/team/app/tags/list?n=5");
    assert_eq!(asked["version"], "HTTP/1.1");
    assert_eq!(headers["host"], upstream.address.to_string());
    assert_eq!(headers["x-own"], "kept");
    for name in ["te", "cookie", "expect", "connection", ":authority"] {
        assert!(headers[name].is_null(), "{name}: {headers}");
    }
    for name in ["connection", "keep-alive", "transfer-encoding", "upgrade"] {
        assert_eq!(got.header(name), None, "{got:?}");
    }
    assert_eq!(got.header("x-answer"), Some("kept"));
}

#[test]
fn a_body_of_unknown_length_is_uploaded() {
    let Some(scene) = Scene::new(&[]) else { return };
    let bytes = noise(9, 3_000_000);
    let begun = scene.curl("/v2/team/chunks/blobs/uploads/", &["--http2", "-X", "POST"]);
    assert_eq!(begun.status, 202, "{begun:?}");
    let location = begun.header("location").unwrap();
    assert!(location.starts_with("/v2/team/chunks/"), "{location}");
    // From a pipe: its length is not known before its end.
    let ca = scene.keys.text("ca.crt");
    let patch = |location: &str| {
        let mut child = support::command("curl")
            .args(["-sS", "--http2", "--cacert", &ca, "-X", "PATCH", "-T", "-"])
            .args([
                "-H",
                "content-type: application/octet-stream",
                "-D",
                "-",
                "-o",
                "/dev/null",
            ])
            .arg(format!("{}{location}", scene.proxy.url()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, &bytes).unwrap();
        drop(input);
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    };
    let head = patch(location);
    assert!(head.starts_with("HTTP/2 202"), "{head}");
    let next = head
        .lines()
        .find_map(|line| line.strip_prefix("location: "))
        .unwrap();
    let digest = support::sha256(&bytes);
    let mark = if next.contains('?') { '&' } else { '?' };
    let path = format!("{}{mark}digest={digest}", next.trim());
    let ended = scene.curl(&path, &["--http2", "-X", "PUT"]);
    assert_eq!(ended.status, 201, "{ended:?}");
    let stored = std::fs::read(scene.registry.blob_path(&digest)).unwrap();
    assert!(stored == bytes);
    assert!(
        protocols(&scene.proxy, "/team/chunks/", 3)
            .iter()
            .all(|it| it == "HTTP/2.0")
    );
}

#[test]
fn the_host_and_the_namespace_choose_the_upstream() {
    if !support::have(&["curl"]) {
        return;
    }
    let (one, two) = (scripted::echo(), scripted::echo());
    let data = tempfile::tempdir().unwrap();
    let second = format!("http://{},hosts=two.example,ns=two", two.address);
    let options = [&OPTIONS[..], &["--h2c", "--upstream", &second]].concat();
    let proxy = Proxy::start(&format!("http://{}", one.address), data.path(), &options);
    let target = format!("{}:", proxy.host());
    let connect = format!("::{}", target.trim_end_matches(':'));
    let asked = |url: &str| {
        let got = curl(url, &["--http2-prior-knowledge", "--connect-to", &connect]);
        assert_eq!(got.protocol, "2");
        got.json()["headers"]["host"].as_str().unwrap().to_owned()
    };
    let (one, two) = (one.address.to_string(), two.address.to_string());
    assert_eq!(asked("http://one.example/v2/a/tags/list"), one);
    assert_eq!(asked("http://two.example/v2/a/tags/list"), two);
    assert_eq!(asked("http://TWO.example:8080/v2/a/tags/list"), two);
    assert_eq!(asked("http://one.example/v2/a/tags/list?ns=two"), two);
}

#[test]
fn a_push_that_is_refused_early_says_why() {
    let Some(scene) = Scene::new(&["--read-only"]) else {
        return;
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), noise(3, 4_000_000)).unwrap();
    let body = format!("@{}", file.path().display());
    let path = "/v2/team/app/blobs/uploads/x?digest=sha256:0";
    let got = scene.curl(path, &["--http2", "-X", "PUT", "--data-binary", &body]);
    assert_eq!(got.protocol, "2");
    assert!(matches!(got.status, 403 | 405), "{got:?}");
    assert!(got.json()["errors"][0]["message"].is_string());
}
