//! What is asked of an upstream, and with whose name: methods, paths, headers.

use crate::{registry_support, server_support};
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use overlaybd_proxy::oci::Digest;
use overlaybd_proxy::registry::Upstream;
use overlaybd_proxy::server::{Access, UpstreamChoice, UpstreamEntry};
use registry_support::scripted::{self, Answer as Scripted, Log};
use registry_support::{quick, quick_as};
use server_support::{Answer, Proxy, ask, basic, config, plain};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// `ann` with the password `pw`, as `htpasswd -nbB -C 4` writes it.
const ANN: &str = "ann:$2y$04$3CX0IeyNWr1Ue9Z1tw6KzuVgsMT5sOVAvQ2sG7llhnwA79PmrsDPW\n";

/// A registry that lets whoever comes have whatever is asked for, and says what it was asked.
async fn generous() -> (scripted::Served, Log) {
    let log = Log::default();
    let seen = log.clone();
    let served = scripted::serve(move |request| {
        seen.add(&request);
        let response = Response::builder()
            .header("docker-distribution-api-version", "registry/2.0")
            .body(Full::from(request.uri().to_string()))
            .unwrap();
        std::future::ready(Scripted::Http(response))
    })
    .await;
    (served, log)
}

/// Before `served`, with its password, for the user `ann`.
async fn with_users(served: &scripted::Served) -> (Proxy, tempfile::TempDir) {
    let ours = quick_as("robot", "r2");
    let upstream = Upstream::registry(&served.host(), &ours).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let users = directory.path().join("users");
    std::fs::write(&users, ANN).unwrap();
    let mut config = config(vec![plain(&upstream)]);
    config.access = Access::Own {
        htpasswd: Some(users),
    };
    (Proxy::start(config).await, directory)
}

async fn passing_through(served: &scripted::Served) -> Proxy {
    Proxy::before(&Upstream::registry(&served.host(), &quick()).unwrap()).await
}

/// `ask` of the user `ann`.
async fn as_ann(proxy: &Proxy, method: &str, path: &str, more: &[(&str, &str)]) -> Answer {
    let ann = basic("ann", "pw");
    let mut headers = vec![("authorization", ann.as_str())];
    headers.extend(more);
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    ask(proxy.address, method, path, &headers, Bytes::new()).await
}

/// Status and head of the answer to a request whose line is written as it is.
async fn raw(address: SocketAddr, line: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let ann = basic("ann", "pw");
    let head = format!(
        "{line} HTTP/1.1\r\nhost: {address}\r\nauthorization: {ann}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|text| text.parse().ok());
    (
        status.unwrap_or_else(|| panic!("{line}: {answer:?}")),
        answer,
    )
}

#[tokio::test]
async fn own_credentials_are_for_the_distribution_api_only() {
    let (served, log) = generous().await;
    let (proxy, _users) = with_users(&served).await;
    let digest = Digest::of(b"x");
    let encoded = digest.as_str().replace(':', "%3A");
    let manifest = "GET, HEAD, PUT, DELETE";
    let upload = "GET, HEAD, PATCH, PUT, DELETE";
    for (path, allowed) in [
        ("/v2/_catalog?n=5".to_owned(), "GET, HEAD"),
        ("/v2/a/b/tags/list?last=x".to_owned(), "GET, HEAD"),
        (format!("/v2/a/b/referrers/{digest}"), "GET, HEAD"),
        ("/v2/a/b/manifests/v1".to_owned(), manifest),
        (format!("/v2/a/b/manifests/{encoded}"), manifest),
        ("/v2/a/b/manifests/blake3:0aZ_".to_owned(), manifest),
        (format!("/v2/a/b/blobs/{digest}"), "GET, HEAD, DELETE"),
        ("/v2/a/b/blobs/uploads/?mount=x".to_owned(), "POST"),
        (
            "/v2/a/b/blobs/uploads/5a-6f?_state=%5C%2F".to_owned(),
            upload,
        ),
        ("/v2/a/b/blobs/upload/1.5a?x".to_owned(), upload),
    ] {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let before = log.all().len();
            let answer = as_ann(&proxy, method, &path, &[]).await;
            let seen = log.all().split_off(before);
            if allowed.split(", ").any(|known| known == method) {
                assert_eq!(answer.status, StatusCode::OK, "{method} {path}");
                // A body is not sent before it is known how the registry authenticates.
                let seen: Vec<_> = seen.iter().filter(|seen| seen.uri != "/v2/").collect();
                assert_eq!(seen.len(), 1, "{method} {path}");
                assert_eq!(seen[0].method, method);
                assert_eq!(seen[0].uri, path.replace("%3A", ":").as_str());
            } else {
                let wrong = StatusCode::METHOD_NOT_ALLOWED;
                assert_eq!(answer.status, wrong, "{method} {path}");
                assert_eq!(answer.header("allow"), allowed, "{method} {path}");
                assert_eq!(seen.len(), 0, "{method} {path}");
            }
        }
    }
    let before = log.all().len();
    for path in [
        "/v2/_oci/ext/discover",
        "/v2/a/_oci/ext",
        "/v2/token?service=x",
        "/v2/users",
        "/v2/A/tags/list",
        "/v2/a//b/tags/list",
        "/v2/a/tags/list/",
        "/v2/tags/list",
        "/v2/a/manifests/.hidden",
        "/v2/a/manifests/sha256:",
        "/v2/a/blobs/latest",
        "/v2/a/blobs/upload/",
        "/v2/a/blobs/uploads/x/y",
        "/v2/a/referrers/latest",
        "/admin",
    ] {
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let answer = as_ann(&proxy, method, path, &[]).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {path}");
            assert_eq!(answer.code(), "NAME_UNKNOWN", "{method} {path}");
        }
    }
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let answer = as_ann(&proxy, method, "/v2/", &[]).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(answer.header("allow"), "GET, HEAD", "{method}");
    }
    assert_eq!(log.all().len(), before);
}

