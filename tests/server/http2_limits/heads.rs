//! Heads of requests, and what a connection begins with.

use std::time::Duration;

use http::{Request, StatusCode, Version};
use overlaybd_proxy::server::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http2_limits::{
    DATA, GOAWAY, HEADERS, LONG, PREFACE, SETTINGS, Scene, frame, frames, head,
};

#[tokio::test]
async fn the_bounds_are_said_in_the_first_frame() {
    let scene = Scene::new(Limits {
        requests: 10,
        address_share: 50,
        head_bytes: 20_000,
        ..Limits::default()
    })
    .await;
    let mut stream = scene.raw().await;
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], SETTINGS);
    let mut payload = vec![0; usize::from(head[2])];
    stream.read_exact(&mut payload).await.unwrap();
    let settings: Vec<(u8, u32)> = payload
        .chunks(6)
        .map(|it| (it[1], u32::from_be_bytes([it[2], it[3], it[4], it[5]])))
        .collect();
    // MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_HEADER_LIST_SIZE (RFC 9113 § 6.5.2).
    for wanted in [(3, 5), (4, 512 << 10), (6, 20_000)] {
        assert!(settings.contains(&wanted), "{wanted:?} in {settings:?}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_long_is_431() {
    let scene = Scene::new(Limits {
        head_bytes: 8192,
        ..Limits::default()
    })
    .await;
    let mut client = scene.client(1 << 20, 8 << 20).await;
    let mut request = scene.request(None);
    let long = "x".repeat(10_000);
    request
        .headers_mut()
        .insert("x-long", long.parse().unwrap());
    let response = client.send(request).await.await.unwrap();
    assert_eq!(
        response.status(),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    );
    // Others on the same connection are answered.
    let response = client
        .send(scene.request(Some((0, 9))))
        .await
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
}

#[tokio::test]
async fn what_is_begun_and_does_not_end_is_closed() {
    let scene = Scene::new(Limits {
        head_timeout: Duration::from_millis(300),
        idle: Duration::from_mins(10),
        ..Limits::default()
    })
    .await;
    let settings = frame(SETTINGS, 0, 0, b"");
    let head = frame(HEADERS, 0x1, 1, &head());
    for begin in [
        PREFACE[..10].to_vec(),
        [PREFACE, &settings[..5]].concat(),
        [PREFACE, &settings, &head[..12]].concat(),
        [PREFACE, &settings, &head].concat(),
    ] {
        let mut stream = TcpStream::connect(scene.proxy.address).await.unwrap();
        stream.write_all(&begin).await.unwrap();
        let mut bytes = Vec::new();
        let read = timeout(LONG, stream.read_to_end(&mut bytes)).await;
        assert!(read.is_ok(), "{} bytes", begin.len());
    }
}

#[tokio::test]
async fn a_request_names_one_host() {
    let scene = Scene::new(Limits::default()).await;
    let mut client = scene.client(1 << 20, 8 << 20).await;
    for (host, wanted) in [("other.example", 400), ("here.example", 200)] {
        let request = Request::builder()
            .version(Version::HTTP_2)
            .uri("http://here.example/v2/")
            .header("host", host)
            .body(())
            .unwrap();
        let response = client.send(request).await.await.unwrap();
        assert_eq!(response.status(), wanted, "{host}");
    }
    // Neither :authority nor Host.
    let mut stream = scene.raw().await;
    let block = b"\x82\x86\x04\x04/v2/";
    let bytes = frame(HEADERS, 0x5, 1, block);
    stream.write_all(&bytes).await.unwrap();
    let bytes = frame(GOAWAY, 0, 0, &[0; 8]);
    stream.write_all(&bytes).await.unwrap();
    let found = frames(&mut stream).await;
    let answer = found.iter().find(|(kind, ..)| *kind == HEADERS).unwrap();
    // `:status: 400` is the static table's 12.
    assert_eq!(answer.2[0], 0x80 | 0x0c, "{answer:?}");
    let body = found.iter().find(|(kind, ..)| *kind == DATA).unwrap();
    let text = String::from_utf8_lossy(&body.2);
    assert!(text.contains(":authority"), "{text}");
}
