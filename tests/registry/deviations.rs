//! The registry client against registries that are good, but do otherwise than most.

use crate::registry_support;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use overlaybd_proxy::oci::Digest;
use overlaybd_proxy::oci::media_type::OCI_MANIFEST;
use overlaybd_proxy::registry::{
    BlobSource, Credentials, Error, ForwardOptions, Pushed, RegistryConfig, UploadMode, Upstream,
    body,
};
use parking_lot::Mutex;
use registry_support::faults::{OWN, upstream, with};
use registry_support::scripted::{Log, Served, raw, serve, write};
use registry_support::{noise, quick, repo, tag};
use tokio::io::AsyncWriteExt as _;

/// A registry whose answer to a `HEAD` is `code`, without a word, and to a `GET` another.
async fn deaf_to_head(code: u16, get: u16) -> (Served, Log) {
    let log = Log::default();
    let seen = log.clone();
    let served = serve(move |request: Request<Incoming>| {
        seen.add(&request);
        async move {
            match (request.method().as_str(), get) {
                ("HEAD", _) => with(code, &[], ""),
                (_, 200) => with(200, &[("content-type", OCI_MANIFEST)], "{}"),
                (_, get) => with(
                    get,
                    &[],
                    r#"{"errors":[{"code":"WHY","message":"in words"}]}"#,
                ),
            }
        }
    });
    (served.await, log)
}

fn methods(log: &Log) -> Vec<Method> {
    log.all().into_iter().map(|seen| seen.method).collect()
}

#[tokio::test]
async fn a_manifest_whose_head_fails_is_asked_for_by_get() {
    for code in [400, 401, 403, 404, 405, 500, 501, 503] {
        let (served, log) = deaf_to_head(code, 200).await;
        let head = upstream(&served, &quick())
            .head_manifest(&repo("a"), &tag("x"), &OWN)
            .await
            .unwrap_or_else(|error| panic!("{code}: {error}"));
        assert_eq!(head.digest, Digest::of(b"{}"), "{code}");
        assert_eq!(methods(&log), [Method::HEAD, Method::GET], "{code}");
    }
}

#[tokio::test]
async fn a_refused_manifest_is_reported_with_the_registrys_error_after_one_get() {
    for code in [400, 401, 403, 404] {
        let (served, log) = deaf_to_head(code, code).await;
        let error = upstream(&served, &quick())
            .head_manifest(&repo("a"), &tag("x"), &OWN)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("WHY: in words"), "{error}");
        assert_eq!(methods(&log), [Method::HEAD, Method::GET], "{code}");
    }
}

#[tokio::test]
async fn a_head_that_is_401_or_429_is_not_repeated_as_get() {
    const CHALLENGE: &[(&str, &str)] = &[("www-authenticate", "Basic realm=\"x\"")];
    for (code, headers) in [(401, CHALLENGE), (429, &[]), (410, &[])] {
        let log = Log::default();
        let seen = log.clone();
        let served = serve(move |request: Request<Incoming>| {
            seen.add(&request);
            async move { with(code, headers, "") }
        })
        .await;
        let mut config = quick();
        config.retry.attempts = 1;
        let head = upstream(&served, &config);
        let head = head.head_manifest(&repo("a"), &tag("x"), &OWN).await;
        assert!(head.is_err(), "{code}");
        assert_eq!(methods(&log), [Method::HEAD], "{code}");
    }
}

/// What a registry says of how many bytes it has of an upload: of the number before the last
/// request and the number after it.
type Range = fn(usize, usize) -> String;

/// A registry that takes uploads in chunks at the right places only, and says of them what
/// `says` does; the `cut`th chunk is lost.
async fn chunks(says: Range, cut: usize) -> (Served, Arc<Mutex<Vec<u8>>>, Log) {
    let stored: Arc<Mutex<Vec<u8>>> = Arc::default();
    let (log, patches) = (Log::default(), Arc::new(Mutex::new(0)));
    let (kept, seen) = (Arc::clone(&stored), log.clone());
    let served = serve(move |request: Request<Incoming>| {
        seen.add(&request);
        let (stored, patches) = (Arc::clone(&kept), Arc::clone(&patches));
        async move {
            let place = ("location", "/v2/a/blobs/uploads/1");
            let is_put = request.method() == Method::PUT;
            match request.method().as_str() {
                "POST" => {
                    stored.lock().clear();
                    with(202, &[place], "")
                }
                "HEAD" => with(404, &[], ""),
                "DELETE" => with(204, &[], ""),
                "GET" => {
                    let there = stored.lock().len();
                    with(204, &[place, ("range", &says(there, there))], "")
                }
                _ => {
                    let range = request.headers().get(header::CONTENT_RANGE).cloned();
                    let bytes = request.into_body().collect().await.unwrap().to_bytes();
                    let mut stored = stored.lock();
                    if is_put {
                        return with(201, &[], "");
                    }
                    let before = stored.len();
                    let range = range.unwrap();
                    if !range.to_str().unwrap().starts_with(&format!("{before}-")) {
                        return with(416, &[], "");
                    }
                    let mut patches = patches.lock();
                    *patches += 1;
                    if *patches == cut {
                        return with(503, &[], "");
                    }
                    stored.extend_from_slice(&bytes);
                    with(202, &[place, ("range", &says(before, stored.len()))], "")
                }
            }
        }
    });
    (served.await, stored, log)
}

