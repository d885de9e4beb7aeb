//! Where the registry client goes and does not go, and who is shown what.

use crate::registry_support;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use overlaybd_proxy::oci::Digest;
use overlaybd_proxy::registry::{
    Authorization, BlobSource, DialOptions, Error, ForwardOptions, Redirects, RegistryConfig, body,
};
use registry_support::faults::{OWN, blob, upstream, with, with_password};
use registry_support::scripted::{Log, Served, serve};
use registry_support::{noise, quick, repo, tag};

/// A storage elsewhere, and a registry that leads to it with Basic credentials.
async fn led_away(content: &Bytes) -> (Served, Log, Served, Log) {
    let (storage_log, registry_log) = (Log::default(), Log::default());
    let storage = {
        let (log, content) = (storage_log.clone(), content.clone());
        serve(move |request| {
            log.add(&request);
            let content = content.clone();
            async move { with(200, &[], content) }
        })
        .await
    };
    let location = format!("http://{}/bucket?X-Signature=sign3d", storage.other_name());
    let registry = {
        let log = registry_log.clone();
        serve(move |request| {
            log.add(&request);
            let location = location.clone();
            async move {
                if request.headers().contains_key(header::AUTHORIZATION) {
                    with(307, &[("location", &location)], "")
                } else {
                    with(401, &[("www-authenticate", "Basic realm=\"x\"")], "")
                }
            }
        })
        .await
    };
    (storage, storage_log, registry, registry_log)
}

#[tokio::test]
async fn a_redirect_loop_ends() {
    let log = Log::default();
    let served = {
        let log = log.clone();
        serve(move |request| {
            log.add(&request);
            async { with(307, &[("location", "/v2/a/blobs/again")], "") }
        })
        .await
    };
    let error = blob(&upstream(&served, &quick()), &noise(10, 1))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("redirects"), "{error}");
    assert_eq!(log.all().len(), 11);
}

#[tokio::test]
async fn a_redirect_is_followed_without_credentials() {
    let content = noise(100_000, 8);
    let (_storage, storage_log, served, registry_log) = led_away(&content).await;
    let mut config = with_password();
    config.dial.allow_hosts = vec!["localhost".to_owned()];
    let found = blob(&upstream(&served, &config), &content).await.unwrap();
    assert_eq!(found, content);
    assert_eq!(registry_log.header(0, "authorization"), None);
    assert!(registry_log.header(1, "authorization").is_some());
    assert_eq!(storage_log.all().len(), 1);
    assert_eq!(storage_log.header(0, "authorization"), None);
    assert!(
        storage_log
            .header(0, "host")
            .unwrap()
            .starts_with("localhost:")
    );

    // Also when passed through, where the client's are in question.
    let clients = Authorization::Client(Some(HeaderValue::from_static("Basic Y2xpZW50Og==")));
    let digest = Digest::of(&content);
    let registry = upstream(&served, &config);
    registry
        .blob(&repo("a"), &digest, 100_000, &clients)
        .await
        .unwrap();
    let followed = ForwardOptions {
        redirects: Redirects::Followed,
        ..ForwardOptions::default()
    };
    let request = || {
        Request::get("/v2/a/blobs/x")
            .header(header::AUTHORIZATION, "Basic Y2xpZW50Og==")
            .header(header::COOKIE, "session=1")
            .body(body::empty())
            .unwrap()
    };
    let response = registry.forward(request(), followed).await.unwrap();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(bytes, content);
    for (n, seen) in storage_log.all().iter().enumerate() {
        assert!(!seen.headers.contains_key(header::AUTHORIZATION), "{n}");
        assert!(!seen.headers.contains_key(header::COOKIE), "{n}");
    }
    // And handed to the client where it is not to be followed.
    let response = registry
        .forward(request(), ForwardOptions::default())
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
    assert!(response.headers().contains_key(header::LOCATION));
}

