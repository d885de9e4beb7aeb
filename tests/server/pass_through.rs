//! What is not converted passes through as if there were no proxy.

use crate::{registry_support, server_support};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use overlaybd_proxy::oci::media_type::{MANIFEST_ACCEPT, OCI_MANIFEST};
use overlaybd_proxy::oci::{Digest, Selector};
use overlaybd_proxy::registry::{Authorization, Upstream};
use overlaybd_proxy::server::{UpstreamChoice, UpstreamEntry};
use registry_support::scripted::{self, Answer as Scripted, Log};
use registry_support::{DockerRegistry, find, noise, push_image, quick, repo, run, skip, tag};
use server_support::{Answer, Proxy, ask, config, plain};

async fn before(registry: &DockerRegistry) -> (Proxy, Upstream) {
    let upstream = Upstream::registry(&registry.host, &quick()).unwrap();
    (Proxy::before(&upstream).await, upstream)
}

async fn send(proxy: &Proxy, method: Method, path: &str, body: Bytes) -> Answer {
    let headers = [("content-type", "application/octet-stream")];
    ask(proxy.address, method, path, &headers, body).await
}

#[tokio::test]
async fn skopeo_pushes_and_pulls_through_the_proxy() {
    if find("skopeo").is_none() {
        return skip("skopeo is not installed: apt-get install skopeo");
    }
    let Some(registry) = DockerRegistry::start() else {
        return;
    };
    let (proxy, upstream) = before(&registry).await;
    let name = repo("from/here");
    let layers = [noise(3_000_000, 1), noise(10, 2)];
    let manifest = push_image(&upstream, &name, "v1", &layers, &Authorization::Own).await;
    let directory = tempfile::tempdir().unwrap();
    let copy = async |from: String, to: String| {
        let work = move || {
            let plain = ["--src-tls-verify=false", "--dest-tls-verify=false"];
            run(Command::new("skopeo")
                .args(["--insecure-policy", "copy", "--preserve-digests"])
                .args(plain)
                .args([from, to]))
        };
        tokio::task::spawn_blocking(work).await.unwrap()
    };
    let front = format!("docker://{}", proxy.address);
    let layout = format!("oci:{}:x", directory.path().join("layout").display());
    copy(format!("{front}/from/here:v1"), layout.clone()).await;
    copy(layout, format!("{front}/to/there:v2")).await;
    let pushed = upstream
        .manifest(&repo("to/there"), &tag("v2"), &Authorization::Own)
        .await
        .unwrap();
    assert_eq!(pushed.bytes, manifest);
    // A tag of the upstream's own may end like ours, and is pushed and pulled as it is.
    copy(
        format!("{front}/from/here:v1"),
        format!("{front}/to/there:only_obd"),
    )
    .await;
    let answer = proxy
        .ask(
            Method::GET,
            "/v2/to/there/manifests/only_obd",
            &[("accept", MANIFEST_ACCEPT)],
        )
        .await;
    assert_eq!((answer.status, answer.body), (StatusCode::OK, manifest));
}

#[tokio::test]
async fn uploads_stay_with_the_proxy_to_their_end() {
    let Some(registry) = DockerRegistry::start() else {
        return;
    };
    let upstream = Upstream::registry(&registry.host, &quick()).unwrap();
    let entries = vec![
        plain(&upstream),
        UpstreamEntry {
            upstream: upstream.clone(),
            choice: UpstreamChoice {
                path_prefix: Some("deep/hub".to_owned()),
                ..UpstreamChoice::default()
            },
        },
    ];
    let proxy = Proxy::start(config(entries)).await;
    for prefix in ["", "deep/hub/"] {
        let content = noise(200_000, prefix.len() as u64 + 1);
        let digest = Digest::of(&content);
        let begin = format!("/v2/{prefix}a/b/blobs/uploads/");
        let answer = send(&proxy, Method::POST, &begin, Bytes::new()).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED);
        let mut location = answer.header("location").to_owned();
        assert!(location.starts_with(&begin), "{location}");
        for half in [content.slice(..150_000), content.slice(150_000..)] {
            let answer = send(&proxy, Method::PATCH, &location, half).await;
            assert_eq!(answer.status, StatusCode::ACCEPTED, "{:?}", answer.body);
            location = answer.header("location").to_owned();
            assert!(location.starts_with(&begin), "{location}");
        }
        let finish = format!("{location}&digest={digest}");
        let answer = send(&proxy, Method::PUT, &finish, Bytes::new()).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{:?}", answer.body);
        let location = answer.header("location").to_owned();
        assert_eq!(location, format!("/v2/{prefix}a/b/blobs/{digest}"));
        let answer = proxy.get(&location).await;
        assert!(answer.body == content);
    }
    let size = upstream
        .blob_size(
            &repo("a/b"),
            &Digest::of(&noise(200_000, 1)),
            &Authorization::Own,
        )
        .await
        .unwrap();
    assert_eq!(size, 200_000);
}

