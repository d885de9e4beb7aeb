//! Requests passed through to a registry.

use crate::registry_support;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use overlaybd_proxy::registry::{Error, ForwardOptions, body};
use registry_support::faults::{impatient, upstream, with, with_password};
use registry_support::quick;
use registry_support::scripted::{Answer, Log, raw, serve, write};

#[tokio::test]
async fn hop_by_hop_headers_are_not_passed_through() {
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
        .map(http::HeaderName::as_str)
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
async fn stalled_bodies_are_aborted_in_both_directions() {
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
async fn requests_that_are_not_idempotent_are_not_repeated() {
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
async fn an_aborted_upload_is_not_complete_for_the_upstream() {
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