#[tokio::test]
async fn a_redirect_to_a_private_address_is_refused() {
    let content = noise(100, 9);
    let (_storage, storage_log, served, _) = led_away(&content).await;
    // `localhost` is not the registry's own host, which is 127.0.0.1.
    let error = blob(&upstream(&served, &with_password()), &content)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    let shown = format!("{error} {error:?}");
    assert!(
        shown.contains("localhost") && !shown.contains("sign3d"),
        "{shown}"
    );
    assert!(storage_log.all().is_empty());

    for target in [
        "http://169.254.169.254/latest/meta-data/?secret=1",
        "http://[::1]/",
        "http://10.0.0.1/",
        "file:///etc/passwd",
        "http://user:pass@127.0.0.1/",
    ] {
        let served = serve(move |_| async move { with(302, &[("location", target)], "") }).await;
        let error = blob(&upstream(&served, &quick()), &content)
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::Refused { .. }),
            "{target}: {error:?}"
        );
        assert!(!format!("{error:?}").contains("pass@"));
    }
}

#[tokio::test]
async fn a_realm_with_a_private_address_or_plain_http_is_refused() {
    for realm in ["http://localhost:1/token", "http://169.254.169.254/token"] {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"s\"");
        let served = serve(move |_| {
            let challenge = challenge.clone();
            async move { with(401, &[("www-authenticate", &challenge)], "") }
        })
        .await;
        let error = upstream(&served, &with_password())
            .tags(&repo("a"), &OWN)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{realm}: {error:?}");
    }
}

