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
use overlaybd_proxy::oci::media_type::{MANIFEST_ACCEPT, OCI_INDEX, OCI_MANIFEST};
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
    Request::get(path)
        .header(header::ACCEPT, MANIFEST_ACCEPT)
        .body(body::empty())
        .unwrap()
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

#[tokio::test]
async fn users_and_passwords_are_shown_where_they_are_asked_for() {
    let users = [("me", "right:pass")];
    let Some(registry) = DockerRegistry::start_with_users(&users) else {
        return;
    };
    let name = repo("private/app");
    let owner = Upstream::registry(&registry.host, &basic("me", "right:pass")).unwrap();
    let layers = [noise(200_000, 4)];
    let manifest = push_image(&owner, &name, "v1", &layers, &OWN).await;
    let found = owner.manifest(&name, &tag("v1"), &OWN).await.unwrap();
    assert_eq!(found.bytes, manifest);
    assert_eq!(
        blob(&owner, "private/app", &layers[0]).await.unwrap(),
        layers[0][..]
    );

    let wrong = Upstream::registry(&registry.host, &basic("me", "wr0ng-pass")).unwrap();
    let error = wrong.manifest(&name, &tag("v1"), &OWN).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("wr0ng-pass"));

    let nobody = Upstream::registry(&registry.host, &quick()).unwrap();
    let error = nobody.manifest(&name, &tag("v1"), &OWN).await.unwrap_err();
    let Error::Unauthorized { challenges, .. } = error else {
        panic!("{error:?}");
    };
    assert!(challenges[0].to_str().unwrap().starts_with("Basic realm="));

    // The client's own header goes as it is, and instead of ours.
    let clients = |text: &'static str| Authorization::Client(Some(HeaderValue::from_static(text)));
    let good = clients("Basic bWU6cmlnaHQ6cGFzcw==");
    assert!(nobody.manifest(&name, &tag("v1"), &good).await.is_ok());
    for bad in [clients("Basic bWU6d3Jvbmc="), Authorization::Client(None)] {
        let error = owner.manifest(&name, &tag("v1"), &bad).await.unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn dockers_configuration_and_its_helpers_give_credentials() {
    let users = [("me", "pass")];
    let Some(registry) = DockerRegistry::start_with_users(&users) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let config = |helper: Duration| {
        let mut config = quick();
        config.credentials = Credentials::DockerConfig {
            path: Some(path.clone()),
        };
        config.timeouts.helper = helper;
        config
    };
    let tags = async |config: &RegistryConfig| {
        let upstream = Upstream::registry(&registry.host, config).unwrap();
        upstream.tags(&repo("none"), &OWN).await.unwrap_err()
    };
    let second = Duration::from_secs(10);
    let error = tags(&config(second)).await;
    assert!(matches!(error, Error::Credentials { .. }), "{error:?}");

    let auths = format!(
        r#"{{"auths":{{"{}":{{"auth":"bWU6cGFzcw=="}}}}}}"#,
        registry.host
    );
    std::fs::write(&path, auths).unwrap();
    assert!(tags(&config(second)).await.is_not_found());

    // A helper is found by PATH, which is the whole process's: it gets a name of its own.
    let name = format!("test{}", std::process::id());
    let helper = directory.path().join(format!("docker-credential-{name}"));
    let paths = std::env::var("PATH").unwrap();
    let Some(bin) = paths.split(':').map(PathBuf::from).find(|bin| {
        let place = bin.join(helper.file_name().unwrap());
        std::os::unix::fs::symlink(&helper, place).is_ok()
    }) else {
        registry_support::skip("no directory of PATH can be written to, for a credential helper");
        return;
    };
    let script = |text: &str| {
        // Written by another process: this one's children must not have it open.
        let source = directory.path().join("script");
        std::fs::write(&source, format!("#!/bin/sh\n{text}\n")).unwrap();
        let mut install = Command::new("install");
        registry_support::run(install.args(["-m", "755"]).arg(&source).arg(&helper));
    };
    std::fs::write(&path, format!(r#"{{"credsStore":"{name}"}}"#)).unwrap();
    script(&format!(
        r#"read host; [ "$host" = "{}" ] && echo '{{"Username":"me","Secret":"pass"}}'"#,
        registry.host
    ));
    let good = tags(&config(second)).await;
    script("echo 'credentials not found in native keychain'; exit 1");
    let none = tags(&config(second)).await;
    script("echo s3cret; exit 1");
    let failing = tags(&config(second)).await;
    script("sleep 2");
    let slow = tags(&config(Duration::from_millis(100))).await;
    std::fs::remove_file(bin.join(helper.file_name().unwrap())).unwrap();
    assert!(good.is_not_found(), "{good:?}");
    assert!(matches!(none, Error::Unauthorized { .. }), "{none:?}");
    let shown = failing.to_string();
    assert!(
        shown.contains("docker-credential-") && !shown.contains("s3cret"),
        "{shown}"
    );
    assert!(slow.to_string().contains("no answer"), "{slow}");
}

/// A registry that wants tokens, and the server that gives them.
async fn with_tokens(
    rights: tokens::Rights,
) -> Option<(
    DockerRegistry,
    std::sync::Arc<Tokens>,
    registry_support::scripted::Served,
)> {
    if registry_support::find("openssl").is_none() {
        registry_support::skip("openssl is not installed: apt-get install openssl");
        return None;
    }
    let tokens = Tokens::new(rights);
    let served = tokens.serve().await;
    let settings = tokens.settings(&format!("http://{}/token", served.host()));
    let registry =
        tokio::task::spawn_blocking(move || DockerRegistry::start_with(move |_| settings));
    Some((registry.await.unwrap()?, tokens, served))
}

const ALL: &[&str] = &["pull", "push", "delete", "*"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_fetched_once_a_scope_and_kept() {
    let rights = vec![("me", "pass", "", ALL), ("", "", "open/", &["pull"][..])];
    let Some((registry, tokens, _served)) = with_tokens(rights).await else {
        return;
    };
    let issued = || tokens.issued.load(Ordering::SeqCst);
    let owner = Upstream::registry(&registry.host, &basic("me", "pass")).unwrap();
    let layers = [noise(100_000, 5), noise(100_000, 6)];
    push_image(&owner, &repo("open/app"), "v1", &layers, &OWN).await;
    assert_eq!(issued(), 1, "one token is enough for a push");
    owner
        .manifest(&repo("open/app"), &tag("v1"), &OWN)
        .await
        .unwrap();
    assert_eq!(issued(), 2, "pulling needs less");
    let asked = tokens.asked.lock().unwrap()[1].clone();
    assert_eq!(asked.0, "GET");
    assert!(
        asked.1.contains("scope=repository%3Aopen%2Fapp%3Apull") && asked.2,
        "{asked:?}"
    );
    assert!(asked.1.contains("account=me") && asked.1.contains("service=test-registry"));

    // Many who need the same token wait for one request.
    let nobody = Upstream::registry(&registry.host, &quick()).unwrap();
    let name = repo("open/app");
    let wanted = tag("v1");
    let all = (0..20).map(|_| nobody.manifest(&name, &wanted, &OWN));
    futures_util::future::try_join_all(all).await.unwrap();
    assert_eq!(issued(), 3);

    // Without rights it is a refusal, not a loop.
    push_image(&owner, &repo("closed"), "v1", &layers, &OWN).await;
    let error = nobody
        .manifest(&repo("closed"), &tag("v1"), &OWN)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");

    let wrong = Upstream::registry(&registry.host, &basic("me", "other")).unwrap();
    let error = wrong.manifest(&name, &wanted, &OWN).await.unwrap_err();
    assert!(error.to_string().contains("wrong password"), "{error}");
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_over_is_replaced() {
    let Some((registry, tokens, _served)) = with_tokens(vec![("me", "pass", "", ALL)]).await else {
        return;
    };
    *tokens.life.lock().unwrap() = Some(1);
    let owner = Upstream::registry(&registry.host, &basic("me", "pass")).unwrap();
    let name = repo("app");
    push_image(&owner, &name, "v1", &[], &OWN).await;
    owner.manifest(&name, &tag("v1"), &OWN).await.unwrap();
    let before = tokens.issued.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    owner.manifest(&name, &tag("v1"), &OWN).await.unwrap();
    assert_eq!(tokens.issued.load(Ordering::SeqCst), before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_token_is_exchanged_by_post() {
    let Some((registry, tokens, _served)) = with_tokens(vec![("me", "pass", "", ALL)]).await else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let auths = format!(
        r#"{{"auths":{{"{}":{{"identitytoken":"me:pass"}}}}}}"#,
        registry.host
    );
    std::fs::write(&path, auths).unwrap();
    let config = RegistryConfig {
        credentials: Credentials::DockerConfig { path: Some(path) },
        ..quick()
    };
    let owner = Upstream::registry(&registry.host, &config).unwrap();
    push_image(&owner, &repo("app"), "v1", &[], &OWN).await;
    let asked = tokens.asked.lock().unwrap()[0].clone();
    assert_eq!(asked.0, "POST");
    assert!(
        asked.1.starts_with("grant_type=refresh_token") && !asked.2,
        "{asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_passed_through_with_our_own_credentials() {
    let Some((registry, tokens, _served)) = with_tokens(vec![("me", "pass", "", ALL)]).await else {
        return;
    };
    let owner = Upstream::registry(&registry.host, &basic("me", "pass")).unwrap();
    let own = ForwardOptions {
        own_credentials: true,
        ..ForwardOptions::default()
    };
    let manifest = push_image(&owner, &repo("a/app"), "v1", &[noise(1000, 1)], &OWN).await;
    // A client of its own, which knows of no challenge yet when the first body comes.
    let fresh = Upstream::registry(&registry.host, &basic("me", "pass")).unwrap();
    let put = Request::put("/v2/a/app/manifests/v2")
        .header(header::CONTENT_TYPE, OCI_MANIFEST)
        .header(header::AUTHORIZATION, "Bearer the-clients")
        .body(body::stream(futures_util::stream::iter([Ok::<
            _,
            std::io::Error,
        >(
            manifest.clone(),
        )])));
    let response = fresh.forward(put.unwrap(), own).await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    let get = get("/v2/a/app/manifests/v2");
    let response = fresh.forward(get, own).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let catalog = Request::get("/v2/_catalog").body(body::empty()).unwrap();
    let response = fresh.forward(catalog, own).await.unwrap();
    assert_eq!(text(response).await, "{\"repositories\":[\"a/app\"]}\n");
    let digest = Digest::of(&manifest);
    let delete = Request::delete(format!("/v2/a/app/manifests/{digest}")).body(body::empty());
    let response = fresh.forward(delete.unwrap(), own).await.unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);

    // Without our credentials the challenge is the client's.
    let before = tokens.issued.load(Ordering::SeqCst);
    let ping = Request::get("/v2/").body(body::empty()).unwrap();
    let response = owner
        .forward(ping, ForwardOptions::default())
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(response.headers().contains_key(header::WWW_AUTHENTICATE));
    assert_eq!(tokens.issued.load(Ordering::SeqCst), before);
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

/// A registry behind TLS, which wants a client's certificate if told.
fn with_tls(keys: &std::path::Path, clients: bool) -> Option<DockerRegistry> {
    let file = |name: &str| keys.join(name).display().to_string();
    let mut http = format!(
        "  tls:\n    certificate: {}\n    key: {}\n",
        file("server.crt"),
        file("server.key")
    );
    if clients {
        http = format!("{http}    clientcas:\n      - {}\n", file("ca.crt"));
    }
    DockerRegistry::start_with(|_| Settings {
        http,
        ..Settings::default()
    })
}

#[tokio::test]
async fn a_registrys_certificate_is_verified() {
    let Some(keys) = certificates() else { return };
    let Some(registry) = with_tls(keys.path(), false) else {
        return;
    };
    let ping = async |tls: TlsOptions| {
        let config = RegistryConfig { tls, ..quick() };
        let upstream = Upstream::registry(&registry.host, &config).unwrap();
        upstream.tags(&repo("none"), &OWN).await.unwrap_err()
    };
    let with_root = TlsOptions {
        extra_roots: vec![keys.path().join("ca.crt")],
        ..TlsOptions::default()
    };
    assert!(ping(with_root).await.is_not_found());
    let unverified = TlsOptions {
        skip_verify: true,
        ..TlsOptions::default()
    };
    assert!(ping(unverified).await.is_not_found());
    // Without our root it is not trusted. (The key is there so that https is spoken at all.)
    let unknown = TlsOptions {
        client: Some(ClientIdentity {
            certificate: keys.path().join("client.crt"),
            key: keys.path().join("client.key"),
        }),
        ..TlsOptions::default()
    };
    let begin = std::time::Instant::now();
    let error = ping(unknown).await;
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_it_is_asked_for() {
    let Some(keys) = certificates() else { return };
    let Some(registry) = with_tls(keys.path(), true) else {
        return;
    };
    let mut tls = TlsOptions {
        extra_roots: vec![keys.path().join("ca.crt")],
        ..TlsOptions::default()
    };
    let ping = async |tls: &TlsOptions| {
        let config = RegistryConfig {
            tls: tls.clone(),
            ..quick()
        };
        let upstream = Upstream::registry(&registry.host, &config).unwrap();
        upstream.tags(&repo("none"), &OWN).await.unwrap_err()
    };
    let error = ping(&tls).await;
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    tls.client = Some(ClientIdentity {
        certificate: keys.path().join("client.crt"),
        key: keys.path().join("client.key"),
    });
    assert!(ping(&tls).await.is_not_found());

    // The same by Docker's directory.
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join(&registry.host);
    std::fs::create_dir(&directory).unwrap();
    for (from, to) in [
        ("ca.crt", "ca.crt"),
        ("client.crt", "client.cert"),
        ("client.key", "client.key"),
    ] {
        std::fs::copy(keys.path().join(from), directory.join(to)).unwrap();
    }
    let config = RegistryConfig {
        hosts_dirs: vec!["/nonexistent".into(), root.path().into()],
        ..quick()
    };
    let upstream = Upstream::registry(&registry.host, &config).unwrap();
    let error = upstream.tags(&repo("none"), &OWN).await.unwrap_err();
    assert!(error.is_not_found(), "{error:?}");

    tls.client = Some(ClientIdentity {
        certificate: keys.path().join("client.crt"),
        key: keys.path().join("server.key"),
    });
    let config = RegistryConfig { tls, ..quick() };
    let error = Upstream::registry("r.io", &config).unwrap_err();
    assert!(error.to_string().contains("client.crt"), "{error}");
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
async fn what_skopeo_pushes_is_read_and_what_is_pushed_skopeo_reads() {
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
