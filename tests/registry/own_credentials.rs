//! The program's own credentials: what may be done with them, and what is disclosed of them.

use crate::{registry_support, support};
use registry_support::DockerRegistry;
use support::http::{self, Answer};
use support::image::Image;
use support::proxy::Proxy;
use support::registry::Registry;
use support::tar::Tar;
use support::{noise, sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const READS: &str = "whoever reaches this address reads with the proxy's own credentials";
const REFUSED: &str = "pushes and deletes are refused (--allow-anonymous-push allows them)";

fn registry() -> Option<DockerRegistry> {
    DockerRegistry::start_with_users(&[("robot", "r2")])
}

/// Before `registry`, with its password.
fn proxy(registry: &DockerRegistry, data: &std::path::Path, more: &[&str]) -> Proxy {
    let ours = ["--user=robot:r2", "--own-credentials"];
    Proxy::start(&registry.host, data, &[&ours[..], more].concat())
}

fn send(proxy: &Proxy, method: &str, path: &str, body: &[u8]) -> Answer {
    let headers = [("content-type", MANIFEST), ("accept", MANIFEST)];
    let url = if path.starts_with('/') {
        format!("{}{path}", proxy.url())
    } else {
        path.to_owned()
    };
    http::send(method, &url, &headers, body)
}

/// Pushes an image of no layers as `a/b:v1`: the status of each step; where it goes on, it does.
fn push(proxy: &Proxy) -> Vec<(String, u16)> {
    let config = br#"{"architecture":"amd64","os":"linux"}"#;
    let digest = sha256(config);
    let mut steps = Vec::new();
    let mut step = |name: &str, answer: Answer| {
        steps.push((name.to_owned(), answer.status));
        answer
    };
    let begun = step("begin", send(proxy, "POST", "/v2/a/b/blobs/uploads/", b""));
    if let Some(location) = begun.header("location") {
        let asked = step("state", send(proxy, "GET", location, b""));
        let location = asked.header("location").unwrap_or(location).to_owned();
        let mark = if location.contains('?') { '&' } else { '?' };
        let end = format!("{location}{mark}digest={digest}");
        step("end", send(proxy, "PUT", &end, config));
    }
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":{}}},"layers":[]}}"#,
        config.len()
    );
    let put = send(proxy, "PUT", "/v2/a/b/manifests/v1", manifest.as_bytes());
    step("manifest", put);
    let mount = format!("/v2/c/d/blobs/uploads/?mount={digest}&from=a/b");
    step("mount", send(proxy, "POST", &mount, b""));
    steps
}

fn statuses(steps: &[(&str, u16)]) -> Vec<(String, u16)> {
    let owned = steps
        .iter()
        .map(|(name, status)| ((*name).to_owned(), *status));
    owned.collect()
}

#[test]
fn writes_with_the_proxys_credentials_need_the_option() {
    let Some(registry) = registry() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let closed = proxy(&registry, &data.path().join("closed"), &[]);
    let log = closed.log();
    assert!(log.contains(READS) && log.contains(REFUSED), "{log}");
    let refused = [("begin", 403), ("manifest", 403), ("mount", 403)];
    assert_eq!(push(&closed), statuses(&refused));

    let open = proxy(
        &registry,
        &data.path().join("open"),
        &["--allow-anonymous-push"],
    );
    let log = open.log();
    let writes = "reads, pushes and deletes with the proxy's own credentials";
    assert!(log.contains(writes), "{log}");
    let taken = [
        ("begin", 202),
        ("state", 204),
        ("end", 201),
        ("manifest", 201),
        ("mount", 201),
    ];
    assert_eq!(push(&open), statuses(&taken));

    // What is there is read by anyone, and changed by nobody.
    let manifest = send(&closed, "GET", "/v2/a/b/manifests/v1", b"");
    assert_eq!(manifest.status, 200, "{manifest:?}");
    let digest = sha256(&manifest.body);
    let config = manifest.json()["config"]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    for (method, path) in [
        ("GET", "/v2/".to_owned()),
        ("GET", "/v2/_catalog".to_owned()),
        ("GET", "/v2/a/b/tags/list".to_owned()),
        ("HEAD", "/v2/a/b/manifests/v1".to_owned()),
        ("GET", format!("/v2/a/b/blobs/{config}")),
        ("HEAD", format!("/v2/a/b/blobs/{config}")),
    ] {
        let answer = send(&closed, method, &path, b"");
        assert_eq!(answer.status, 200, "{method} {path}");
    }
    let state = "/v2/a/b/blobs/uploads/5a6f";
    for (method, path) in [
        ("DELETE", format!("/v2/a/b/manifests/{digest}")),
        ("DELETE", "/v2/a/b/manifests/v1".to_owned()),
        ("DELETE", format!("/v2/a/b/blobs/{config}")),
        ("PUT", "/v2/a/b/manifests/v1_obd".to_owned()),
        ("POST", format!("/v2/a/b/blobs/uploads/?digest={config}")),
        ("GET", state.to_owned()),
        ("HEAD", state.to_owned()),
        ("PATCH", state.to_owned()),
        ("PUT", format!("{state}?digest={config}")),
        ("DELETE", state.to_owned()),
    ] {
        let answer = send(&closed, method, &path, b"");
        assert_eq!(answer.status, 403, "{method} {path}");
        if method != "HEAD" {
            assert_eq!(answer.json()["errors"][0]["code"], "DENIED");
            assert!(
                answer.text().contains("--allow-anonymous-push"),
                "{answer:?}"
            );
        }
    }
    let still = send(&open, "GET", "/v2/a/b/manifests/v1", b"");
    assert_eq!(still.body, manifest.body);
    let deleted = send(&open, "DELETE", &format!("/v2/a/b/manifests/{digest}"), b"");
    assert_eq!(deleted.status, 202);
    closed.stop();
    open.stop();
}

