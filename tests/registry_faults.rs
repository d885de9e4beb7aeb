//! The registry client against servers that misbehave.

mod registry_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use overlaybd_proxy::oci::media_type::OCI_MANIFEST;
use overlaybd_proxy::oci::{Digest, Selector};
use overlaybd_proxy::registry::{
    Authorization, BlobSource, Credentials, DialOptions, Error, ForwardOptions, Pushed,
    RegistryConfig, Secret, UploadMode, Upstream, body,
};
use registry_support::scripted::{Answer, Log, Served, range_start, raw, serve, write};
use registry_support::{noise, quick, repo, tag};
use tokio::net::TcpStream;

const OWN: Authorization = Authorization::Own;

fn upstream(served: &Served, config: &RegistryConfig) -> Upstream {
    Upstream::registry(&served.host(), config).unwrap()
}

fn impatient() -> RegistryConfig {
    let mut config = quick();
    config.timeouts.connect = Duration::from_secs(2);
    config.timeouts.response = Duration::from_millis(300);
    config.timeouts.stall = Duration::from_millis(300);
    config
}

fn with_password() -> RegistryConfig {
    RegistryConfig {
        credentials: Credentials::Basic {
            username: "me".to_owned(),
            password: Secret::new("s3cret"),
        },
        ..quick()
    }
}

fn status(code: u16) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

fn with(code: u16, headers: &[(&str, &str)], bytes: impl Into<Bytes>) -> Answer {
    let mut response = status(code).map(|_| Full::new(bytes.into()));
    for (name, value) in headers {
        let name: http::HeaderName = name.parse().unwrap();
        response.headers_mut().append(name, value.parse().unwrap());
    }
    Answer::Http(response)
}

async fn blob(upstream: &Upstream, content: &Bytes) -> Result<Vec<u8>, Error> {
    let digest = Digest::of(content);
    let size = content.len() as u64;
    let stream = upstream.blob(&repo("a"), &digest, size, &OWN).await?;
    let chunks: Vec<Bytes> = stream.try_collect().await?;
    Ok(chunks.concat())
}

async fn range(upstream: &Upstream, range: std::ops::Range<u64>) -> Result<Bytes, Error> {
    let digest = Digest::of(b"any");
    upstream.blob_range(&repo("a"), &digest, range, &OWN).await
}

/// Writes a blob from `start`, with a head that promises all of it, and cuts after `count`.
async fn send_part(stream: &mut TcpStream, content: &Bytes, start: Option<usize>, count: usize) {
    let from = start.unwrap_or(0);
    let last = content.len() - 1;
    let head = match start {
        None => format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            content.len()
        ),
        Some(start) => format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\n\
             Content-Range: bytes {start}-{last}/{}\r\n\r\n",
            content.len() - start,
            content.len()
        ),
    };
    write(stream, head.as_bytes()).await;
    let end = (from + count).min(content.len());
    write(stream, &content[from..end]).await;
}

#[tokio::test]
async fn a_download_that_breaks_is_resumed_where_it_was() {
    let content = noise(3_000_000, 1);
    let starts = Arc::new(std::sync::Mutex::new(Vec::new()));
    let served = {
        let (content, starts) = (content.clone(), Arc::clone(&starts));
        raw(move |_, head, mut stream| {
            let (content, starts) = (content.clone(), Arc::clone(&starts));
            async move {
                let start = range_start(&head);
                starts.lock().unwrap().push(start);
                send_part(&mut stream, &content, start, 500_000).await;
            }
        })
        .await
    };
    // More breaks than attempts: each comes after progress.
    let found = blob(&upstream(&served, &quick()), &content).await.unwrap();
    assert_eq!(Digest::of(&found), Digest::of(&content));
    let starts = starts.lock().unwrap().clone();
    assert!(starts.len() >= 6 && starts[0].is_none(), "{starts:?}");
    assert!(starts[1..].is_sorted() && starts[1] > Some(0), "{starts:?}");
}