async fn push_in_chunks(served: &Served, content: &Bytes) -> Result<Pushed, Error> {
    let config = RegistryConfig {
        upload: UploadMode::Chunked(100_000),
        ..quick()
    };
    let (digest, size) = (Digest::of(content), content.len() as u64);
    let source = BlobSource::Bytes(content.clone());
    let upstream = upstream(served, &config);
    upstream
        .push_blob(&repo("a"), &digest, size, &source, &OWN)
        .await
}

#[tokio::test]
async fn chunks_continue_at_what_was_sent_although_range_differs() {
    let says: [(&str, Range); 5] = [
        ("right", |_, now| format!("0-{}", now.saturating_sub(1))),
        ("lagging", |before, _| {
            format!("0-{}", before.saturating_sub(1))
        }),
        ("one too many", |_, now| format!("0-{now}")),
        ("one too few", |_, now| {
            format!("0-{}", now.saturating_sub(2))
        }),
        ("nonsense", |_, _| "everything".to_owned()),
    ];
    let content = noise(450_000, 3);
    for (name, says) in says {
        let (served, stored, log) = chunks(says, 0).await;
        let pushed = push_in_chunks(&served, &content).await;
        assert_eq!(pushed.unwrap(), Pushed::Uploaded, "{name}");
        assert_eq!(*stored.lock(), content, "{name}");
        let asked = methods(&log).iter().filter(|m| **m == Method::GET).count();
        assert_eq!(asked, 0, "{name}: nothing failed");
        if name != "nonsense" {
            // Where it is wrong after a failure, it is all sent again.
            let (served, stored, _) = chunks(says, 3).await;
            let pushed = push_in_chunks(&served, &content).await;
            assert_eq!(pushed.unwrap(), Pushed::Uploaded, "{name}");
            assert_eq!(*stored.lock(), content, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_before_the_request_body_ends_is_read() {
    let served = raw(|_, _, mut stream| async move {
        let answer = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"x\"\r\n\
            Content-Length: 2\r\n\r\n{}";
        write(&mut stream, answer).await;
        // With the body unread: the connection is reset.
        let _ = stream.shutdown().await;
    })
    .await;
    let registry = upstream(&served, &quick());
    for nth in 0..40 {
        let chunks = (0..64).map(|_| Ok::<_, std::io::Error>(noise(65_536, 1)));
        let request = Request::put("/v2/a/blobs/uploads/1?digest=x")
            .header(header::CONTENT_LENGTH, 64 * 65_536)
            .body(body::stream(futures_util::stream::iter(chunks)))
            .unwrap();
        let answer = registry.forward(request, ForwardOptions::default()).await;
        let answer = answer.unwrap_or_else(|error| panic!("{nth}: {error}"));
        assert_eq!(answer.status(), 401, "{nth}");
        assert!(answer.headers().contains_key(header::WWW_AUTHENTICATE));
    }
}

#[tokio::test]
async fn a_repository_has_the_credentials_of_the_longest_path_in_dockers_configuration() {
    let asked: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
    let known = Arc::clone(&asked);
    let served = serve(move |request: Request<Incoming>| {
        let asked = Arc::clone(&known);
        async move {
            let Some(given) = request.headers().get(header::AUTHORIZATION) else {
                return with(401, &[("www-authenticate", "Basic realm=\"x\"")], "");
            };
            let given = given.to_str().unwrap().to_owned();
            let path = request.uri().path().to_owned();
            asked.lock().insert(path, given);
            with(200, &[], r#"{"name":"x","tags":[]}"#)
        }
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let host = served.host();
    // `me:host`, `me:team` and `me:app`, one of them as `base64 -w 4` writes it.
    let auths = format!(
        r#"{{"auths":{{"{host}":{{"auth":"bWU6\naG9z\ndA==\n"}},
            "{host}/team":{{"auth":"bWU6dGVhbQ=="}},
            "{host}/team/app":{{"auth":"bWU6YXBw"}}}}}}"#
    );
    std::fs::write(&path, auths).unwrap();
    let config = RegistryConfig {
        credentials: Credentials::DockerConfig { path: Some(path) },
        ..quick()
    };
    let registry = Upstream::registry(&host, &config).unwrap();
    for (name, wanted) in [
        ("team/app", "bWU6YXBw"),
        ("team/other", "bWU6dGVhbQ=="),
        ("teams/app", "bWU6aG9zdA=="),
        ("team/app", "bWU6YXBw"),
    ] {
        registry.tags(&repo(name), &OWN).await.unwrap();
        let asked = asked.lock();
        let given = &asked[&format!("/v2/{name}/tags/list")];
        assert_eq!(given, &format!("Basic {wanted}"), "{name}");
    }
}
