//! Converted content, requested by digest.

use crate::{registry_support, server_support};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use overlaybd_proxy::oci::media_type::MANIFEST_ACCEPT;
use overlaybd_proxy::oci::{Digest, RepoName};
use overlaybd_proxy::registry::{Authorization, Upstream};
use registry_support::{DockerRegistry, noise, push_image, quick, repo};
use server_support::{Answer, Proxy, config, plain};

/// A proxy before a registry with an image, and a blob that the image became.
struct Scene {
    proxy: Proxy,
    registry: DockerRegistry,
    upstream: Upstream,
    repo: RepoName,
    source: Digest,
    content: Bytes,
    path: String,
}

async fn scene() -> Option<Scene> {
    let registry = DockerRegistry::start()?;
    let upstream = Upstream::registry(&registry.host, &quick()).unwrap();
    let repo = repo("team/app");
    let layers = [noise(1000, 1)];
    let manifest = push_image(&upstream, &repo, "v1", &layers, &Authorization::Own).await;
    let source = Digest::of(&manifest);
    let proxy = Proxy::before(&upstream).await;
    let content = noise(1_000_003, 7);
    let digest = proxy.plant(upstream.host(), &repo, &source, &content).await;
    Some(Scene {
        path: format!("/v2/{repo}/blobs/{digest}"),
        proxy,
        registry,
        upstream,
        repo,
        source,
        content,
    })
}

impl Scene {
    async fn get(&self, headers: &[(&str, &str)]) -> Answer {
        self.proxy.ask(Method::GET, &self.path, headers).await
    }

    async fn range(&self, range: &str) -> Answer {
        self.get(&[("range", range)]).await
    }
}

#[tokio::test]
async fn a_blob_is_served_whole_with_the_headers_that_clients_need() {
    let Some(scene) = scene().await else { return };
    let answer = scene.get(&[]).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body == scene.content);
    let digest = Digest::of(&scene.content);
    assert_eq!(answer.header("docker-content-digest"), digest.as_str());
    assert_eq!(answer.header("etag"), format!("\"{digest}\""));
    assert_eq!(answer.header("accept-ranges"), "bytes");
    assert_eq!(answer.header("content-length"), "1000003");
    assert_eq!(answer.header("content-type"), "application/octet-stream");
    assert_eq!(
        answer.header("docker-distribution-api-version"),
        "registry/2.0"
    );
    assert!(!answer.header("x-request-id").is_empty());
    let head = scene
        .proxy
        .ask(Method::HEAD, &scene.path, &[("range", "bytes=0-1")])
        .await;
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(head.header("content-length"), "1000003");
    assert!(head.body.is_empty());
}

#[tokio::test]
async fn a_single_range_gives_these_bytes() {
    let Some(scene) = scene().await else { return };
    let size = scene.content.len();
    for (range, wanted) in [
        ("bytes=0-0", 0..1),
        ("bytes=4096-8191", 4096..8192),
        ("bytes=1000000-", 1_000_000..size),
        ("bytes=-7", size - 7..size),
        ("bytes=300000-999999", 300_000..1_000_000),
        ("bytes=1000002-9999999", 1_000_002..size),
    ] {
        let answer = scene.range(range).await;
        assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT, "{range}");
        assert!(answer.body == scene.content[wanted.clone()], "{range}");
        assert_eq!(
            answer.header("content-range"),
            format!("bytes {}-{}/{size}", wanted.start, wanted.end - 1)
        );
    }
}

#[tokio::test]
async fn ranges_that_are_not_there_are_416_and_bad_ones_are_ignored() {
    let Some(scene) = scene().await else { return };
    for range in ["bytes=1000003-", "bytes=-0", "bytes=9999999-99999999"] {
        let answer = scene.range(range).await;
        assert_eq!(answer.status, StatusCode::RANGE_NOT_SATISFIABLE, "{range}");
        assert_eq!(answer.header("content-range"), "bytes */1000003");
        assert_eq!(answer.code(), "SIZE_INVALID");
    }
    let abuse = format!("bytes={}", vec!["0-"; 40].join(","));
    assert_eq!(
        scene.range(&abuse).await.status,
        StatusCode::RANGE_NOT_SATISFIABLE
    );
    for range in ["bytes=9-1", "items=0-1", "bytes=x"] {
        assert_eq!(scene.range(range).await.status, StatusCode::OK, "{range}");
    }
}

#[tokio::test]
async fn several_ranges_come_as_parts() {
    let Some(scene) = scene().await else { return };
    let answer = scene.range("bytes=900000-900099,0-9, -5").await;
    assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(
        answer.header("content-length"),
        answer.body.len().to_string()
    );
    let kind = answer.header("content-type");
    let boundary = kind
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap();
    let mut wanted = Vec::new();
    let size = scene.content.len();
    for range in [900_000..900_100, 0..10, size - 5..size] {
        wanted.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
        wanted.extend_from_slice(b"Content-Type: application/octet-stream\r\n");
        let line = format!(
            "Content-Range: bytes {}-{}/{size}\r\n\r\n",
            range.start,
            range.end - 1
        );
        wanted.extend_from_slice(line.as_bytes());
        wanted.extend_from_slice(&scene.content[range]);
    }
    wanted.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert!(answer.body == wanted[2..]);
}

