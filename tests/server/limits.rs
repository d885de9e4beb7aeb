//! Bounds, and the ends of connections: slow, greedy, broken and leaving clients; the drain.

use crate::{registry_support, server_support};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use overlaybd_proxy::oci::Digest;
use overlaybd_proxy::oci::media_type::OCI_MANIFEST;
use overlaybd_proxy::registry::{BoxError, RegistryConfig, Timeouts, Upstream, body};
use overlaybd_proxy::server::Limits;
use registry_support::scripted::{self, Answer as Scripted, Served};
use registry_support::{noise, quick, repo};
use server_support::{Proxy, ask, config, plain};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// An upstream that has one manifest for everyone.
async fn generous() -> (Served, Digest) {
    let source = Digest::of(b"source");
    let digest = source.clone();
    let served = scripted::serve(move |_| {
        let response = Response::builder()
            .header("docker-content-digest", digest.as_str())
            .header("content-type", OCI_MANIFEST)
            .header("content-length", "6")
            .body(Full::from("source"))
            .unwrap();
        std::future::ready(Scripted::Http(response))
    })
    .await;
    (served, source)
}

async fn proxy_with(limits: Limits) -> (Proxy, Served, String, Bytes) {
    let (served, source) = generous().await;
    let upstream = Upstream::registry(&served.host(), &quick()).unwrap();
    let mut config = config(vec![plain(&upstream)]);
    config.limits = limits;
    let proxy = Proxy::start(config).await;
    let content = noise(40_000_000, 5);
    let digest = proxy
        .plant(upstream.host(), &repo("a"), &source, &content)
        .await;
    let path = format!("/v2/a/blobs/{digest}");
    (proxy, served, path, content)
}

async fn write(proxy: &Proxy, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

async fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    bytes
}

