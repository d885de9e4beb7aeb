//! Conversions as requests meet them: the wait and its end, who leaves, what was evicted.

use crate::{registry_support, server_support, support};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use overlaybd_proxy::convert::{PushTarget, Suffixes};
use overlaybd_proxy::oci::Digest;
use overlaybd_proxy::registry::{Authorization, BlobSource, Upstream};
use overlaybd_proxy::server::{OnTimeout, Pattern, ServerConfig};
use parking_lot::Mutex;
use registry_support::scripted::{self, Answer as Scripted, Log};
use registry_support::{DockerRegistry, quick};
use server_support::{Answer, Proxy, ask, config, plain};
use support::image::{Image, Sealed};
use support::tar::Tar;

/// A registry in memory with one image, whose layers come only when they may.
struct Gated {
    served: scripted::Served,
    log: Log,
    is_open: Arc<AtomicBool>,
    tags: Arc<Mutex<HashMap<String, Sealed>>>,
}

fn image(text: &str) -> Sealed {
    let tar = Tar::new().file("hello", text.repeat(5000)).finish();
    Image::gzip(&[tar]).seal()
}

async fn gated(image: &Sealed) -> Gated {
    let log = Log::default();
    let is_open = Arc::new(AtomicBool::new(false));
    let tags = Arc::new(Mutex::new(HashMap::from([(
        "v1".to_owned(),
        image.clone(),
    )])));
    let (seen, open, images) = (log.clone(), Arc::clone(&is_open), Arc::clone(&tags));
    let served = scripted::serve(move |request| {
        seen.add(&request);
        let path = request.uri().path().to_owned();
        let (open, images) = (Arc::clone(&open), Arc::clone(&images));
        async move {
            let name = path.rsplit('/').next().unwrap_or_default().to_owned();
            let images: HashMap<String, Sealed> = images.lock().clone();
            if path.contains("/manifests/") {
                let found = images
                    .iter()
                    .find(|(tag, image)| **tag == name || image.digest() == name);
                return Scripted::Http(match found {
                    Some((_, image)) => Response::builder()
                        .header("content-type", image.media_type.as_str())
                        .header("docker-content-digest", image.digest())
                        .header("content-length", image.manifest.len())
                        .body(Full::from(image.manifest.clone()))
                        .unwrap(),
                    None => missing(),
                });
            }
            let blobs = images.values().flat_map(|image| &image.blobs);
            let found = blobs
                .into_iter()
                .find(|blob| blob.digest() == name)
                .cloned();
            let Some(blob) = found else {
                return Scripted::Http(missing());
            };
            while blob.media_type.contains("layer") && !open.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Scripted::Http(Response::new(Full::from(blob.bytes)))
        }
    })
    .await;
    Gated {
        served,
        log,
        is_open,
        tags,
    }
}

fn missing() -> Response<Full<Bytes>> {
    Response::builder()
        .status(404)
        .body(Full::default())
        .unwrap()
}

impl Gated {
    fn open(&self) {
        self.is_open.store(true, Ordering::SeqCst);
    }

    fn config(&self) -> ServerConfig {
        let upstream = Upstream::registry(&self.served.host(), &quick()).unwrap();
        config(vec![plain(&upstream)])
    }

    /// Times that a layer was asked for.
    fn fetches(&self, image: &Sealed) -> usize {
        let digest = image.blobs[1].digest();
        let all = self.log.all();
        all.iter()
            .filter(|seen| seen.method == Method::GET && seen.uri.path().contains(&digest))
            .count()
    }
}

const TAG: &str = "/v2/team/app/manifests/v1_obd";