#[tokio::test]
async fn a_download_that_stands_still_is_resumed() {
    let content = noise(1_000_000, 2);
    let served = {
        let content = content.clone();
        raw(move |nth, head, mut stream| {
            let content = content.clone();
            async move {
                let count = if nth == 1 { 400_000 } else { usize::MAX / 2 };
                send_part(&mut stream, &content, range_start(&head), count).await;
                tokio::time::sleep(Duration::from_secs(if nth == 1 { 60 } else { 0 })).await;
            }
        })
        .await
    };
    let found = blob(&upstream(&served, &impatient()), &content).await;
    assert_eq!(found.unwrap(), content);
}

#[tokio::test]
async fn a_server_that_never_gets_further_is_given_up() {
    let content = noise(1_000_000, 3);
    let served = {
        let content = content.clone();
        raw(move |_, head, mut stream| {
            let content = content.clone();
            async move {
                send_part(&mut stream, &content, range_start(&head), 10).await;
                tokio::time::sleep(Duration::from_mins(1)).await;
            }
        })
        .await
    };
    let error = blob(&upstream(&served, &impatient()), &content)
        .await
        .unwrap_err();
    let Error::TimedOut { what, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(*what, "more of the body");
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_server_that_does_not_know_ranges_is_read_from_the_start_again() {
    let content = noise(2_000_000, 4);
    let served = {
        let content = content.clone();
        raw(move |nth, _, mut stream| {
            let content = content.clone();
            async move {
                let count = if nth == 1 { 700_000 } else { usize::MAX / 2 };
                send_part(&mut stream, &content, None, count).await;
            }
        })
        .await
    };
    let registry = upstream(&served, &quick());
    assert_eq!(blob(&registry, &content).await.unwrap(), content);
    let part = range(&registry, 1_000_000..1_000_100).await.unwrap();
    assert_eq!(part, content[1_000_000..1_000_100]);
    let far = range(&registry, 1_999_999..2_000_001).await.unwrap_err();
    assert!(matches!(far, Error::Mismatch { .. }), "{far:?}");

    let served = serve(|_| async {
        let endless =
            futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(noise(65536, 1)));
        Answer::Stream(Response::new(body::stream(endless)))
    })
    .await;
    let registry = upstream(&served, &quick());
    let far = range(&registry, 1 << 30..(1 << 30) + 1).await.unwrap_err();
    assert!(matches!(far, Error::Unsupported { .. }), "{far:?}");
}

#[tokio::test]
async fn a_content_range_that_lies_is_not_believed() {
    for lie in [
        "bytes 0-99/1000",
        "bytes 101-199/1000",
        "bytes 100-200/1000",
        "bytes 100-199/150",
        "bytes 100-150/1000",
        "pages 100-199/1000",
        "bytes 100-/1000",
        "",
    ] {
        let served =
            serve(move |_| async move { with(206, &[("content-range", lie)], vec![7; 100]) }).await;
        let found = range(&upstream(&served, &quick()), 100..200).await;
        assert!(
            matches!(found, Err(Error::Invalid { .. })),
            "{lie}: {found:?}"
        );
    }
    let served =
        serve(|_| async { with(206, &[("content-range", "bytes 100-199/*")], vec![7; 100]) });
    let found = range(&upstream(&served.await, &quick()), 100..200).await;
    assert_eq!(found.unwrap(), vec![7; 100]);
}

#[tokio::test]
async fn a_blob_of_another_length_is_an_error() {
    let content = noise(100_000, 5);
    let longer = Bytes::from([&content[..], b"more"].concat());
    let shorter = content.slice(..99_999);
    for wrong in [longer, shorter] {
        // With its length stated, and without.
        for chunked in [false, true] {
            let body = wrong.clone();
            let served = serve(move |request: Request<Incoming>| {
                let body = body.clone();
                async move {
                    if let Some(range) = request.headers().get(header::RANGE) {
                        let start = range.to_str().unwrap();
                        assert!(start.starts_with("bytes=99999-"), "{start}");
                        return with(416, &[("content-range", "bytes */99999")], "");
                    }
                    if chunked {
                        let body = futures_util::stream::iter([Ok::<_, std::io::Error>(body)]);
                        Answer::Stream(Response::new(body::stream(body)))
                    } else {
                        with(200, &[], body)
                    }
                }
            })
            .await;
            let error = blob(&upstream(&served, &quick()), &content)
                .await
                .unwrap_err();
            assert!(
                matches!(error, Error::Mismatch { .. }),
                "{chunked}: {error:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_body_without_end_is_cut() {
    let served = serve(|request: Request<Incoming>| async move {
        let is_manifest = request.uri().path().contains("manifests");
        let endless =
            futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(noise(65536, 1)));
        let mut response = Response::new(body::stream(endless));
        if !is_manifest {
            *response.status_mut() = StatusCode::OK;
        }
        Answer::Stream(response)
    })
    .await;
    let registry = upstream(&served, &quick());
    let error = blob(&registry, &noise(100_000, 6)).await.unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error:?}");
    let error = registry
        .manifest(&repo("a"), &tag("x"), &OWN)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("at most 4194304 bytes"),
        "{error}"
    );
    let error = registry.tags(&repo("a"), &OWN).await.unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error:?}");
}