#[tokio::test]
async fn lists_are_paged_through_the_proxy() {
    let Some(registry) = DockerRegistry::start() else {
        return;
    };
    let (proxy, upstream) = before(&registry).await;
    for name in ["a", "b", "c"] {
        push_image(&upstream, &repo(name), "v1", &[], &Authorization::Own).await;
    }
    let mut names = Vec::new();
    let mut next = Some("/v2/_catalog?n=1".to_owned());
    while let Some(path) = next {
        let answer = proxy.get(&path).await;
        assert_eq!(answer.status, StatusCode::OK);
        let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        names.extend(document["repositories"].as_array().unwrap().clone());
        let link = answer.header("link");
        next = link.split_once('<').map(|(_, rest)| {
            let (target, _) = rest.split_once('>').unwrap();
            assert!(target.starts_with("/v2/_catalog"), "{target}");
            target.to_owned()
        });
    }
    assert_eq!(names, ["a", "b", "c"]);
}

#[tokio::test]
async fn a_range_of_an_ordinary_blob_passes_too() {
    let Some(registry) = DockerRegistry::start() else {
        return;
    };
    let (proxy, upstream) = before(&registry).await;
    let layer = noise(100_000, 9);
    push_image(
        &upstream,
        &repo("a"),
        "v1",
        std::slice::from_ref(&layer),
        &Authorization::Own,
    )
    .await;
    let path = format!("/v2/a/blobs/{}", Digest::of(&layer));
    let answer = proxy
        .ask(Method::GET, &path, &[("range", "bytes=500-1499")])
        .await;
    assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
    assert!(answer.body == layer.slice(500..1500));
    let head = proxy.head(&path).await;
    assert_eq!(head.header("content-length"), "100000");
}

/// A registry that says what it was asked.
async fn echo(name: &'static str) -> (scripted::Served, Log) {
    let log = Log::default();
    let seen = log.clone();
    let served = scripted::serve(move |request| {
        seen.add(&request);
        let response = Response::builder()
            .header("x-upstream", name)
            .header("connection", "x-private")
            .header("x-private", "1")
            .body(Full::from(request.uri().to_string()))
            .unwrap();
        std::future::ready(Scripted::Http(response))
    })
    .await;
    (served, log)
}

#[tokio::test]
async fn a_request_selects_among_configured_upstreams_only() {
    let (first, _) = echo("first").await;
    let (second, log) = echo("second").await;
    let (third, _) = echo("third").await;
    let entry = |served: &scripted::Served, choice| UpstreamEntry {
        upstream: Upstream::registry(&served.host(), &quick()).unwrap(),
        choice,
    };
    let proxy = Proxy::start(config(vec![
        entry(&first, UpstreamChoice::default()),
        entry(
            &second,
            UpstreamChoice {
                namespaces: vec!["docker.io".to_owned()],
                hosts: vec!["mirror.example".to_owned()],
                path_prefix: None,
            },
        ),
        entry(
            &third,
            UpstreamChoice {
                path_prefix: Some("third".to_owned()),
                ..UpstreamChoice::default()
            },
        ),
    ]))
    .await;
    let tags = "/v2/a/tags/list";
    for (path, host, upstream, seen) in [
        (tags, "x", "first", tags),
        ("/v2/a/tags/list?ns=docker.io", "x", "second", tags),
        (
            "/v2/a/tags/list?n=5&ns=registry-1.docker.io",
            "x",
            "second",
            "/v2/a/tags/list?n=5",
        ),
        (tags, "MIRROR.example:5000", "second", tags),
        ("/v2/third/a/tags/list", "x", "third", tags),
        ("/v2/third", "x", "third", "/v2/"),
        ("/v2/%74hird/a/tags/list", "x", "third", tags),
        (
            "/v2/thirdly/tags/list",
            "x",
            "first",
            "/v2/thirdly/tags/list",
        ),
    ] {
        let answer = proxy.ask(Method::GET, path, &[("host", host)]).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("x-upstream"), upstream, "{path}");
        assert_eq!(answer.body, seen, "{path}");
        assert_eq!(answer.header("x-private"), "", "{path}");
        let namespace = path.split("ns=").nth(1).unwrap_or_default();
        assert_eq!(answer.header("oci-namespace"), namespace, "{path}");
    }
    // By its own name, too.
    let path = format!("/v2/a/tags/list?ns={}", third.host());
    assert_eq!(proxy.get(&path).await.header("x-upstream"), "third");
    let before = log.all().len();
    for unknown in ["ghcr.io", "169.254.169.254", "", "docker.io&ns=ghcr.io"] {
        let answer = proxy.get(&format!("/v2/a/tags/list?ns={unknown}")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{unknown}");
        assert_eq!(answer.code(), "NAME_UNKNOWN");
    }
    // It says what to do.
    let answer = proxy.get("/v2/a/tags/list?ns=ghcr.io").await;
    let text = String::from_utf8_lossy(&answer.body);
    assert!(text.contains("--upstream HOST,ns=ghcr.io"), "{text}");
    assert_eq!(log.all().len(), before);
}

