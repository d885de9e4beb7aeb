//! Permission: what clients with different rights get.

use crate::{registry_support, server_support};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use overlaybd_proxy::oci::Digest;
use overlaybd_proxy::oci::media_type::OCI_MANIFEST;
use overlaybd_proxy::registry::{Authorization, Upstream};
use overlaybd_proxy::server::Access;
use parking_lot::Mutex;
use registry_support::scripted::{self, Answer as Scripted};
use registry_support::tokens::Tokens;
use registry_support::{DockerRegistry, find, noise, push_image, quick, quick_as, repo, run, skip};
use server_support::{Proxy, ask, basic, config, plain};

/// A token that the token server gives `login` for `scope`.
async fn token(tokens: &scripted::Served, login: Option<(&str, &str)>, scope: &str) -> String {
    let path = format!("/token?service=test-registry&scope={scope}");
    let authorization = login.map(|(user, password)| basic(user, password));
    let headers: Vec<(&str, &str)> = authorization
        .iter()
        .map(|value| ("authorization", value.as_str()))
        .collect();
    let answer = ask(tokens.address, Method::GET, &path, &headers, Bytes::new()).await;
    assert_eq!(answer.status, StatusCode::OK);
    let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    format!("Bearer {}", document["token"].as_str().unwrap())
}