#[test]
fn authenticated_clients_write_without_the_option_and_without_a_warning() {
    let Some(registry) = registry() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let users = data.path().join("users");
    let line = registry_support::run(
        std::process::Command::new("htpasswd").args(["-nbB", "-C", "4", "ann", "pw"]),
    );
    std::fs::write(&users, line).unwrap();
    let htpasswd = format!("--htpasswd={}", users.display());
    let known = proxy(&registry, &data.path().join("known"), &[&htpasswd]);
    assert!(!known.log().contains("whoever reaches"), "{}", known.log());
    let blob = noise(7, 100);
    let end = format!("/v2/a/b/blobs/uploads/?digest={}", sha256(&blob));
    let url = format!("{}{end}", known.url());
    // `ann:pw`
    let ann = ("authorization", "Basic YW5uOnB3");
    let octets = ("content-type", "application/octet-stream");
    assert_eq!(http::send("POST", &url, &[octets], &blob).status, 401);
    let begun = http::send("POST", &url, &[ann, octets], &blob);
    assert!(matches!(begun.status, 201 | 202), "{begun:?}");
}

#[test]
fn a_read_only_proxy_logs_that_it_is_read_only() {
    let Some(registry) = registry() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let proxy = proxy(&registry, data.path(), &["--read-only"]);
    let log = proxy.log();
    let refused = "pushes and deletes are refused (--read-only)";
    assert!(log.contains(READS) && log.contains(refused), "{log}");
    let begun = send(&proxy, "POST", "/v2/a/b/blobs/uploads/", b"");
    assert_eq!(begun.status, 405);
}

#[test]
fn details_withheld_from_clients_are_logged() {
    let data = tempfile::tempdir().unwrap();
    let layout = data.path().join("layout");
    let made = support::layout::Layout::create(&layout);
    let upstream = format!("oci:{}", made.path().display());
    let proxy = Proxy::start(&upstream, &data.path().join("data"), &[]);
    let index = layout.join("index.json");
    std::fs::write(&index, "{").unwrap();
    let answer = send(&proxy, "GET", "/v2/a/manifests/v1", b"");
    assert_eq!(answer.status, 502, "{answer:?}");
    let place = data.path().display().to_string();
    assert!(!answer.text().contains(&place), "{answer:?}");
    let id = answer.header("x-request-id").unwrap().to_owned();
    let log = proxy.log();
    let line = log
        .lines()
        .find(|line| line.contains(&id) && line.contains(&index.display().to_string()));
    assert!(line.is_some(), "{log}");
}

#[test]
fn a_push_refused_to_the_proxys_credentials_keeps_the_image_from_nobody() {
    let (Some(open), Some(guarded)) = (Registry::start(), registry()) else {
        return;
    };
    let tar = Tar::new().file("file", noise(9, 1000)).finish();
    open.push("demo", "v1", &Image::gzip(&[tar]).seal());
    let data = tempfile::tempdir().unwrap();
    let target = format!("--push-repo={}/private/place", guarded.host);
    let proxy = Proxy::start(&open.url(), data.path(), &[&target]);
    let answer = proxy.get("demo/manifests/v1_obd");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("www-authenticate"), None);
    for secret in [&guarded.host, "private/place"] {
        assert!(!answer.text().contains(secret), "{answer:?}");
        assert!(proxy.log().contains(secret), "{}", proxy.log());
    }
}