#[tokio::test]
async fn conditional_requests_are_answered() {
    let Some(scene) = scene().await else { return };
    let etag = format!("\"{}\"", Digest::of(&scene.content));
    let answer = scene.get(&[("if-none-match", &etag)]).await;
    assert_eq!(answer.status, StatusCode::NOT_MODIFIED);
    assert!(answer.body.is_empty());
    assert_eq!(answer.header("etag"), etag);
    let range = ("range", "bytes=0-1");
    for (condition, status) in [
        (etag.as_str(), StatusCode::PARTIAL_CONTENT),
        ("\"another\"", StatusCode::OK),
        ("Wed, 21 Oct 2015 07:28:00 GMT", StatusCode::OK),
    ] {
        let answer = scene.get(&[range, ("if-range", condition)]).await;
        assert_eq!(answer.status, status, "{condition}");
    }
    let answer = scene.get(&[("if-match", "\"another\"")]).await;
    assert_eq!(answer.status, StatusCode::PRECONDITION_FAILED);
    let answer = scene.get(&[("if-match", &etag)]).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_small_ranges_give_the_right_bytes() {
    let Some(scene) = scene().await else { return };
    let scene = std::sync::Arc::new(scene);
    let mut readers = tokio::task::JoinSet::new();
    for reader in 0..32_usize {
        let scene = std::sync::Arc::clone(&scene);
        readers.spawn(async move {
            for turn in 0..50_usize {
                let start = (reader * 7_919 + turn * 104_729) % 900_000;
                let end = start + 1 + (turn * 4_099) % 90_000;
                let answer = scene.range(&format!("bytes={start}-{}", end - 1)).await;
                assert!(answer.body == scene.content[start..end]);
            }
        });
    }
    while let Some(done) = readers.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn a_converted_manifest_is_served_by_its_digest_with_its_own_type() {
    let Some(scene) = scene().await else { return };
    let media_type = "application/vnd.docker.distribution.manifest.v2+json";
    let text = format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","layers":[]}}"#);
    let digest = scene
        .proxy
        .plant(
            scene.upstream.host(),
            &scene.repo,
            &scene.source,
            text.as_bytes(),
        )
        .await;
    let path = format!("/v2/{}/manifests/{digest}", scene.repo);
    for _ in 0..2 {
        let answer = scene.proxy.get(&path).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.body, text);
        assert_eq!(answer.header("content-type"), media_type);
        assert_eq!(answer.header("docker-content-digest"), digest.as_str());
    }
    let head = scene.proxy.head(&path).await;
    assert_eq!(head.header("content-length"), text.len().to_string());
    assert!(head.body.is_empty());
    let etag = format!("\"{digest}\"");
    let answer = scene
        .proxy
        .ask(Method::GET, &path, &[("if-none-match", &etag)])
        .await;
    assert_eq!(answer.status, StatusCode::NOT_MODIFIED);
    // A layer is no manifest, whatever it is asked as.
    let path = scene.path.replace("/blobs/", "/manifests/");
    let answer = scene.proxy.get(&path).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.code(), "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn what_is_not_converted_comes_from_the_upstream() {
    let Some(scene) = scene().await else { return };
    let layer = noise(1000, 1);
    let path = format!("/v2/{}/blobs/{}", scene.repo, Digest::of(&layer));
    let answer = scene.proxy.get(&path).await;
    assert_eq!((answer.status, &answer.body), (StatusCode::OK, &layer));
    let path = format!("/v2/{}/manifests/{}", scene.repo, scene.source);
    let accept = [("accept", MANIFEST_ACCEPT)];
    let answer = scene.proxy.ask(Method::GET, &path, &accept).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(Digest::of(&answer.body), scene.source);
    let unknown = format!("/v2/{}/blobs/{}", scene.repo, Digest::of(b"unknown"));
    let answer = scene.proxy.get(&unknown).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.code(), "BLOB_UNKNOWN");
}

#[tokio::test]
async fn a_digest_does_not_give_access_to_another_repositorys_blob() {
    let Some(scene) = scene().await else { return };
    let path = scene.path.replace("team/app", "team/other");
    let answer = scene.proxy.get(&path).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_blob_is_readable_when_its_source_is_gone_from_its_repository() {
    let Some(scene) = scene().await else { return };
    // Before anything was remembered of it.
    let path = format!("/v2/{}/manifests/{}", scene.repo, scene.source);
    let deleted = scene.proxy.ask(Method::DELETE, &path, &[]).await;
    assert_eq!(deleted.status, StatusCode::ACCEPTED);
    let answer = scene.get(&[]).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.body, scene.content);
    drop(scene.registry);
}

#[tokio::test]
async fn without_an_upstream_nothing_is_served() {
    let Some(scene) = scene().await else { return };
    let mut config = config(vec![plain(&scene.upstream)]);
    config.auth_cache_ttl = Duration::ZERO;
    let proxy = Proxy::start(config).await;
    let digest = proxy
        .plant(
            scene.upstream.host(),
            &scene.repo,
            &scene.source,
            &scene.content,
        )
        .await;
    let path = format!("/v2/{}/blobs/{digest}", scene.repo);
    assert_eq!(proxy.get(&path).await.status, StatusCode::OK);
    drop(scene.registry);
    let answer = proxy.get(&path).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.code(), "UNAVAILABLE");
}