/// Reads up to the end of an answer's head.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn a_megabyte_of_head_is_431() {
    let (proxy, _served, ..) = proxy_with(Limits::default()).await;
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let text = format!(
        "GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Long: {}",
        "x".repeat(1 << 20)
    );
    let writer = tokio::spawn(async move {
        let _ = writing.write_all(text.as_bytes()).await;
        writing
    });
    let mut bytes = Vec::new();
    let _ = reading.read_to_end(&mut bytes).await;
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
    drop(writer.await);
    // Many small ones are as bad.
    let lines: Vec<String> = (0..500).map(|n| format!("X-{n}: y\r\n")).collect();
    let lines = lines.concat();
    let mut stream = write(
        &proxy,
        &format!("GET /v2/ HTTP/1.1\r\nHost: x\r\n{lines}\r\n"),
    )
    .await;
    let text = read_all(&mut stream).await;
    assert!(text.starts_with(b"HTTP/1.1 431 "));
    assert_eq!(proxy.get("/v2/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_head_that_does_not_end_is_408_and_an_idle_connection_is_closed() {
    let (proxy, _served, ..) = proxy_with(Limits {
        head_timeout: Duration::from_millis(300),
        idle: Duration::from_millis(900),
        ..Limits::default()
    })
    .await;
    let begun = Instant::now();
    let mut slow = write(&proxy, "GET /v2/ HTTP/1.1\r\nHost: x\r\n").await;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if slow.write_all(b"X-A: b\r\n").await.is_err() || begun.elapsed() > Duration::from_secs(1)
        {
            break;
        }
    }
    let text = read_all(&mut slow).await;
    assert!(
        text.starts_with(b"HTTP/1.1 408 "),
        "{:?}",
        String::from_utf8_lossy(&text)
    );
    assert!(begun.elapsed() < Duration::from_secs(4));

    let begun = Instant::now();
    let mut idle = write(&proxy, "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let text = read_all(&mut idle).await;
    assert!(text.starts_with(b"HTTP/1.1 200 "));
    let took = begun.elapsed();
    assert!(
        took > Duration::from_millis(800) && took < Duration::from_secs(3),
        "{took:?}"
    );
}

#[tokio::test]
async fn a_connection_whose_client_does_not_read_is_closed() {
    let (proxy, _served, path, content) = proxy_with(Limits {
        stall: Duration::from_millis(400),
        ..Limits::default()
    })
    .await;
    let mut stream = write(&proxy, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let bytes = read_all(&mut stream).await;
    assert!(bytes.len() < content.len(), "cut off");
    // One that reads slowly but reads is not.
    let mut stream = write(
        &proxy,
        &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    )
    .await;
    read_head(&mut stream).await;
    let mut read = 0;
    let mut buffer = vec![0; 4 << 20];
    loop {
        let n = stream.read(&mut buffer).await.unwrap();
        if n == 0 {
            break;
        }
        read += n;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(read, content.len());
}

#[tokio::test]
async fn a_stalled_upload_is_408() {
    let (served, log) = {
        let log = scripted::Log::default();
        let seen = log.clone();
        let served = scripted::serve(move |request: http::Request<hyper::body::Incoming>| {
            seen.add(&request);
            async move {
                let _ = request.into_body().collect().await;
                Scripted::Http(Response::new(Full::default()))
            }
        })
        .await;
        (served, log)
    };
    let upstream = Upstream::registry(&served.host(), &quick()).unwrap();
    let mut config = config(vec![plain(&upstream)]);
    config.limits.stall = Duration::from_millis(300);
    let proxy = Proxy::start(config).await;
    let mut stream = write(
        &proxy,
        "PUT /v2/a/blobs/uploads/1?digest=x HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc",
    )
    .await;
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
    assert_eq!(log.all().len(), 1);
}

#[tokio::test]
async fn too_many_waiting_requests_are_503_with_retry_after() {
    let gate = Arc::new(Notify::new());
    let waiting = Arc::clone(&gate);
    let served = scripted::serve(move |_| {
        let waiting = Arc::clone(&waiting);
        async move {
            waiting.notified().await;
            Scripted::Http(Response::new(Full::default()))
        }
    })
    .await;
    let upstream = Upstream::registry(&served.host(), &quick()).unwrap();
    let mut config = config(vec![plain(&upstream)]);
    config.limits.waiting = 2;
    let proxy = Proxy::start(config).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(write(&proxy, "GET /v2/x/tags/list HTTP/1.1\r\nHost: x\r\n\r\n").await);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let answer = proxy.get("/v2/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("retry-after"), "1");
    gate.notify_waiters();
    for stream in &mut held {
        assert!(read_head(stream).await.starts_with("HTTP/1.1 200 "));
    }
    drop(held);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let released = Arc::clone(&gate);
    let later = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        released.notify_waiters();
    });
    assert_eq!(proxy.get("/v2/").await.status, StatusCode::OK);
    later.await.unwrap();
}

#[tokio::test]
async fn a_connection_over_the_limit_waits_to_be_accepted() {
    let (proxy, _served, ..) = proxy_with(Limits {
        connections: 2,
        idle: Duration::from_mins(1),
        ..Limits::default()
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = write(&proxy, "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").await;
        read_head(&mut stream).await;
        held.push(stream);
    }
    let third = proxy.get("/v2/");
    tokio::pin!(third);
    let waited = tokio::time::timeout(Duration::from_millis(300), &mut third).await;
    assert!(waited.is_err());
    held.pop();
    assert_eq!(third.await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_drain_finishes_responses() {
    let (mut proxy, _served, path, content) = proxy_with(Limits::default()).await;
    let mut stream = write(&proxy, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200 "));
    let mut idle = TcpStream::connect(proxy.address).await.unwrap();
    let mut read = vec![0; 1000];
    stream.read_exact(&mut read).await.unwrap();
    let address = proxy.address;
    let admin = proxy.admin;
    proxy.stop();
    // The idle one is closed at once, no new one is accepted, and readiness says so.
    assert_eq!(read_all(&mut idle).await, b"");
    let begun = Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(2));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let ready = ask(admin, Method::GET, "/readyz", &[], Bytes::new()).await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(String::from_utf8_lossy(&ready.body).contains("draining"));
    let rest = async {
        read.extend(read_all(&mut stream).await);
        assert!(read == content);
    };
    let (all_finished, ()) = tokio::join!(proxy.stopped(), rest);
    assert!(all_finished);
}

#[tokio::test]
async fn a_drain_ends_at_its_timeout_and_reports_it() {
    let (proxy, _served, path, _) = proxy_with(Limits {
        drain: Duration::from_millis(300),
        ..Limits::default()
    })
    .await;
    let mut stream = write(&proxy, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    read_head(&mut stream).await;
    let begun = Instant::now();
    assert!(!proxy.stopped().await);
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_response_ends_with_an_error_when_the_upstreams_does() {
    let served = scripted::serve(|_| {
        let chunks = [
            Ok(Bytes::from_static(b"half")),
            Err(BoxError::from("broken")),
        ];
        let stream = futures_util::stream::iter(chunks).then(|chunk| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            chunk
        });
        let response = Response::builder()
            .header("content-length", "8")
            .body(body::stream(stream))
            .unwrap();
        std::future::ready(Scripted::Stream(response))
    })
    .await;
    let upstream = Upstream::registry(&served.host(), &quick()).unwrap();
    let proxy = Proxy::before(&upstream).await;
    let path = format!("/v2/a/blobs/{}", Digest::of(b"x"));
    let mut stream = write(&proxy, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    let head = read_head(&mut stream).await;
    assert!(head.contains("content-length: 8"), "{head}");
    assert_eq!(read_all(&mut stream).await, b"half");
}

#[tokio::test]
async fn errors_of_the_upstream_have_distinct_statuses() {
    let config_of = |response: Duration| RegistryConfig {
        timeouts: Timeouts {
            connect: response,
            response,
            ..Timeouts::default()
        },
        ..quick()
    };
    let silent = scripted::raw(|_, _, stream| async move {
        tokio::time::sleep(Duration::from_secs(30)).await;
        drop(stream);
    })
    .await;
    let garbage = scripted::raw(|_, _, mut stream| async move {
        scripted::write(&mut stream, b"\x00\xffnothing like HTTP\r\n\r\n").await;
    })
    .await;
    let errors = scripted::serve(|_| {
        let response = Response::builder().status(500).body(Full::default());
        std::future::ready(Scripted::Http(response.unwrap()))
    })
    .await;
    let limited = scripted::serve(|_| {
        let response = Response::builder()
            .status(429)
            .header("retry-after", "120")
            .body(Full::default());
        std::future::ready(Scripted::Http(response.unwrap()))
    })
    .await;
    for (served, tag_status, pass_status) in [
        (&silent, 504, 504),
        (&garbage, 502, 502),
        (&errors, 502, 500),
        (&limited, 429, 429),
    ] {
        let host = served.host();
        let settings = config_of(Duration::from_millis(100));
        let upstream = Upstream::registry(&host, &settings).unwrap();
        let proxy = Proxy::before(&upstream).await;
        let answer = proxy.get("/v2/a/manifests/x_obd").await;
        assert_eq!(answer.status.as_u16(), tag_status, "{:?}", answer.body);
        if tag_status == 429 {
            assert_eq!(answer.header("retry-after"), "120");
        }
        let answer = proxy.get("/v2/a/tags/list").await;
        assert_eq!(answer.status.as_u16(), pass_status, "{:?}", answer.body);
    }
}

#[tokio::test]
async fn ten_thousand_idle_connections_do_not_slow_the_others() {
    const COUNT: usize = 10_000;
    let limits = Limits {
        address_share: 100,
        ..Limits::default()
    };
    let (proxy, _served, path, content) = proxy_with(limits).await;
    // Half of them are another process's: both ends of all are more files than one may open.
    let mut other = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("limits::{IDLER}"), "--nocapture"])
        .env(IDLER, proxy.address.to_string())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut idle = Vec::with_capacity(COUNT / 2);
    for _ in 0..COUNT / 2 {
        idle.push(TcpStream::connect(proxy.address).await.unwrap());
    }
    let open = async || {
        let metrics = ask(proxy.admin, Method::GET, "/metrics", &[], Bytes::new()).await;
        let text = String::from_utf8(metrics.body.to_vec()).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("overlaybd_proxy_connections "))
            .unwrap();
        line.split(' ').nth(1).unwrap().parse::<usize>().unwrap()
    };
    while open().await < COUNT {
        assert!(other.try_wait().unwrap().is_none(), "no 10,000 connections");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let answer = proxy
        .ask(Method::GET, &path, &[("range", "bytes=7-4102")])
        .await;
    assert!(answer.body == content.slice(7..4103));
    assert!(open().await >= COUNT);
    // Idle connections do not hold up the end.
    assert!(proxy.stopped().await);
    drop(other.stdin.take());
    other.wait().unwrap();
    drop(idle);
}

/// The test that is the other process, and the variable that says where it connects to.
const IDLER: &str = "child_that_opens_connections";

#[test]
fn child_that_opens_connections() {
    let Ok(address) = std::env::var(IDLER) else {
        return;
    };
    let idle: Vec<_> = (0..5_000)
        .map(|_| std::net::TcpStream::connect(&address).unwrap())
        .collect();
    // Until whoever asked for them lets go.
    let _ = std::io::read_to_string(std::io::stdin());
    drop(idle);
}
