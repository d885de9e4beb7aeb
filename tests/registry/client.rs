//! The registry client against Debian's `docker-registry`.

use crate::registry_support;
use std::process::Command;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use overlaybd_proxy::oci::media_type::{OCI_INDEX, OCI_MANIFEST};
use overlaybd_proxy::oci::{Digest, Selector};
use overlaybd_proxy::registry::{
    Authorization, BlobSource, Error, ForwardOptions, Pushed, RegistryConfig, UploadMode, Upstream,
    body,
};
use registry_support::{DockerRegistry, blob, get, noise, push_image, quick, repo, tag, text};

const OWN: Authorization = Authorization::Own;

#[tokio::test]
async fn a_pushed_image_is_pulled_unchanged() {
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
async fn missing_content_is_not_found() {
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

#[tokio::test]
async fn blobs_are_pushed_in_chunks_from_files_and_once() {
    let Some(registry) = DockerRegistry::start() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let name = repo("app");
    for (n, upload) in [
        UploadMode::Monolithic,
        UploadMode::Chunked(1 << 20),
        UploadMode::Chunked(1),
    ]
    .into_iter()
    .enumerate()
    {
        let config = RegistryConfig { upload, ..quick() };
        let upstream = Upstream::registry(&registry.host, &config).unwrap();
        let length = if upload == UploadMode::Chunked(1) {
            3
        } else {
            3_500_000
        };
        let content = noise(length, 100 + n as u64);
        let path = directory.path().join("blob");
        std::fs::write(&path, &content).unwrap();
        let digest = Digest::of(&content);
        let size = content.len() as u64;
        let source = BlobSource::File(path.clone());
        let push = || upstream.push_blob(&name, &digest, size, &source, &OWN);
        assert_eq!(push().await.unwrap(), Pushed::Uploaded);
        assert_eq!(push().await.unwrap(), Pushed::Present);
        assert_eq!(blob(&upstream, "app", &content).await.unwrap(), content[..]);
        std::fs::write(&path, b"shorter").unwrap();
        let error = push().await.unwrap_err();
        assert!(matches!(error, Error::Mismatch { .. }), "{error:?}");
        let wrong = Digest::of(b"something else");
        let source = BlobSource::Bytes(content);
        let error = upstream.push_blob(&name, &wrong, size, &source, &OWN).await;
        assert!(
            matches!(error, Err(Error::Upstream { status: 400, .. })),
            "{error:?}"
        );
        // This registry does not find its way back after a whole PUT that it refused.
        let left = 1;
        assert_eq!(registry.open_uploads("app"), left, "cancelled uploads");
    }
}

#[tokio::test]
async fn blobs_are_mounted_from_another_repository() {
    let Some(registry) = DockerRegistry::start() else {
        return;
    };
    let upstream = Upstream::registry(&registry.host, &quick()).unwrap();
    let content = noise(100_000, 7);
    let digest = Digest::of(&content);
    let size = content.len() as u64;
    let source = BlobSource::Bytes(content.clone());
    let (from, to) = (repo("from"), repo("to"));
    let mounted = upstream.mount_blob(&to, &digest, &from, &OWN).await;
    assert!(!mounted.unwrap(), "it is not there yet");
    assert_eq!(
        registry.open_uploads("to"),
        0,
        "the upload that a refused mount begins is cancelled"
    );
    upstream
        .push_blob(&from, &digest, size, &source, &OWN)
        .await
        .unwrap();
    assert!(
        upstream
            .mount_blob(&to, &digest, &from, &OWN)
            .await
            .unwrap()
    );
    assert_eq!(blob(&upstream, "to", &content).await.unwrap(), content[..]);
}

#[tokio::test]
async fn referrers_are_listed_under_the_fallback_tag() {
    let Some(registry) = DockerRegistry::start() else {
        return;
    };
    let upstream = Upstream::registry(&registry.host, &quick()).unwrap();
    let name = repo("app");
    let subject = push_image(&upstream, &name, "v1", &[noise(1000, 1)], &OWN).await;
    let subject_digest = Digest::of(&subject);
    let config = noise(10, 8);
    let source = BlobSource::Bytes(config.clone());
    upstream
        .push_blob(&name, &Digest::of(&config), 10, &source, &OWN)
        .await
        .unwrap();
    let artifact = |kind: &str| {
        let value = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": kind,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json",
                       "digest": Digest::of(&config).as_str(), "size": 10},
            "layers": [],
            "subject": {"mediaType": OCI_MANIFEST, "digest": subject_digest.as_str(), "size": subject.len()},
            "annotations": {"made": "by test"},
        });
        Bytes::from(serde_json::to_vec(&value).unwrap())
    };
    let push = async |kind: &str| {
        let bytes = artifact(kind);
        let digest = Digest::of(&bytes);
        let selector = Selector::Digest(digest.clone());
        let pushed = upstream
            .push_manifest(&name, &selector, OCI_MANIFEST, bytes, &OWN)
            .await;
        let pushed = pushed.unwrap();
        assert_eq!(pushed.digest, digest);
        assert!(!pushed.referrers_api);
        digest
    };
    // Six at the same time: none may be lost from the list.
    let kinds = ["x/a", "x/b", "x/c", "x/d", "x/e", "x/f"];
    let pushed = futures_util::future::join_all(kinds.map(&push)).await;
    push("x/a").await;
    let found = upstream
        .referrers(&name, &subject_digest, None, &OWN)
        .await
        .unwrap();
    let mut digests: Vec<_> = found.iter().map(|one| one.digest.clone()).collect();
    digests.sort();
    let mut wanted = pushed.clone();
    wanted.sort();
    assert_eq!(digests, wanted);
    let one = upstream
        .referrers(&name, &subject_digest, Some("x/c"), &OWN)
        .await
        .unwrap();
    assert_eq!(one.len(), 1);
    assert_eq!(one[0].digest, pushed[2]);
    assert_eq!(one[0].annotations["made"], "by test");
    let fallback = tag(&format!("sha256-{}", subject_digest.hex()));
    let list = upstream.manifest(&name, &fallback, &OWN).await.unwrap();
    assert_eq!(list.media_type, OCI_INDEX);
}