#[tokio::test]
async fn an_encoded_blob_is_refused() {
    let served = serve(|_| async { with(200, &[("content-encoding", "gzip")], vec![0; 10]) }).await;
    let error = blob(&upstream(&served, &quick()), &noise(10, 1))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("gzip"), "{error}");
}

#[tokio::test]
async fn errors_that_may_pass_are_tried_again_and_others_are_not() {
    let manifest = Bytes::from_static(b"{\"schemaVersion\":2}");
    for (code, tried) in [
        (500, 3),
        (502, 3),
        (503, 3),
        (504, 3),
        (408, 3),
        (429, 3),
        (400, 1),
        (403, 1),
        (501, 1),
    ] {
        let log = Log::default();
        let served = {
            let (log, manifest) = (log.clone(), manifest.clone());
            serve(move |request| {
                let (nth, manifest) = (log.add(&request), manifest.clone());
                async move {
                    if nth < 3 {
                        with(
                            code,
                            &[],
                            r#"{"errors":[{"code":"BUSY","message":"wait"}]}"#,
                        )
                    } else {
                        with(200, &[("content-type", OCI_MANIFEST)], manifest)
                    }
                }
            })
            .await
        };
        let found = upstream(&served, &quick())
            .manifest(&repo("a"), &tag("x"), &OWN)
            .await;
        assert_eq!(log.all().len(), tried, "{code}");
        match found {
            Ok(found) => assert_eq!(found.bytes, manifest),
            Err(error) => assert!(tried == 1 && error.to_string().contains("BUSY"), "{error}"),
        }
    }
}

#[tokio::test]
async fn retry_after_is_waited_for_up_to_a_limit() {
    let log = Log::default();
    let served = {
        let log = log.clone();
        serve(move |request| {
            let nth = log.add(&request);
            let far = request.uri().path().contains("far");
            async move {
                match nth {
                    _ if far => with(429, &[("retry-after", "3600")], ""),
                    1 => with(429, &[("retry-after", "1")], ""),
                    _ => with(200, &[("content-type", OCI_MANIFEST)], "{}"),
                }
            }
        })
        .await
    };
    let registry = upstream(&served, &quick());
    let begin = Instant::now();
    registry
        .manifest(&repo("a"), &tag("x"), &OWN)
        .await
        .unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(1));
    let begin = Instant::now();
    let error = registry
        .manifest(&repo("far"), &tag("x"), &OWN)
        .await
        .unwrap_err();
    let Error::RateLimited { retry_after, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(retry_after, Some(Duration::from_hours(1)));
    assert!(begin.elapsed() < Duration::from_secs(1));
    assert_eq!(log.all().len(), 3);
}

#[tokio::test]
async fn a_wrong_digest_is_an_error_whatever_the_header_says() {
    let asked = Digest::of(b"asked");
    let stated = asked.clone();
    let served = serve(move |request: Request<Incoming>| {
        let stated = stated.to_string();
        let honest = request.uri().path().ends_with("honest");
        async move {
            let mut headers = vec![("content-type", OCI_MANIFEST)];
            if !honest {
                headers.push(("docker-content-digest", stated.as_str()));
            }
            with(200, &headers, "something else")
        }
    })
    .await;
    let registry = upstream(&served, &quick());
    for selector in [Selector::Digest(asked.clone()), tag("lying")] {
        let error = registry
            .manifest(&repo("a"), &selector, &OWN)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Mismatch { .. }), "{error:?}");
    }
    let found = registry
        .manifest(&repo("a"), &tag("honest"), &OWN)
        .await
        .unwrap();
    assert_eq!(found.digest, Digest::of(b"something else"));
    let other = Selector::Digest(Digest::of(b"other"));
    let error = registry
        .head_manifest(&repo("a"), &other, &OWN)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error:?}");
}

