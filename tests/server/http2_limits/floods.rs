//! Frames that come without end.

use http::{Method, Request, StatusCode, Version};
use overlaybd_proxy::registry::Upstream;
use overlaybd_proxy::server::Limits;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::http2_limits::{
    CONTINUATION, DATA, GOAWAY, HEADERS, LONG, PING, RST_STREAM, SETTINGS, Scene, connect, flood,
    frame, head, next_frame,
};
use crate::registry_support::{quick, scripted};
use crate::server_support::{Proxy, config, plain};

#[tokio::test]
async fn pings_and_settings_come_to_an_end() {
    let scene = Scene::new(Limits::default()).await;
    let ping = frame(PING, 0, 0, &[7; 8]).repeat(1000);
    flood(scene.raw().await, 10_000, |_| ping.clone()).await;
    let settings = frame(SETTINGS, 0, 0, b"").repeat(1000);
    flood(scene.raw().await, 10_000, |_| settings.clone()).await;
    assert_eq!(scene.status().await, StatusCode::OK);
}

#[tokio::test]
async fn requests_that_are_taken_back_come_to_an_end() {
    let scene = Scene::new(Limits::default()).await;
    // As fast as they come, many before they are looked at.
    let mut id = 1;
    let (_, said) = flood(scene.raw().await, 10_000, |_| {
        let mut bytes = Vec::new();
        for _ in 0..100 {
            bytes.extend(frame(HEADERS, 0x5, id, &head()));
            bytes.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
            id += 2;
        }
        bytes
    })
    .await;
    // ENHANCE_YOUR_CALM
    let goaway = said.windows(9).any(|it| it[3] == GOAWAY && it[4] == 0);
    assert!(goaway || said.len() < 1 << 20);
    // One after the other, each after its request was begun.
    let mut stream = scene.raw().await;
    stream.set_nodelay(true).unwrap();
    let mut resets = 0_u32;
    let reset = async {
        loop {
            let id = resets * 2 + 1;
            if stream
                .write_all(&frame(HEADERS, 0x5, id, &head()))
                .await
                .is_err()
            {
                break;
            }
            tokio::task::yield_now().await;
            let bytes = frame(RST_STREAM, 0, id, &8_u32.to_be_bytes());
            if stream.write_all(&bytes).await.is_err() {
                break;
            }
            resets += 1;
        }
    };
    timeout(LONG, reset).await.expect("the flood goes on");
    assert!(resets < 5000, "{resets}");
    assert_eq!(scene.status().await, StatusCode::OK);
}

#[tokio::test]
async fn a_head_in_endless_parts_comes_to_an_end() {
    let scene = Scene::new(Limits::default()).await;
    // Empty ones, small ones that mean something, and large ones.
    for part in [
        vec![],
        b"\x00\x01a\x01b".to_vec(),
        b"\x00\x01a\x7f\x80\x40".to_vec(),
    ] {
        let mut stream = scene.raw().await;
        stream
            .write_all(&frame(HEADERS, 0x1, 1, &head()))
            .await
            .unwrap();
        let part = frame(CONTINUATION, 0, 1, &part);
        flood(stream, 1_000_000, |_| part.clone()).await;
    }
    assert_eq!(scene.status().await, StatusCode::OK);
}

#[tokio::test]
async fn a_broken_request_is_refused_and_many_end_the_connection() {
    let scene = Scene::new(Limits::default()).await;
    // A header of a connection (RFC 9113 § 8.2.2), again and again.
    let mut block = head();
    block.extend_from_slice(b"\x00\x0aconnection\x05close");
    let mut id = 1;
    let (written, _) = flood(scene.raw().await, 10_000, |_| {
        let bytes = frame(HEADERS, 0x5, id, &block);
        id += 2;
        bytes
    })
    .await;
    assert!(written > 1, "{written}");
    let mut client = scene.client(1 << 20, 8 << 20).await;
    let request = Request::builder()
        .method(Method::CONNECT)
        .version(Version::HTTP_2)
        .uri("here.example:443")
        .body(())
        .unwrap();
    let response = client.send(request).await.await.unwrap();
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn no_more_requests_are_open_at_once_than_the_bound() {
    let scene = Scene::new(Limits::default()).await;
    let block = scene.block();
    let ask = |from: u32, to: u32| -> Vec<u8> {
        let heads = (from..to).map(|n| frame(HEADERS, 0x5, n * 2 + 1, &block));
        heads.collect::<Vec<_>>().concat()
    };
    // No byte of an answer's content goes out, so each stays open.
    let mut stream = scene.raw().await;
    let window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let bytes = [window, ask(0, 140)].concat();
    stream.write_all(&bytes).await.unwrap();
    let (mut answered, mut refused) = (0, 0);
    let read = async {
        while answered + refused < 140 {
            match next_frame(&mut stream).await.expect("the connection ends") {
                (HEADERS, ..) => answered += 1,
                (RST_STREAM, _, reason) => {
                    // REFUSED_STREAM
                    assert_eq!(reason, 7_u32.to_be_bytes());
                    refused += 1;
                }
                _ => {}
            }
        }
    };
    timeout(LONG, read).await.expect("it stands still");
    assert_eq!((answered, refused), (128, 12));
    // Who goes on all the same is hung up on.
    let mut next = 140;
    let (written, _) = flood(stream, 1000, |_| {
        next += 1;
        ask(next - 1, next)
    })
    .await;
    assert!(written > 1, "{written}");
    assert_eq!(scene.status().await, StatusCode::OK);
}

#[tokio::test]
async fn content_in_pieces_of_nothing_comes_to_an_end() {
    // It takes what is uploaded, and does not answer.
    let served = scripted::raw(|_, _, mut stream| async move {
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    })
    .await;
    let upstream = Upstream::registry(&served.host(), &quick()).unwrap();
    let mut config = config(vec![plain(&upstream)]);
    config.h2c = true;
    let proxy = Proxy::start(config).await;
    // `POST /v2/a/blobs/uploads/`
    let path = b"/v2/a/blobs/uploads/";
    let mut block = vec![0x83, 0x86, 0x04, 20];
    block.extend_from_slice(path);
    block.extend_from_slice(b"\x01\x01x");
    for piece in [&b""[..], b"x"] {
        let mut stream = connect(&proxy).await;
        let bytes = frame(HEADERS, 0x4, 1, &block);
        stream.write_all(&bytes).await.unwrap();
        let pieces = frame(DATA, 0, 1, piece).repeat(1000);
        flood(stream, 10_000, |_| pieces.clone()).await;
    }
    assert_eq!(proxy.get("/elsewhere").await.status, StatusCode::NOT_FOUND);
}