#[tokio::test]
async fn mirrors_are_asked_first_and_the_registry_where_they_fail() {
    let (Some(registry), Some(mirror)) = (DockerRegistry::start(), DockerRegistry::start()) else {
        return;
    };
    let direct = |host: &str| Upstream::registry(host, &quick()).unwrap();
    let name = repo("library/app");
    let layers = [noise(100_000, 11), noise(100_000, 12)];
    push_image(&direct(&registry.host), &name, "both", &layers, &OWN).await;
    push_image(&direct(&mirror.host), &name, "both", &layers[..1], &OWN).await;
    let only = push_image(&direct(&registry.host), &name, "only", &layers, &OWN).await;

    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("hub.example");
    std::fs::create_dir(&directory).unwrap();
    let toml = format!(
        "server = 'http://{}'\n[host.'http://127.0.0.1:1']\ncapabilities = ['pull', 'resolve']\n\
         [host.'http://{}']\ncapabilities = ['pull', 'resolve']\n",
        registry.host, mirror.host
    );
    std::fs::write(directory.join("hosts.toml"), toml).unwrap();
    let config = RegistryConfig {
        hosts_dirs: vec![root.path().into()],
        ..quick()
    };
    let upstream = Upstream::registry("hub.example", &config).unwrap();
    assert_eq!(upstream.host(), "hub.example");
    let both = upstream.manifest(&name, &tag("both"), &OWN).await.unwrap();
    let of_mirror = direct(&mirror.host)
        .manifest(&name, &tag("both"), &OWN)
        .await;
    assert_eq!(both, of_mirror.unwrap());
    assert!(mirror.log().contains("ns=hub.example"));
    let found = upstream.manifest(&name, &tag("only"), &OWN).await.unwrap();
    assert_eq!(found.bytes, only);
    for layer in &layers {
        assert_eq!(
            blob(&upstream, "library/app", layer).await.unwrap(),
            layer[..]
        );
    }
    let forwarded = upstream
        .forward(
            get("/v2/library/app/manifests/only"),
            ForwardOptions::default(),
        )
        .await
        .unwrap();
    assert_eq!(forwarded.status(), StatusCode::OK);
    assert_eq!(text(forwarded).await.as_bytes(), only);
    // A client's credentials are the registry's business alone.
    let lines = || mirror.log().lines().count();
    let before = lines();
    let client = Authorization::Client(Some(HeaderValue::from_static("Bearer x")));
    upstream
        .manifest(&name, &tag("both"), &client)
        .await
        .unwrap();
    assert_eq!(lines(), before);
    // Writes go to the registry.
    push_image(&upstream, &name, "new", &[noise(10, 1)], &OWN).await;
    assert!(
        direct(&registry.host)
            .manifest(&name, &tag("new"), &OWN)
            .await
            .is_ok()
    );

    std::fs::write(directory.join("hosts.toml"), "sever = 'x'").unwrap();
    let error = Upstream::registry("hub.example", &config).unwrap_err();
    assert!(error.to_string().contains("sever"), "{error}");
}

#[tokio::test]
async fn images_are_exchanged_with_skopeo() {
    let Some(registry) = DockerRegistry::start() else {
        return;
    };
    let (Some(skopeo), Some(umoci)) = (
        registry_support::find("skopeo"),
        registry_support::find("umoci"),
    ) else {
        registry_support::skip("skopeo or umoci is not installed: apt-get install skopeo umoci");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let layout = directory.path().join("layout");
    let image = format!("{}:v1", layout.display());
    registry_support::run(Command::new(&umoci).args(["init", "--layout"]).arg(&layout));
    registry_support::run(Command::new(&umoci).args(["new", "--image", &image]));
    let root = directory.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("file"), noise(50_000, 3)).unwrap();
    registry_support::run(
        Command::new(&umoci)
            .args(["insert", "--image", &image])
            .arg(&root)
            .arg("/data"),
    );
    let to = format!("docker://{}/from/skopeo:v1", registry.host);
    registry_support::run(Command::new(&skopeo).args([
        "copy",
        "--dest-tls-verify=false",
        &format!("oci:{image}"),
        &to,
    ]));
    let upstream = Upstream::registry(&registry.host, &quick()).unwrap();
    let name = repo("from/skopeo");
    let found = upstream.manifest(&name, &tag("v1"), &OWN).await.unwrap();
    let value: serde_json::Value = serde_json::from_slice(&found.bytes).unwrap();
    let layer: Digest = value["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let size = value["layers"][0]["size"].as_u64().unwrap();
    let stream = upstream.blob(&name, &layer, size, &OWN).await.unwrap();
    let chunks: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert_eq!(Digest::of(&chunks.concat()), layer);

    push_image(&upstream, &repo("from/us"), "v1", &[], &OWN).await;
    let inspected = registry_support::run(Command::new(&skopeo).args([
        "inspect",
        "--raw",
        "--tls-verify=false",
        &format!("docker://{}/from/us:v1", registry.host),
    ]));
    let value: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(value["schemaVersion"], 2);
    assert_eq!(
        upstream.tags(&repo("from/us"), &OWN).await.unwrap()[0].as_str(),
        "v1"
    );
}