#[tokio::test]
async fn headers_pass_but_for_those_of_the_connection() {
    let (served, log) = echo("x").await;
    let upstream = Upstream::registry(&served.host(), &quick()).unwrap();
    let proxy = Proxy::before(&upstream).await;
    let headers = [
        ("authorization", "Bearer abc"),
        ("accept", "x/y"),
        ("x-request-id", "given-1"),
        ("x-forwarded-host", "evil"),
        ("te", "trailers"),
        ("connection", "x-mine"),
        ("x-mine", "1"),
    ];
    let answer = proxy
        .ask(Method::GET, "/v2/a/tags/list?n=1", &headers)
        .await;
    assert_eq!(answer.header("x-request-id"), "given-1");
    for (name, wanted) in [
        ("authorization", Some("Bearer abc")),
        ("accept", Some("x/y")),
        ("x-request-id", Some("given-1")),
        ("x-forwarded-host", None),
        ("te", None),
        ("x-mine", None),
        ("host", Some(served.host().as_str())),
    ] {
        assert_eq!(log.header(0, name).as_deref(), wanted, "{name}");
    }
}

#[tokio::test]
async fn a_read_only_proxy_refuses_writes() {
    let (served, log) = echo("x").await;
    let upstream = Upstream::registry(&served.host(), &quick()).unwrap();
    let mut config = config(vec![plain(&upstream)]);
    config.read_only = true;
    let proxy = Proxy::start(config).await;
    for method in [Method::PUT, Method::POST, Method::PATCH, Method::DELETE] {
        let answer = proxy.ask(method, "/v2/a/manifests/x_obd", &[]).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.code(), "UNSUPPORTED");
    }
    assert!(log.all().is_empty());
    let answer = proxy.get("/v2/a/tags/list").await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn nothing_outside_of_the_registry_is_passed() {
    let (served, log) = echo("x").await;
    let upstream = Upstream::registry(&served.host(), &quick()).unwrap();
    let proxy = Proxy::before(&upstream).await;
    for path in ["/", "/metrics", "/v1/_ping", "/v2x"] {
        let answer = proxy.get(path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(answer.code(), "NAME_UNKNOWN");
    }
    for path in ["/v2/../admin", "/v2/a/%2e%2e/%2E./debug"] {
        let answer = proxy.get(path).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(answer.code(), "NAME_INVALID");
    }
    assert!(log.all().is_empty());
}

#[tokio::test]
async fn redirects_are_passed_to_clients_unless_followed() {
    let (store, _) = echo("store").await;
    let target = format!("http://{}/blob?signature=s3cret", store.host());
    let registry = scripted::always(307, "location", &target).await;
    let upstream = Upstream::registry(&registry.host(), &quick()).unwrap();
    let path = format!("/v2/a/blobs/{}", Digest::of(b"x"));
    let proxy = Proxy::before(&upstream).await;
    let answer = proxy.get(&path).await;
    assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(answer.header("location"), target);
    let mut config = config(vec![plain(&upstream)]);
    config.follow_redirects = true;
    let proxy = Proxy::start(config).await;
    let answer = proxy.get(&path).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("x-upstream"), "store");
}

#[tokio::test]
async fn a_tag_with_the_suffix_of_an_artifact_is_reported_as_no_image() {
    let Some(registry) = DockerRegistry::start() else {
        return;
    };
    let (proxy, upstream) = before(&registry).await;
    let name = repo("charts/x");
    let config = Bytes::from_static(b"{}");
    let source = overlaybd_proxy::registry::BlobSource::Bytes(config.clone());
    let digest = Digest::of(&config);
    upstream
        .push_blob(&name, &digest, 2, &source, &Authorization::Own)
        .await
        .unwrap();
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"{digest}","size":2}},"layers":[{{"mediaType":"application/vnd.cncf.helm.chart.content.v1.tar+gzip","digest":"{digest}","size":2}}]}}"#
    );
    let selector: Selector = tag("v1");
    upstream
        .push_manifest(
            &name,
            &selector,
            OCI_MANIFEST,
            Bytes::from(text),
            &Authorization::Own,
        )
        .await
        .unwrap();
    let proxy = Arc::new(proxy);
    let answer = proxy.get("/v2/charts/x/manifests/v1_obd").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{:?}", answer.body);
    assert_eq!(answer.code(), "MANIFEST_INVALID");
    let head = proxy.head("/v2/charts/x/manifests/v1_obd").await;
    assert_eq!(head.status, StatusCode::BAD_REQUEST);
    let answer = proxy.get("/v2/charts/x/manifests/v9_obd").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.code(), "MANIFEST_UNKNOWN");
}