#[tokio::test]
async fn without_permission_nothing_of_a_private_repository_is_served() {
    if find("openssl").is_none() {
        return skip("openssl is not installed: apt-get install openssl");
    }
    let rights = vec![
        ("ann", "a", "team/", &["pull", "push"][..]),
        ("bob", "b", "public/", &["pull", "push"][..]),
        ("", "", "public/", &["pull"][..]),
    ];
    let tokens = Tokens::new(rights);
    let realm = tokens.serve().await;
    let address = format!("http://{}/token", realm.host());
    let started = DockerRegistry::start_with(|_| tokens.settings(&address));
    let Some(registry) = started else { return };
    let ann = quick_as("ann", "a");
    let upstream = Upstream::registry(&registry.host, &ann).unwrap();
    let private = repo("team/secret");
    let manifest = push_image(
        &upstream,
        &private,
        "v1",
        &[noise(100, 1)],
        &Authorization::Own,
    )
    .await;
    let source = Digest::of(&manifest);

    // The proxy itself knows nobody's password.
    let upstream = Upstream::registry(&registry.host, &quick()).unwrap();
    let proxy = Proxy::before(&upstream).await;
    let blob = proxy
        .plant(upstream.host(), &private, &source, b"converted layer")
        .await;
    let text = format!(r#"{{"mediaType":"{OCI_MANIFEST}"}}"#);
    let converted = proxy
        .plant(upstream.host(), &private, &source, text.as_bytes())
        .await;
    let paths = [
        "/v2/team/secret/manifests/v1".to_owned(),
        "/v2/team/secret/manifests/v1_obd".to_owned(),
        format!("/v2/team/secret/manifests/{converted}"),
        format!("/v2/team/secret/blobs/{blob}"),
        format!("/v2/team/secret/blobs/{converted}"),
    ];
    let pull = "repository:team/secret:pull";
    let ann = token(&realm, Some(("ann", "a")), pull).await;
    let bob = token(&realm, Some(("bob", "b")), pull).await;
    let nobody = token(&realm, None, pull).await;
    for round in ["before", "after"] {
        for path in &paths {
            for client in [None, Some(&bob), Some(&nobody)] {
                let headers: Vec<_> = client
                    .iter()
                    .map(|value| ("authorization", value.as_str()))
                    .collect();
                let answer = proxy.ask(Method::GET, path, &headers).await;
                assert!(
                    matches!(
                        answer.status,
                        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
                    ),
                    "{round}, {path}: {}",
                    answer.status
                );
                let challenge = answer.header("www-authenticate");
                assert!(challenge.contains(&address), "{round}, {path}: {challenge}");
                assert!(challenge.contains(pull), "{round}, {path}: {challenge}");
            }
        }
        // Whoever may has it, which must not help the others.
        for (path, wanted) in [(&paths[2], text.as_str()), (&paths[3], "converted layer")] {
            let headers = [("authorization", ann.as_str())];
            let answer = proxy.ask(Method::GET, path, &headers).await;
            assert_eq!(
                (answer.status, &answer.body[..]),
                (StatusCode::OK, wanted.as_bytes())
            );
        }
    }
    // Nor does a repository that one has rights to.
    let bob = token(&realm, Some(("bob", "b")), "repository:public/x:pull").await;
    for kind in ["manifests", "blobs"] {
        let path = format!("/v2/public/x/{kind}/{converted}");
        let headers = [("authorization", bob.as_str())];
        let answer = proxy.ask(Method::GET, &path, &headers).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{kind}");
    }
}

/// An upstream that gives one manifest to the allowed credentials, and counts requests.
struct Private {
    served: scripted::Served,
    allowed: Arc<Mutex<Vec<String>>>,
    asked: Arc<AtomicUsize>,
    source: Digest,
}

async fn private() -> Private {
    let allowed: Arc<Mutex<Vec<String>>> = Arc::default();
    let asked = Arc::new(AtomicUsize::new(0));
    let manifest = br#"{"schemaVersion":2}"#;
    let source = Digest::of(manifest);
    let (list, count, digest) = (Arc::clone(&allowed), Arc::clone(&asked), source.clone());
    let served = scripted::serve(move |request| {
        count.fetch_add(1, Ordering::SeqCst);
        let given = request.headers().get("authorization");
        let given = given.map_or("", |value| value.to_str().unwrap());
        let may = list.lock().iter().any(|one| one == given);
        let response = if may {
            Response::builder()
                .header("docker-content-digest", digest.as_str())
                .header("content-type", OCI_MANIFEST)
                .header("content-length", manifest.len())
                .body(Full::default())
        } else {
            Response::builder()
                .status(401)
                .header("www-authenticate", r#"Basic realm="private""#)
                .body(Full::default())
        };
        std::future::ready(Scripted::Http(response.unwrap()))
    })
    .await;
    Private {
        served,
        allowed,
        asked,
        source,
    }
}

#[tokio::test]
async fn revoked_rights_end_within_the_lifetime_of_a_decision() {
    let private = private().await;
    let upstream = Upstream::registry(&private.served.host(), &quick()).unwrap();
    let mut config = config(vec![plain(&upstream)]);
    config.auth_cache_ttl = Duration::from_millis(400);
    let proxy = Proxy::start(config).await;
    let name = repo("a");
    let blob = proxy
        .plant(upstream.host(), &name, &private.source, b"x")
        .await;
    let path = format!("/v2/a/blobs/{blob}");
    let ann = basic("ann", "1");
    private.allowed.lock().push(ann.clone());
    let headers = [("authorization", ann.as_str())];
    for _ in 0..5 {
        let answer = proxy.ask(Method::GET, &path, &headers).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert_eq!(
        private.asked.load(Ordering::SeqCst),
        1,
        "decisions are remembered"
    );
    private.allowed.lock().clear();
    tokio::time::sleep(Duration::from_millis(450)).await;
    let answer = proxy.ask(Method::GET, &path, &headers).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        answer.header("www-authenticate"),
        r#"Basic realm="private""#
    );
    // A no is not remembered.
    private.allowed.lock().push(ann.clone());
    let answer = proxy.ask(Method::GET, &path, &headers).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn a_decision_is_for_one_clients_credentials_only() {
    let private = private().await;
    let upstream = Upstream::registry(&private.served.host(), &quick()).unwrap();
    let proxy = Proxy::before(&upstream).await;
    let name = repo("a");
    let blob = proxy
        .plant(upstream.host(), &name, &private.source, b"x")
        .await;
    let path = format!("/v2/a/blobs/{blob}");
    let ann = basic("ann", "1");
    private.allowed.lock().push(ann.clone());
    let answer = proxy
        .ask(Method::GET, &path, &[("authorization", &ann)])
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    for other in [basic("ann", "2"), basic("bob", "1"), String::new()] {
        let answer = proxy
            .ask(Method::GET, &path, &[("authorization", &other)])
            .await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{other}");
    }
    assert_eq!(proxy.get(&path).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn two_hundred_concurrent_permission_checks_are_one_request() {
    let private = private().await;
    let upstream = Upstream::registry(&private.served.host(), &quick()).unwrap();
    let proxy = Arc::new(Proxy::before(&upstream).await);
    let name = repo("a");
    let blob = proxy
        .plant(upstream.host(), &name, &private.source, b"x")
        .await;
    let ann = basic("ann", "1");
    private.allowed.lock().push(ann.clone());
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (proxy, ann) = (Arc::clone(&proxy), ann.clone());
        let path = format!("/v2/a/blobs/{blob}");
        clients.spawn(async move {
            let headers = [("authorization", ann.as_str())];
            proxy.ask(Method::GET, &path, &headers).await.status
        });
    }
    while let Some(status) = clients.join_next().await {
        assert_eq!(status.unwrap(), StatusCode::OK);
    }
    assert_eq!(private.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_proxys_users_authenticate_and_the_upstream_gets_the_proxys_credentials() {
    let Some(registry) = DockerRegistry::start_with_users(&[("robot", "r2")]) else {
        return;
    };
    let ours = quick_as("robot", "r2");
    let upstream = Upstream::registry(&registry.host, &ours).unwrap();
    let name = repo("a/b");
    let manifest = push_image(&upstream, &name, "v1", &[noise(50, 3)], &Authorization::Own).await;
    let source = Digest::of(&manifest);
    let directory = tempfile::tempdir().unwrap();
    let users = directory.path().join("users");
    let line = run(std::process::Command::new("htpasswd").args(["-nbB", "-C", "5", "ann", "pw"]));
    std::fs::write(&users, line).unwrap();
    let mut config = config(vec![plain(&upstream)]);
    config.access = Access::Own {
        htpasswd: Some(users.clone()),
    };
    let proxy = Proxy::start(config).await;
    let blob = proxy.plant(upstream.host(), &name, &source, b"x").await;
    let blob = format!("/v2/a/b/blobs/{blob}");
    let layer = format!("/v2/a/b/blobs/{}", Digest::of(&noise(50, 3)));
    for path in [
        "/v2/",
        "/v2/a/b/tags/list",
        &blob,
        &layer,
        "/v2/a/b/manifests/v1_obd",
    ] {
        for wrong in [
            "",
            &basic("ann", "no"),
            &basic("robot", "r2"),
            &basic("eve", "pw"),
        ] {
            let answer = proxy
                .ask(Method::GET, path, &[("authorization", wrong)])
                .await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path} {wrong}");
            assert_eq!(
                answer.header("www-authenticate"),
                r#"Basic realm="overlaybd-proxy""#
            );
            assert_eq!(answer.code(), "UNAUTHORIZED");
        }
        if path.ends_with("_obd") {
            continue;
        }
        let ann = basic("ann", "pw");
        let answer = proxy
            .ask(Method::GET, path, &[("authorization", &ann)])
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {:?}", answer.body);
    }
    // The users change while the proxy runs.
    let line = run(std::process::Command::new("htpasswd").args(["-nbB", "-C", "5", "new", "pw"]));
    std::fs::write(&users, line).unwrap();
    let begun = std::time::Instant::now();
    loop {
        let new = basic("new", "pw");
        let answer = proxy
            .ask(Method::GET, "/v2/", &[("authorization", &new)])
            .await;
        if answer.status == StatusCode::OK {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "not read again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let ann = basic("ann", "pw");
    let answer = proxy
        .ask(Method::GET, &blob, &[("authorization", &ann)])
        .await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn refused_credentials_of_the_proxy_are_not_401_for_the_client() {
    let refuses = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&refuses);
    let served = scripted::serve(move |_| {
        let status = if state.load(Ordering::SeqCst) {
            401
        } else {
            404
        };
        let response = Response::builder()
            .status(status)
            .header("www-authenticate", r#"Basic realm="upstream""#)
            .body(Full::default())
            .unwrap();
        std::future::ready(Scripted::Http(response))
    })
    .await;
    let upstream = Upstream::registry(&served.host(), &quick()).unwrap();
    let mut config = config(vec![plain(&upstream)]);
    config.access = Access::Own { htpasswd: None };
    let proxy = Proxy::start(config).await;
    for path in [
        "/v2/a/manifests/x",
        "/v2/a/manifests/x_obd",
        "/v2/a/tags/list",
    ] {
        let answer = proxy.get(path).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{path}");
        assert_eq!(answer.code(), "DENIED");
        assert_eq!(answer.header("www-authenticate"), "");
    }
    // The proxy's own users are answered without the upstream.
    assert_eq!(proxy.get("/v2/").await.status, StatusCode::OK);
}