#[tokio::test]
async fn methods_that_echo_or_tunnel_are_refused_with_any_credentials() {
    let (served, log) = generous().await;
    let (own, _users) = with_users(&served).await;
    let clients = passing_through(&served).await;
    for proxy in [&own, &clients] {
        for line in [
            "TRACE /v2/a/tags/list",
            "TRACK /v2/a/tags/list",
            "DEBUG /v2/",
            "PROPFIND /v2/a/manifests/x",
            "CONNECT registry.example:443",
            "TRACE *",
        ] {
            let (status, head) = raw(proxy.address, line).await;
            assert_eq!(status, 405, "{line}");
            assert!(head.to_ascii_lowercase().contains("\r\nallow: "), "{line}");
        }
    }
    assert!(log.all().is_empty());
    let (status, _) = raw(clients.address, "OPTIONS /v2/a/tags/list").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn an_ambiguous_path_is_a_bad_request() {
    let (served, log) = generous().await;
    let (own, _users) = with_users(&served).await;
    let clients = passing_through(&served).await;
    for path in [
        "/v2/a\\b/tags/list",
        "/v2/..\\..\\admin",
        "/v2/a/manifests/x\\",
        "/v2/a%5cb/tags/list",
        "/v2/a%5C..%5c..%5Cadmin/tags/list",
        "/v2/a%255cb/tags/list",
        "/v2/a%25255Cb/tags/list",
        "/v2/a%2525%35cb/tags/list",
        "/v2/a%c1%9cb/tags/list",
        "/v2/a%EF%BC%BCb/tags/list",
        "/v2/a%u005cb/tags/list",
        "/v2/a%2fb/tags/list",
        "/v2/a%2Fb/manifests/x_obd",
        "/v2%2fa/tags/list",
        "/v2/a/blobs/uploads/x%2fmanifests%2fy",
        "/v2/a%252fb/tags/list",
        "/v2/a/tags/list%3fn=1",
        "/v2/a/tags/list%23",
        "/v2/../admin",
        "/v2/a/./tags/list",
        "/v2/a/%2e%2e/%2E./debug",
        "/v2/a/.%2e/tags/list",
        "/v2/a/..;/tags/list",
        "/v2/a/..%3b/tags/list",
        "/v2/a;x=1/tags/list",
        "/v2/a/manifests/x%00",
        "/v2/a/manifests/x%0d%0aset-cookie:%20a",
        "/v2/a/manifests/x%7f",
        "/v2/a/manifests/%20x",
        "/v2/a/manifests/%ff",
        "/v2/a/manifests/x%",
        "/v2/a/manifests/x%5",
        "/v2/a/manifests/x%zz",
    ] {
        for proxy in [&own, &clients] {
            let (status, head) = raw(proxy.address, &format!("GET {path}")).await;
            assert_eq!(status, 400, "{path}");
            assert!(head.contains("NAME_INVALID"), "{path}: {head}");
        }
    }
    assert!(log.all().is_empty());
}

#[tokio::test]
async fn the_location_of_an_upload_is_passed_back_and_forth_unchanged() {
    const SESSION: &str = "AbC-_.~=:@+,!$&'()*|%3D%7c%2B?_state=%5C%2F%25%00&x=a;b\\c==";
    let log = Log::default();
    let seen = log.clone();
    let served = scripted::serve(move |request| {
        seen.add(&request);
        let uploads = if request.uri().path().contains("uploads") {
            "uploads"
        } else {
            // As ghcr.io has it.
            "upload"
        };
        let response = Response::builder()
            .status(202)
            .header("location", format!("/v2/a/b/blobs/{uploads}/{SESSION}"))
            .header("docker-upload-uuid", "AbC")
            .header("oci-chunk-min-length", "5")
            .header("range", "0-0")
            .body(Full::default())
            .unwrap();
        std::future::ready(Scripted::Http(response))
    })
    .await;
    let (own, _users) = with_users(&served).await;
    let upstream = Upstream::registry(&served.host(), &quick()).unwrap();
    let clients = Proxy::start(config(vec![
        plain(&upstream),
        UpstreamEntry {
            upstream: upstream.clone(),
            choice: UpstreamChoice {
                path_prefix: Some("hub".to_owned()),
                ..UpstreamChoice::default()
            },
        },
    ]))
    .await;
    for (proxy, prefix) in [(&own, ""), (&clients, ""), (&clients, "hub/")] {
        for kind in ["uploads", "upload"] {
            let session = format!("/v2/{prefix}a/b/blobs/{kind}/{SESSION}");
            for method in ["PATCH", "PUT", "GET", "DELETE"] {
                let before = log.all().len();
                let answer = as_ann(proxy, method, &session, &[]).await;
                assert_eq!(answer.status, StatusCode::ACCEPTED, "{method} {session}");
                assert_eq!(answer.header("location"), session, "{method}");
                assert_eq!(answer.header("docker-upload-uuid"), "AbC");
                assert_eq!(answer.header("oci-chunk-min-length"), "5");
                assert_eq!(answer.header("range"), "0-0");
                let seen = log.all().split_off(before).pop().unwrap();
                let as_given = format!("/v2/a/b/blobs/{kind}/{SESSION}");
                assert_eq!(seen.uri, as_given.as_str(), "{method}");
            }
        }
    }
}

#[tokio::test]
async fn cookies_are_removed_and_challenges_are_sent_to_clients_that_can_answer_them() {
    let log = Log::default();
    let seen = log.clone();
    let served = scripted::serve(move |request| {
        seen.add(&request);
        let status = if request.uri().path().contains("manifests") {
            404
        } else {
            200
        };
        let response = Response::builder()
            .status(status)
            .header("set-cookie", "session=up1; Path=/")
            .header("set-cookie", "sticky=2")
            .header("www-authenticate", r#"Basic realm="up""#)
            .header("www-authenticate", r#"Bearer realm="http://up/token""#)
            .header("proxy-authenticate", r#"Basic realm="proxy""#)
            .header("authentication-info", "nextnonce=1")
            .header("proxy-authentication-info", "nextnonce=2")
            .header("strict-transport-security", "max-age=9")
            .header("alt-svc", "h3=\":443\"")
            .header("server", "up/1")
            .header("via", "1.1 up.internal")
            .header("x-served-by", "node-7.internal")
            .header("docker-ratelimit-source", "10.0.0.7")
            .header("docker-content-digest", Digest::of(b"x").as_str())
            .header("docker-distribution-api-version", "registry/2.0")
            .header("etag", "\"e\"")
            .header("oci-subject", Digest::of(b"y").as_str())
            .body(Full::from("text"))
            .unwrap();
        std::future::ready(Scripted::Http(response))
    })
    .await;
    let (own, _users) = with_users(&served).await;
    let clients = passing_through(&served).await;
    let asked = [
        ("cookie", "session=of-another-service"),
        ("x-http-method-override", "DELETE"),
        ("x-http-method", "DELETE"),
        ("x-method-override", "DELETE"),
        ("x-original-url", "/admin"),
        ("x-rewrite-url", "/admin"),
        ("x-remote-user", "admin"),
        ("x-forwarded-user", "admin"),
        ("private-token", "mine"),
        ("range", "bytes=0-9"),
        ("accept", "a/b"),
        ("user-agent", "client/1"),
    ];
    let digest = Digest::of(b"x");
    for path in [
        "/v2/a/tags/list".to_owned(),
        "/v2/a/manifests/v1".to_owned(),
        format!("/v2/a/blobs/{digest}"),
    ] {
        for (proxy, is_own) in [(&own, true), (&clients, false)] {
            let before = log.all().len();
            let answer = as_ann(proxy, "GET", &path, &asked).await;
            assert_eq!(answer.body, "text", "{path}");
            let of_the_account = [
                "www-authenticate",
                "authentication-info",
                "proxy-authentication-info",
                "server",
                "via",
                "x-served-by",
                "docker-ratelimit-source",
            ];
            for name in of_the_account {
                let is_there = answer.headers.contains_key(name);
                assert_eq!(is_there, !is_own, "{path} {is_own}: {name}");
            }
            for name in [
                "set-cookie",
                "proxy-authenticate",
                "strict-transport-security",
                "alt-svc",
            ] {
                assert!(!answer.headers.contains_key(name), "{path}: {name}");
            }
            for name in [
                "docker-content-digest",
                "docker-distribution-api-version",
                "etag",
                "oci-subject",
            ] {
                assert!(answer.headers.contains_key(name), "{path}: {name}");
            }
            if !is_own {
                let challenges = answer.headers.get_all("www-authenticate");
                assert_eq!(challenges.iter().count(), 2);
            }
            let seen = log.all().split_off(before);
            let [seen] = &seen[..] else {
                panic!("{seen:?}");
            };
            for name in [
                "cookie",
                "x-http-method-override",
                "x-http-method",
                "x-method-override",
                "x-original-url",
                "x-rewrite-url",
                "x-forwarded-user",
            ] {
                assert!(!seen.headers.contains_key(name), "{path}: {name}");
            }
            for name in ["x-remote-user", "private-token"] {
                let is_there = seen.headers.contains_key(name);
                assert_eq!(is_there, !is_own, "{path} {is_own}: {name}");
            }
            for (name, value) in [
                ("range", "bytes=0-9"),
                ("accept", "a/b"),
                ("user-agent", "client/1"),
            ] {
                assert_eq!(seen.headers[name], value, "{path}: {name}");
            }
            let authorization = seen.headers.get("authorization");
            let client = basic("ann", "pw");
            assert_eq!(
                authorization.is_some_and(|value| *value == client.as_str()),
                !is_own
            );
        }
    }
}

#[tokio::test]
async fn errors_for_the_proxys_own_credentials_are_not_disclosed() {
    let served = scripted::serve(move |request| {
        let path = request.uri().path();
        let status = path.rsplit('/').next().unwrap().trim_start_matches('v');
        let status: u16 = status.parse().unwrap();
        let text = r#"{"errors":[{"code":"DENIED","message":"user robot$ci may not","detail":{"path":"/var/lib/registry"}}]}"#;
        let response = Response::builder()
            .status(status)
            .header("www-authenticate", r#"Basic realm="up.internal""#)
            .header("retry-after", "77")
            .body(Full::from(text))
            .unwrap();
        std::future::ready(Scripted::Http(response))
    })
    .await;
    let (own, _users) = with_users(&served).await;
    let clients = passing_through(&served).await;
    for (given, status) in [
        (401, 502),
        (403, 502),
        (407, 502),
        (429, 429),
        (500, 502),
        (503, 503),
        (504, 504),
    ] {
        let path = format!("/v2/a/manifests/v{given}");
        let answer = as_ann(&own, "GET", &path, &[]).await;
        assert_eq!(answer.status.as_u16(), status, "{given}");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        for secret in ["robot", "/var/lib", "up.internal", &served.host()] {
            assert!(!text.contains(secret), "{given}: {text}");
        }
        assert!(!answer.headers.contains_key("www-authenticate"), "{given}");
        if given == 429 {
            assert_eq!(answer.header("retry-after"), "77");
        }
        // A client's own credentials get all of it.
        let answer = as_ann(&clients, "GET", &path, &[]).await;
        assert_eq!(answer.status.as_u16(), given);
        assert!(String::from_utf8_lossy(&answer.body).contains("robot$ci"));
        assert!(answer.headers.contains_key("www-authenticate"), "{given}");
    }
}

#[tokio::test]
async fn redirects_of_an_upstream_to_itself_are_followed_with_our_own_credentials() {
    let (storage, storage_log) = generous().await;
    let elsewhere = format!("http://{}/blob?signature=s3cret", storage.host());
    let target = elsewhere.clone();
    let log = Log::default();
    let seen = log.clone();
    let served = scripted::serve(move |request| {
        seen.add(&request);
        let path = request.uri().path();
        let location = if path.starts_with("/downloads/") {
            None
        } else if path.contains("/elsewhere/") {
            Some(target.clone())
        } else if *request.method() == Method::POST {
            Some("/uploads-of/a?token=1".to_owned())
        } else {
            Some("/downloads/token-1".to_owned())
        };
        let response = match location {
            Some(location) => Response::builder()
                .status(302)
                .header("location", location)
                .body(Full::default()),
            None => Response::builder().body(Full::from("the blob")),
        };
        std::future::ready(Scripted::Http(response.unwrap()))
    })
    .await;
    let (own, _users) = with_users(&served).await;
    let clients = passing_through(&served).await;
    let blob = |repo: &str| format!("/v2/{repo}/blobs/{}", Digest::of(b"the blob"));
    let answer = as_ann(&own, "GET", &blob("a"), &[]).await;
    assert_eq!(
        (answer.status, &answer.body[..]),
        (StatusCode::OK, &b"the blob"[..])
    );
    assert_eq!(log.all().pop().unwrap().uri, "/downloads/token-1");
    // A client may follow a signed address by itself, and so may one with its own credentials.
    let answer = as_ann(&own, "GET", &blob("elsewhere/a"), &[]).await;
    assert_eq!(answer.status, StatusCode::FOUND);
    assert_eq!(answer.header("location"), elsewhere);
    let answer = as_ann(&clients, "GET", &blob("a"), &[]).await;
    assert_eq!(answer.status, StatusCode::FOUND);
    let downloads = format!("http://{}/downloads/token-1", served.host());
    assert_eq!(answer.header("location"), downloads);
    for proxy in [&own, &clients] {
        let answer = as_ann(proxy, "POST", "/v2/a/blobs/uploads/", &[]).await;
        let uploads = format!("http://{}/uploads-of/a?token=1", served.host());
        assert_eq!(answer.header("location"), uploads);
    }
    assert!(storage_log.all().is_empty());
}

#[tokio::test]
async fn an_upstream_is_chosen_by_ns_however_it_is_written() {
    let (first, first_log) = generous().await;
    let (second, _) = generous().await;
    let entry =
        |served: &scripted::Served| plain(&Upstream::registry(&served.host(), &quick()).unwrap());
    let proxy = Proxy::start(config(vec![entry(&first), entry(&second)])).await;
    for key in ["ns", "%6es", "n%73", "%6E%73"] {
        let path = format!("/v2/a/tags/list?{key}={}", second.host());
        let answer = proxy.get(&path).await;
        assert_eq!(answer.body, "/v2/a/tags/list", "{key}");
    }
    assert!(first_log.all().is_empty());
}

#[tokio::test]
async fn the_challenge_of_a_redirects_target_is_not_answered() {
    let challenge = r#"Bearer realm="http://evil/token""#;
    let storage = scripted::always(401, "www-authenticate", challenge).await;
    let location = format!("http://{}/blob", storage.host());
    let served = scripted::always(307, "location", &location).await;
    let upstream = Upstream::registry(&served.host(), &quick()).unwrap();
    let mut config = config(vec![plain(&upstream)]);
    config.follow_redirects = true;
    let proxy = Proxy::start(config).await;
    let path = format!("/v2/a/blobs/{}", Digest::of(b"x"));
    let answer = as_ann(&proxy, "GET", &path, &[]).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer.header("www-authenticate"), "");
}