async fn is_converted(proxy: &Proxy, count: u64) {
    let begun = Instant::now();
    loop {
        let jobs = ask(proxy.admin, Method::GET, "/jobs", &[], Bytes::new()).await;
        let jobs: serde_json::Value = serde_json::from_slice(&jobs.body).unwrap();
        if jobs["layers"]["converted"] == count && jobs["images"]["running"] == 0 {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{jobs}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Manifest and every blob of it, digests checked.
async fn assert_whole(proxy: &Proxy, manifest: &Answer) {
    assert_eq!(manifest.status, StatusCode::OK, "{:?}", manifest.body);
    let digest = Digest::of(&manifest.body);
    assert_eq!(manifest.header("docker-content-digest"), digest.as_str());
    let by_digest = proxy.get(&format!("/v2/team/app/manifests/{digest}")).await;
    assert_eq!(by_digest.body, manifest.body);
    assert_eq!(
        by_digest.header("content-type"),
        manifest.header("content-type")
    );
    let document: serde_json::Value = serde_json::from_slice(&manifest.body).unwrap();
    let layers = document["layers"].as_array().unwrap().iter();
    for descriptor in layers.chain([&document["config"]]) {
        let digest = descriptor["digest"].as_str().unwrap();
        let blob = proxy.get(&format!("/v2/team/app/blobs/{digest}")).await;
        assert_eq!(blob.status, StatusCode::OK);
        assert_eq!(Digest::of(&blob.body).as_str(), digest);
    }
}

#[tokio::test]
async fn a_tag_with_the_suffix_gives_the_converted_image() {
    let image = image("a");
    let upstream = gated(&image).await;
    upstream.open();
    let proxy = Proxy::start(upstream.config()).await;
    let head = proxy.head(TAG).await;
    assert_eq!(head.status, StatusCode::OK);
    assert!(head.body.is_empty());
    let answer = proxy.get(TAG).await;
    assert_ne!(answer.header("docker-content-digest"), image.digest());
    for name in [
        "docker-content-digest",
        "content-length",
        "content-type",
        "etag",
    ] {
        assert_eq!(head.header(name), answer.header(name), "{name}");
    }
    assert_whole(&proxy, &answer).await;
    let etag = answer.header("etag").to_owned();
    let again = proxy
        .ask(Method::GET, TAG, &[("if-none-match", &etag)])
        .await;
    assert_eq!(again.status, StatusCode::NOT_MODIFIED);
    assert_eq!(upstream.fetches(&image), 1);
}

#[tokio::test]
async fn the_end_of_a_hold_is_answered_as_on_timeout_says() {
    for on_timeout in [OnTimeout::Wait, OnTimeout::Busy, OnTimeout::Original] {
        let image = image("b");
        let upstream = gated(&image).await;
        let mut config = upstream.config();
        config.hold = Duration::from_millis(100);
        config.on_timeout = on_timeout;
        let proxy = Proxy::start(config).await;
        let path = format!("{TAG}?ns={}", upstream.served.host());
        let begun = Instant::now();
        let answer = proxy.get(&path).await;
        assert!(begun.elapsed() >= Duration::from_millis(100));
        match on_timeout {
            OnTimeout::Wait => {
                assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
                let location = format!("{path}&overlaybd-waits=1");
                assert_eq!(answer.header("location"), location);
            }
            OnTimeout::WaitThenOriginal | OnTimeout::Busy => {
                assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
                assert_eq!(answer.header("retry-after"), "5");
                assert_eq!(answer.code(), "TOOMANYREQUESTS");
            }
            OnTimeout::Original => {
                assert_eq!(answer.status, StatusCode::OK);
                assert_eq!(answer.body, image.manifest);
                assert_eq!(answer.header("docker-content-digest"), image.digest());
            }
        }
        // The conversion goes on, whoever left.
        upstream.open();
        is_converted(&proxy, 1).await;
        let answer = proxy.get(TAG).await;
        assert_whole(&proxy, &answer).await;
        assert_eq!(upstream.fetches(&image), 1);
    }
}

#[tokio::test]
async fn a_conversion_continues_after_its_client_disconnects() {
    let image = image("c");
    let upstream = gated(&image).await;
    let proxy = Proxy::start(upstream.config()).await;
    let asked = tokio::time::timeout(Duration::from_millis(300), proxy.get(TAG)).await;
    assert!(asked.is_err());
    upstream.open();
    is_converted(&proxy, 1).await;
    let answer = proxy.get(TAG).await;
    assert_whole(&proxy, &answer).await;
    assert_eq!(upstream.fetches(&image), 1);
}

#[tokio::test]
async fn an_evicted_blob_is_made_again_with_the_same_bytes() {
    let image = image("d");
    let upstream = gated(&image).await;
    upstream.open();
    let proxy = Proxy::start(upstream.config()).await;
    let manifest = proxy.get(TAG).await;
    let document: serde_json::Value = serde_json::from_slice(&manifest.body).unwrap();
    let layer: Digest = document["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let path = format!("/v2/team/app/blobs/{layer}");
    let before = proxy.get(&path).await;
    // Open files are closed within seconds.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(proxy.store.blobs().remove(&layer).unwrap());
    let head = proxy.head(&path).await;
    assert_eq!(head.header("content-length"), before.body.len().to_string());
    assert!(proxy.get(&path).await.body == before.body);
    assert_eq!(upstream.fetches(&image), 2);
    // Once more, but the source is gone, and the permission is only remembered.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(proxy.store.blobs().remove(&layer).unwrap());
    upstream.tags.lock().clear();
    let answer = proxy.get(&path).await;
    assert!(answer.status.is_client_error(), "{}", answer.status);
}

#[tokio::test]
async fn a_pulled_tag_that_matches_convert_on_pull_is_converted() {
    let image = image("e");
    let upstream = gated(&image).await;
    upstream.open();
    let mut config = upstream.config();
    config.convert_on_pull = vec![Pattern("team/*:v?".to_owned())];
    let proxy = Proxy::start(config).await;
    let other = self::image("f");
    upstream
        .tags
        .lock()
        .insert("latest".to_owned(), other.clone());
    for _ in 0..3 {
        let answer = proxy.head("/v2/team/app/manifests/latest").await;
        assert_eq!(answer.status, StatusCode::OK);
        let answer = proxy.get("/v2/team/app/manifests/v1").await;
        assert_eq!(answer.body, image.manifest);
    }
    is_converted(&proxy, 1).await;
    assert_eq!(upstream.fetches(&image), 1);
    assert_eq!(upstream.fetches(&other), 0);
    assert_whole(&proxy, &proxy.get(TAG).await).await;
}

#[tokio::test]
async fn a_moved_tag_is_followed_after_the_cache_lifetime() {
    let first = image("g");
    let upstream = gated(&first).await;
    upstream.open();
    let mut config = upstream.config();
    config.auth_cache_ttl = Duration::from_millis(200);
    let proxy = Proxy::start(config).await;
    let before = proxy.get(TAG).await;
    let second = image("h");
    upstream.tags.lock().insert("v1".to_owned(), second.clone());
    tokio::time::sleep(Duration::from_millis(250)).await;
    let after = proxy.get(TAG).await;
    assert_eq!(after.status, StatusCode::OK);
    assert_ne!(before.body, after.body);
    assert_whole(&proxy, &after).await;
}

#[tokio::test]
async fn a_pushed_conversion_is_tagged_and_served_from_the_upstream() {
    let Some(registry) = DockerRegistry::start() else {
        return;
    };
    let upstream = Upstream::registry(&registry.host, &quick()).unwrap();
    let image = image("i");
    let name = registry_support::repo("team/app");
    for blob in &image.blobs {
        let source = BlobSource::Bytes(Bytes::from(blob.bytes.clone()));
        let (digest, size) = (blob.digest().parse().unwrap(), blob.bytes.len() as u64);
        upstream
            .push_blob(&name, &digest, size, &source, &Authorization::Own)
            .await
            .unwrap();
    }
    let tag = registry_support::tag("v1");
    let bytes = Bytes::from(image.manifest.clone());
    upstream
        .push_manifest(&name, &tag, &image.media_type, bytes, &Authorization::Own)
        .await
        .unwrap();
    for elsewhere in [None, Some("converted/all")] {
        let target = PushTarget {
            upstream: None,
            repo: elsewhere.map(registry_support::repo),
            suffixes: Suffixes {
                native: "_obd".to_owned(),
                turbo: None,
            },
            overwrite_tags: false,
        };
        let config = config(vec![plain(&upstream)]);
        let proxy = Proxy::that_pushes(config, Some(target)).await;
        let answer = proxy.get(TAG).await;
        assert_whole(&proxy, &answer).await;
        // The tag follows.
        let home = registry_support::repo(elsewhere.unwrap_or("team/app"));
        let begun = Instant::now();
        let pushed = registry_support::tag("v1_obd");
        loop {
            let found = upstream.manifest(&home, &pushed, &Authorization::Own).await;
            match found {
                Ok(found) => break assert_eq!(found.bytes, answer.body),
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(10), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Nothing is left here, and all is still answered.
        tokio::time::sleep(Duration::from_secs(5)).await;
        for blob in proxy.store.blobs().list().unwrap() {
            assert!(proxy.store.blobs().remove(&blob.digest).unwrap());
        }
        assert_whole(&proxy, &answer).await;
        let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let layer = document["layers"][0]["digest"].as_str().unwrap();
        let path = format!("/v2/team/app/blobs/{layer}");
        let range = [("range", "bytes=100-199")];
        let part = proxy.ask(Method::GET, &path, &range).await;
        assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
        assert_eq!(part.body.len(), 100);
        // As the registry has it, not as we would.
        assert!(!part.header("cache-control").contains("private"));
    }
}