#[tokio::test]
async fn a_head_that_does_not_say_enough_becomes_a_get() {
    for code in [200, 405, 501] {
        let served = serve(move |request: Request<Incoming>| async move {
            if request.method() == Method::HEAD {
                with(code, &[("content-type", OCI_MANIFEST)], "{}")
            } else {
                with(200, &[("content-type", OCI_MANIFEST)], "{}")
            }
        })
        .await;
        let head = upstream(&served, &quick())
            .head_manifest(&repo("a"), &tag("x"), &OWN)
            .await
            .unwrap();
        assert_eq!(head.digest, Digest::of(b"{}"));
        assert_eq!((head.size, head.media_type.as_str()), (2, OCI_MANIFEST));
    }
}

#[tokio::test]
async fn garbage_and_huge_heads_are_errors() {
    for script in [
        &b"garbage\r\n\r\n"[..],
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"",
    ] {
        let served = raw(move |_, _, mut stream| async move { write(&mut stream, script).await });
        let error = upstream(&served.await, &quick())
            .manifest(&repo("a"), &tag("x"), &OWN)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    }
    let served = raw(|_, _, mut stream| async move {
        write(&mut stream, b"HTTP/1.1 200 OK\r\n").await;
        for n in 0..20_000 {
            write(
                &mut stream,
                format!("X-{n}: {}\r\n", "x".repeat(60)).as_bytes(),
            )
            .await;
        }
    });
    let error = upstream(&served.await, &quick())
        .manifest(&repo("a"), &tag("x"), &OWN)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let served = raw(|_, _, stream| async move {
        tokio::time::sleep(Duration::from_mins(1)).await;
        drop(stream);
    })
    .await;
    let mut config = impatient();
    config.retry.attempts = 1;
    let begin = Instant::now();
    let error = upstream(&served, &config)
        .manifest(&repo("a"), &tag("x"), &OWN)
        .await
        .unwrap_err();
    let Error::TimedOut { what, after, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!((what, after), ("response", Duration::from_millis(300)));
    // Sooner than the time that connecting may take.
    assert!(begin.elapsed() < Duration::from_millis(1500));
}

#[tokio::test]
async fn nobody_there_is_said_after_a_few_attempts() {
    let error = Upstream::registry("127.0.0.1:1", &quick())
        .unwrap()
        .manifest(&repo("a"), &tag("x"), &OWN)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(error.is_transient());
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
        follow_redirects: true,
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
async fn a_redirect_to_the_inside_is_refused() {
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
async fn a_realm_on_the_inside_or_in_the_clear_is_refused() {
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
async fn a_challenge_with_tricky_quoting_is_met() {
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
    let names: Vec<_> = tags.iter().map(|tag| tag.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let error = registry.tags(&repo("circle"), &OWN).await.unwrap_err();
    assert!(error.to_string().contains("circle"), "{error}");
    let error = registry.tags(&repo("b"), &OWN).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
}

/// An upload server that loses connections in the middle of bodies.
async fn lossy_uploads(keeps: bool) -> (Served, Arc<std::sync::Mutex<Vec<u8>>>, Log) {
    let stored = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = Log::default();
    let cuts = Arc::new(AtomicUsize::new(0));
    let served = {
        let (stored, log) = (Arc::clone(&stored), log.clone());
        serve(move |mut request: Request<Incoming>| {
            log.add(&request);
            let (stored, cuts) = (Arc::clone(&stored), Arc::clone(&cuts));
            async move {
                let at = |stored: &Vec<u8>| format!("0-{}", stored.len().saturating_sub(1));
                match request.method().as_str() {
                    "HEAD" => with(404, &[], ""),
                    "POST" => {
                        stored.lock().unwrap().clear();
                        with(202, &[("location", "/v2/a/blobs/uploads/1?s=0")], "")
                    }
                    "GET" if keeps => {
                        let range = at(&stored.lock().unwrap());
                        with(
                            204,
                            &[("range", &range), ("location", "/v2/a/blobs/uploads/1?s=r")],
                            "",
                        )
                    }
                    "GET" => with(404, &[], ""),
                    method => {
                        let is_put = method == "PUT";
                        while let Some(Ok(frame)) = request.body_mut().frame().await {
                            let mut stored = stored.lock().unwrap();
                            stored.extend_from_slice(frame.data_ref().unwrap());
                            if stored.len() > 400_000 && cuts.fetch_add(1, Ordering::SeqCst) == 0 {
                                // The service's panic closes the connection.
                                drop(stored);
                                let broken = futures_util::stream::once(async {
                                    Err::<Bytes, _>(std::io::Error::other("cut"))
                                });
                                return Answer::Stream(Response::new(body::stream(broken)));
                            }
                        }
                        let stored = stored.lock().unwrap();
                        if is_put {
                            let query = request.uri().query().unwrap();
                            let digest = Digest::of(&stored).to_string().replace(':', "%3A");
                            let good = query.ends_with(&format!("digest={digest}"));
                            with(if good { 201 } else { 400 }, &[], "")
                        } else {
                            let location = format!("/v2/a/blobs/uploads/1?s={}", stored.len());
                            with(202, &[("range", &at(&stored)), ("location", &location)], "")
                        }
                    }
                }
            }
        })
        .await
    };
    (served, stored, log)
}

#[tokio::test]
async fn an_upload_that_breaks_is_resumed_or_begun_anew() {
    for upload in [UploadMode::Monolithic, UploadMode::Chunked(300_000)] {
        for keeps in [true, false] {
            let (served, stored, log) = lossy_uploads(keeps).await;
            let config = RegistryConfig { upload, ..quick() };
            let content = noise(1_000_000, 10);
            let pushed = upstream(&served, &config)
                .push_blob(
                    &repo("a"),
                    &Digest::of(&content),
                    1_000_000,
                    &BlobSource::Bytes(content.clone()),
                    &OWN,
                )
                .await
                .unwrap();
            assert_eq!(pushed, Pushed::Uploaded);
            assert_eq!(Digest::of(&stored.lock().unwrap()), Digest::of(&content));
            let count = |method: Method| {
                log.all()
                    .iter()
                    .filter(|seen| seen.method == method)
                    .count()
            };
            assert_eq!(count(Method::GET), 1, "asked how far it was");
            assert_eq!(count(Method::POST), if keeps { 1 } else { 2 });
        }
    }
}

#[tokio::test]
async fn an_upload_that_goes_on_elsewhere_takes_no_credentials_along() {
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
async fn what_is_between_neighbours_is_not_passed_through() {
    let log = Log::default();
    let served = {
        let log = log.clone();
        serve(move |request| {
            log.add(&request);
            async {
                let headers = [
                    ("connection", "x-secret, close"),
                    ("x-secret", "1"),
                    ("keep-alive", "timeout=5"),
                    ("proxy-authenticate", "Basic"),
                    ("docker-distribution-api-version", "registry/2.0"),
                    ("set-cookie", "a=1"),
                    ("set-cookie", "b=2"),
                ];
                with(418, &headers, "teapot")
            }
        })
        .await
    };
    let request = Request::get("/v2/a/tags/list?n=1&x=%2F")
        .header("connection", "close, x-hop, authorization")
        .header("x-hop", "1")
        .header("host", "proxy.example")
        .header("te", "trailers")
        .header("upgrade", "h2c")
        .header("proxy-authorization", "Basic x")
        .header("accept", "a/b")
        .header("accept", "c/d")
        .header("authorization", "Bearer client")
        .body(body::empty())
        .unwrap();
    let response = upstream(&served, &with_password())
        .forward(request, ForwardOptions::default())
        .await
        .unwrap();
    assert_eq!(response.status(), 418);
    let names: Vec<_> = response
        .headers()
        .keys()
        .map(|name| name.as_str())
        .collect();
    for gone in ["connection", "x-secret", "keep-alive", "proxy-authenticate"] {
        assert!(!names.contains(&gone), "{gone}");
    }
    assert_eq!(response.headers().get_all("set-cookie").iter().count(), 2);
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(bytes, "teapot");
    let seen = &log.all()[0];
    assert_eq!(seen.uri, "/v2/a/tags/list?n=1&x=%2F");
    assert_eq!(seen.headers["host"], served.host().as_str());
    assert_eq!(seen.headers["authorization"], "Bearer client");
    assert_eq!(seen.headers.get_all("accept").iter().count(), 2);
    for gone in [
        "x-hop",
        "te",
        "upgrade",
        "proxy-authorization",
        "x-forwarded-for",
        "via",
    ] {
        assert!(!seen.headers.contains_key(gone), "{gone}");
    }
}

#[tokio::test]
async fn bodies_are_passed_through_as_they_come() {
    // The response begins before the request has ended, and each side waits for the other.
    let served = serve(|request: Request<Incoming>| async move {
        let body = http_body_util::BodyDataStream::new(request.into_body());
        Answer::Stream(Response::new(body::stream(body)))
    })
    .await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver
            .recv()
            .await
            .map(|bytes| (Ok::<_, std::io::Error>(bytes), receiver))
    });
    let request = Request::patch("/v2/a/blobs/uploads/1")
        .body(body::stream(stream))
        .unwrap();
    sender.send(Bytes::from_static(b"0")).await.unwrap();
    let response = upstream(&served, &quick())
        .forward(request, ForwardOptions::default())
        .await
        .unwrap();
    let mut body = response.into_body();
    for n in 1..100u8 {
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), format!("{}", n - 1));
        sender.send(Bytes::from(format!("{n}"))).await.unwrap();
    }
    drop(sender);
    body.collect().await.unwrap();
}

#[tokio::test]
async fn bodies_that_stand_still_are_given_up_in_both_directions() {
    let served = raw(|_, head, mut stream| async move {
        if head.starts_with("GET") {
            write(
                &mut stream,
                b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
            )
            .await;
        }
        tokio::time::sleep(Duration::from_mins(1)).await;
        drop(stream);
    })
    .await;
    let registry = upstream(&served, &impatient());
    let options = ForwardOptions::default();
    let get = Request::get("/v2/a/blobs/x").body(body::empty()).unwrap();
    let response = registry.forward(get, options).await.unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    assert!(error.to_string().contains("more of the body"), "{error}");

    let half =
        futures_util::stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"x")) });
    let stalling = futures_util::StreamExt::chain(half, futures_util::stream::pending());
    let put = Request::put("/v2/a/blobs/uploads/1")
        .body(body::stream(stalling))
        .unwrap();
    let begin = Instant::now();
    let error = registry.forward(put, options).await.unwrap_err();
    let Error::TimedOut { what, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(what, "progress of the request's body");
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn nothing_that_could_act_twice_is_passed_through_twice() {
    let counted = Arc::new(AtomicUsize::new(0));
    let served = {
        let counted = Arc::clone(&counted);
        raw(move |_, _, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            async {}
        })
        .await
    };
    let registry = upstream(&served, &quick());
    for (method, times) in [("POST", 1), ("DELETE", 1), ("PUT", 1), ("GET", 2)] {
        counted.store(0, Ordering::SeqCst);
        let request = Request::builder()
            .method(method)
            .uri("/v2/a/blobs/uploads/1");
        let request = request.body(body::empty()).unwrap();
        let error = registry
            .forward(request, ForwardOptions::default())
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert_eq!(counted.load(Ordering::SeqCst), times, "{method}");
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_its_upload_is_an_error_not_an_end() {
    let complete = Arc::new(AtomicUsize::new(0));
    let served = {
        let complete = Arc::clone(&complete);
        serve(move |request: Request<Incoming>| {
            let complete = Arc::clone(&complete);
            async move {
                if request.into_body().collect().await.is_ok() {
                    complete.fetch_add(1, Ordering::SeqCst);
                }
                with(201, &[], "")
            }
        })
        .await
    };
    let broken = futures_util::stream::iter([
        Ok(Bytes::from_static(b"half")),
        Err(std::io::Error::other("the client is gone")),
    ]);
    let put = Request::put("/v2/a/blobs/uploads/1")
        .body(body::stream(broken))
        .unwrap();
    let error = upstream(&served, &quick())
        .forward(put, ForwardOptions::default())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("the client is gone"), "{error}");
    assert_eq!(complete.load(Ordering::SeqCst), 0);
}