#[tokio::test]
async fn a_challenge_with_quoted_pairs_is_answered() {
    let log = Log::default();
    let served = {
        let log = log.clone();
        serve(move |request: Request<Incoming>| {
            let nth = log.add(&request);
            let port = request.headers()[header::HOST].to_str().unwrap().to_owned();
            async move {
                match (nth, request.uri().path()) {
                    (_, "/token") => with(200, &[], r#"{"access_token":"t0ken","expires_in":300}"#),
                    (1, _) => {
                        let bearer = format!(
                            "Negotiate abc==, bearer Service = \"a \\\"quoted\\\", one\", \
                             scope=\"repository:a:pull repository:b:pull\" ,realm=\"http://{port}/token?x=1\""
                        );
                        let basic = r#"Basic realm="Bearer realm=\"http://evil/\"""#;
                        with(401, &[("www-authenticate", basic), ("www-authenticate", &bearer)], "")
                    }
                    _ => with(200, &[], r#"{"tags":["one"]}"#),
                }
            }
        })
        .await
    };
    let registry = upstream(&served, &with_password());
    let tags = registry.tags(&repo("a"), &OWN).await.unwrap();
    assert_eq!(tags.len(), 1);
    assert_eq!(log.header(2, "authorization").unwrap(), "Bearer t0ken");
    let asked = log.all()[1].uri.query().unwrap().to_owned();
    assert_eq!(
        asked,
        "x=1&service=a+%22quoted%22%2C+one&scope=repository%3Aa%3Apull&scope=repository%3Ab%3Apull&account=me"
    );
    // What the challenge wants besides is known from then on.
    registry.tags(&repo("a"), &OWN).await.unwrap();
    assert_eq!(log.all().len(), 4);
}

#[tokio::test]
async fn a_client_gets_the_upstreams_challenge() {
    let served = serve(|request: Request<Incoming>| async move {
        let sent = request.headers().get(header::AUTHORIZATION).cloned();
        assert_eq!(sent.unwrap(), "Bearer client");
        let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}"#;
        with(
            401,
            &[("www-authenticate", "Bearer realm=\"https://auth/\"")],
            body,
        )
    })
    .await;
    let client = Authorization::Client(Some(HeaderValue::from_static("Bearer client")));
    let error = upstream(&served, &with_password())
        .head_manifest(&repo("a"), &tag("x"), &client)
        .await
        .unwrap_err();
    let Error::Unauthorized { challenges, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(challenges[0], "Bearer realm=\"https://auth/\"");
}

#[tokio::test]
async fn pages_of_tags_are_followed_at_the_same_host_only() {
    let served = serve(|request: Request<Incoming>| async move {
        let path = request.uri().path_and_query().unwrap().as_str();
        match path {
            "/v2/a/tags/list" => with(
                200,
                &[("link", "</v2/a/tags/list?last=b&n=2>; rel=\"next\"")],
                r#"{"name":"a","tags":["a","b"]}"#,
            ),
            "/v2/a/tags/list?last=b&n=2" => with(200, &[], r#"{"name":"a","tags":["c"]}"#),
            "/v2/circle/tags/list" => with(
                200,
                &[("link", "</v2/circle/tags/list>; rel=next")],
                r#"{"tags":["a"]}"#,
            ),
            _ => with(
                200,
                &[("link", "<http://127.0.0.1:1/v2/x>; rel=\"next\"")],
                r#"{"tags":["a"]}"#,
            ),
        }
    })
    .await;
    let registry = upstream(&served, &quick());
    let tags = registry.tags(&repo("a"), &OWN).await.unwrap();
    let names: Vec<_> = tags.iter().map(overlaybd_proxy::oci::Tag::as_str).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let error = registry.tags(&repo("circle"), &OWN).await.unwrap_err();
    assert!(error.to_string().contains("circle"), "{error}");
    let error = registry.tags(&repo("b"), &OWN).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn an_upload_to_another_origin_has_no_credentials() {
    let log = Log::default();
    let storage = {
        let log = log.clone();
        serve(move |request| {
            log.add(&request);
            async move {
                let _ = request.into_body().collect().await;
                with(201, &[], "")
            }
        })
        .await
    };
    let location = format!("http://{}/put?sign=1", storage.other_name());
    let served = serve(move |request: Request<Incoming>| {
        let location = location.clone();
        async move {
            match request.method().as_str() {
                _ if !request.headers().contains_key(header::AUTHORIZATION) => {
                    with(401, &[("www-authenticate", "Basic realm=x")], "")
                }
                "HEAD" => with(404, &[], ""),
                _ => with(202, &[("location", &location)], ""),
            }
        }
    })
    .await;
    let mut config = with_password();
    let content = noise(1000, 1);
    let digest = Digest::of(&content);
    let source = BlobSource::Bytes(content);
    let push = async |config: &RegistryConfig| {
        let registry = upstream(&served, config);
        registry
            .push_blob(&repo("a"), &digest, 1000, &source, &OWN)
            .await
    };
    assert!(matches!(push(&config).await, Err(Error::Refused { .. })));
    config.dial = DialOptions {
        allow_hosts: vec!["localhost".to_owned()],
        allow_downgrade: false,
    };
    push(&config).await.unwrap();
    assert_eq!(log.all().len(), 1);
    assert_eq!(log.header(0, "authorization"), None);
    assert_eq!(log.header(0, "content-length").unwrap(), "1000");
}

#[tokio::test]
async fn a_token_refused_before_it_expires_is_replaced() {
    let log = Log::default();
    let served = {
        let log = log.clone();
        serve(move |request: Request<Incoming>| {
            let nth = log.add(&request);
            let host = request.headers()[header::HOST].to_str().unwrap().to_owned();
            let shown = request.headers().get(header::AUTHORIZATION).cloned();
            async move {
                if request.uri().path() == "/token" {
                    let token = format!(r#"{{"token":"t{nth}","expires_in":3600}}"#);
                    return with(200, &[], token);
                }
                // The first token is taken back after one use.
                match (nth, shown.as_ref().map(HeaderValue::as_bytes)) {
                    (3, Some(b"Bearer t2")) | (6, Some(b"Bearer t5")) => {
                        with(200, &[], r#"{"tags":["one"]}"#)
                    }
                    _ => {
                        let challenge = format!("Bearer realm=\"http://{host}/token\"");
                        with(401, &[("www-authenticate", &challenge)], "")
                    }
                }
            }
        })
        .await
    };
    let registry = upstream(&served, &quick());
    registry.tags(&repo("a"), &OWN).await.unwrap();
    registry.tags(&repo("a"), &OWN).await.unwrap();
    assert_eq!(log.all().len(), 6);
    // Where no token helps it is said, after one more.
    let error = registry.tags(&repo("a"), &OWN).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    assert_eq!(log.all().len(), 9);
}
