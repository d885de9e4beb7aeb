//! The registry client against Debian's `docker-registry`.

mod registry_support;

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use overlaybd_proxy::oci::media_type::{OCI_INDEX, OCI_MANIFEST};
use overlaybd_proxy::oci::{Digest, Selector};
use overlaybd_proxy::registry::{
    Authorization, BlobSource, Body, ClientIdentity, Credentials, Error, ForwardOptions, Pushed,
    RegistryConfig, Secret, TlsOptions, UploadMode, Upstream, body,
};
use registry_support::tokens::{self, Tokens};
use registry_support::{
    DockerRegistry, Settings, certificates, noise, push_image, quick, repo, tag,
};

const OWN: Authorization = Authorization::Own;

fn basic(username: &str, password: &str) -> RegistryConfig {
    RegistryConfig {
        credentials: Credentials::Basic {
            username: username.to_owned(),
            password: Secret::new(password),
        },
        ..quick()
    }
}

async fn blob(upstream: &Upstream, name: &str, bytes: &Bytes) -> Result<Vec<u8>, Error> {
    let digest = Digest::of(bytes);
    let size = bytes.len() as u64;
    let stream = upstream.blob(&repo(name), &digest, size, &OWN).await?;
    let chunks: Vec<Bytes> = stream.try_collect().await?;
    Ok(chunks.concat())
}

fn get(path: &str) -> Request<Body> {
    Request::builder().uri(path).body(body::empty()).unwrap()
}

async fn text(response: http::Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn an_image_that_is_pushed_comes_back_as_it_was() {
    let Some(registry) = DockerRegistry::start() else {
        return;
    };
    let upstream = Upstream::registry(&registry.host, &quick()).unwrap();
    assert_eq!(upstream.host(), registry.host);
    let layers = [noise(300_000, 1), noise(0, 2), noise(5_000_000, 3)];
    let name = repo("team/app");
    let manifest = push_image(&upstream, &name, "v1", &layers, &OWN).await;

    let by_tag = upstream.manifest(&name, &tag("v1"), &OWN).await.unwrap();
    assert_eq!(by_tag.bytes, manifest);
    assert_eq!(by_tag.digest, Digest::of(&manifest));
    assert_eq!(by_tag.media_type, OCI_MANIFEST);
    let head = upstream
        .head_manifest(&name, &tag("v1"), &OWN)
        .await
        .unwrap();
    assert_eq!(head.digest, by_tag.digest);
    assert_eq!(head.size, manifest.len() as u64);
    assert_eq!(head.media_type, OCI_MANIFEST);
    let selector = Selector::Digest(by_tag.digest.clone());
    let by_digest = upstream.manifest(&name, &selector, &OWN).await.unwrap();
    assert_eq!(by_digest, by_tag);

    for layer in &layers {
        assert_eq!(blob(&upstream, "team/app", layer).await.unwrap(), layer[..]);
        let digest = Digest::of(layer);
        let size = upstream.blob_size(&name, &digest, &OWN).await.unwrap();
        assert_eq!(size, layer.len() as u64);
    }
    let digest = Digest::of(&layers[2]);
    for range in [0..1, 4_999_999..5_000_000, 1_234_567..3_456_789, 7..7] {
        let part = upstream
            .blob_range(&name, &digest, range.clone(), &OWN)
            .await
            .unwrap();
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        assert_eq!(part, layers[2][range]);
    }
    let beyond = upstream
        .blob_range(&name, &digest, 4_999_999..5_000_001, &OWN)
        .await;
    assert!(matches!(beyond, Err(Error::Mismatch { .. })), "{beyond:?}");
    let behind = upstream
        .blob_range(&name, &digest, 6_000_000..6_000_001, &OWN)
        .await;
    assert!(matches!(behind, Err(Error::Mismatch { .. })), "{behind:?}");
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let Some(registry) = DockerRegistry::start() else {
        return;
    };
    let upstream = Upstream::registry(&registry.host, &quick()).unwrap();
    let name = repo("none");
    let digest = Digest::of(b"none");
    let manifest = upstream
        .manifest(&name, &tag("v1"), &OWN)
        .await
        .unwrap_err();
    assert!(manifest.is_not_found());
    let shown = manifest.to_string();
    assert!(shown.contains("/v2/none/manifests/v1") && shown.contains("MANIFEST_UNKNOWN"));
    let head = upstream.head_manifest(&name, &tag("v1"), &OWN).await;
    assert!(head.unwrap_err().is_not_found());
    let size = upstream.blob_size(&name, &digest, &OWN).await;
    assert!(size.unwrap_err().is_not_found());
    let tags = upstream.tags(&name, &OWN).await;
    assert!(tags.unwrap_err().is_not_found());
    let blob = upstream.blob(&name, &digest, 4, &OWN).await;
    assert!(blob.unwrap_err().is_not_found());
    let referrers = upstream.referrers(&name, &digest, None, &OWN).await;
    assert_eq!(referrers.unwrap(), []);
}

#[tokio::test]
async fn a_request_is_passed_through_with_status_headers_and_body() {
    let Some(registry) = DockerRegistry::start() else {
        return;
    };
    let upstream = Upstream::registry(&registry.host, &quick()).unwrap();
    let options = ForwardOptions::default();
    let response = upstream.forward(get("/v2/"), options).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(text(response).await, "{}");

    // A push, as a client makes it.
    let content = noise(3_000_000, 9);
    let digest = Digest::of(&content);
    let post = Request::post("/v2/a/b/blobs/uploads/").body(body::empty());
    let response = upstream.forward(post.unwrap(), options).await.unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let location = response.headers()[header::LOCATION].to_str().unwrap();
    let location: http::Uri = location.parse().unwrap();
    let path = location.path_and_query().unwrap().to_string();
    let chunks: Vec<_> = content
        .chunks(100_000)
        .map(|chunk| Ok::<_, std::io::Error>(Bytes::copy_from_slice(chunk)))
        .collect();
    let put = Request::put(format!("{path}&digest={digest}"))
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::EXPECT, "100-continue")
        .body(body::stream(futures_util::stream::iter(chunks)));
    let response = upstream.forward(put.unwrap(), options).await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);

    let mut request = get(&format!("/v2/a/b/blobs/{digest}"));
    let range = HeaderValue::from_static("bytes=10-19");
    request.headers_mut().insert(header::RANGE, range);
    let response = upstream.forward(request, options).await.unwrap();
    assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(response.headers()[header::CONTENT_LENGTH], "10");
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(bytes, content[10..20]);

    let response = upstream
        .forward(get("/v2/a/b/manifests/none"), options)
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert!(text(response).await.contains("MANIFEST_UNKNOWN"));

    for outside in ["/", "/v1/x", "/v2/../x", "/v2/a/%2e%2E/x", "/v2x"] {
        let refused = upstream.forward(get(outside), options).await;
        assert!(
            matches!(refused, Err(Error::Unsupported { .. })),
            "{outside}"
        );
    }
}
