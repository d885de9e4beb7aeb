//! The registry client against servers that misbehave.

use crate::registry_support;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use overlaybd_proxy::oci::media_type::OCI_MANIFEST;
use overlaybd_proxy::oci::{Digest, Selector};
use overlaybd_proxy::registry::{
    BlobSource, Error, Pushed, RegistryConfig, UploadMode, Upstream, body,
};
use registry_support::faults::{OWN, blob, impatient, upstream, with};
use registry_support::scripted::{Answer, Log, Served, range_start, raw, serve, write};
use registry_support::{noise, quick, repo, tag};
use tokio::net::TcpStream;

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
async fn a_broken_download_is_resumed() {
    let content = noise(3_000_000, 1);
    let starts = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let served = {
        let (content, starts) = (content.clone(), Arc::clone(&starts));
        raw(move |_, head, mut stream| {
            let (content, starts) = (content.clone(), Arc::clone(&starts));
            async move {
                let start = range_start(&head);
                starts.lock().push(start);
                send_part(&mut stream, &content, start, 500_000).await;
            }
        })
        .await
    };
    // More breaks than attempts: each comes after progress.
    let found = blob(&upstream(&served, &quick()), &content).await.unwrap();
    assert_eq!(Digest::of(&found), Digest::of(&content));
    let starts = starts.lock().clone();
    assert!(starts.len() >= 6 && starts[0].is_none(), "{starts:?}");
    assert!(starts[1..].is_sorted() && starts[1] > Some(0), "{starts:?}");
}

#[tokio::test]
async fn a_stalled_download_is_resumed() {
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
async fn a_download_without_progress_fails() {
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
async fn a_download_without_range_support_starts_again() {
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
async fn a_wrong_content_range_is_an_error() {
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
async fn a_blob_of_the_wrong_length_is_an_error() {
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
async fn an_endless_body_is_an_error() {
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
async fn transient_errors_are_retried_and_others_are_not() {
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

/// Another client may be writing one of its blobs at that moment.
#[tokio::test]
async fn a_manifest_is_pushed_again_while_the_registry_does_not_see_its_blobs() {
    let manifest = Bytes::from_static(b"{\"schemaVersion\":2}");
    for (code, tried) in [("MANIFEST_BLOB_UNKNOWN", 3), ("MANIFEST_INVALID", 1)] {
        let log = Log::default();
        let served = {
            let log = log.clone();
            serve(move |request| {
                let nth = log.add(&request);
                async move {
                    if nth < 3 {
                        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"x"}}]}}"#);
                        with(400, &[], body)
                    } else {
                        with(201, &[], "")
                    }
                }
            })
            .await
        };
        let pushed = upstream(&served, &quick())
            .push_manifest(&repo("a"), &tag("x"), OCI_MANIFEST, manifest.clone(), &OWN)
            .await;
        assert_eq!(log.all().len(), tried, "{code}");
        assert_eq!(pushed.is_ok(), tried == 3, "{code}");
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
async fn a_wrong_digest_is_an_error_although_the_header_is_right() {
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
async fn a_head_without_the_needed_headers_is_followed_by_a_get() {
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
async fn a_server_that_does_not_answer_is_a_timeout() {
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
async fn a_refused_connection_is_an_error_after_a_few_attempts() {
    let error = Upstream::registry("127.0.0.1:1", &quick())
        .unwrap()
        .manifest(&repo("a"), &tag("x"), &OWN)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(error.is_transient());
}

/// An upload server that loses connections in the middle of bodies.
async fn lossy_uploads(keeps: bool) -> (Served, Arc<parking_lot::Mutex<Vec<u8>>>, Log) {
    let stored = Arc::new(parking_lot::Mutex::new(Vec::new()));
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
                    "POST" => {
                        stored.lock().clear();
                        with(202, &[("location", "/v2/a/blobs/uploads/1?s=0")], "")
                    }
                    "GET" if keeps => {
                        let range = at(&stored.lock());
                        with(
                            204,
                            &[("range", &range), ("location", "/v2/a/blobs/uploads/1?s=r")],
                            "",
                        )
                    }
                    "GET" | "HEAD" => with(404, &[], ""),
                    method => {
                        let is_put = method == "PUT";
                        while let Some(Ok(frame)) = request.body_mut().frame().await {
                            let mut stored = stored.lock();
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
                        let stored = stored.lock();
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
async fn a_broken_upload_is_resumed_or_restarted() {
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
            assert_eq!(Digest::of(&stored.lock()), Digest::of(&content));
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
