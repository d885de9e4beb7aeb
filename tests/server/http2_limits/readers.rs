//! Many answers on one connection, and clients that do not take them.

use std::time::Duration;

use bytes::BytesMut;
use h2::Reason;
use http::StatusCode;
use overlaybd_proxy::server::Limits;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::http2_limits::{HEADERS, LONG, PING, SETTINGS, Scene, frame, read};

#[tokio::test]
async fn a_thousand_requests_come_over_one_connection() {
    let scene = Scene::new(Limits::default()).await;
    let mut client = scene.client(1 << 20, 8 << 20).await;
    for round in 0..10_usize {
        let mut open = Vec::new();
        for n in 0..100_usize {
            let first = (round * 100 + n) * 37;
            let last = first + 5000;
            open.push((
                first,
                last,
                client.send(scene.request(Some((first, last)))).await,
            ));
        }
        for (first, last, response) in open {
            let response = response.await.unwrap();
            assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
            let body = read(response.into_body()).await.unwrap();
            assert!(body == scene.content[first..=last], "{first}");
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_not_read_is_reset_and_one_beside_it_is_not() {
    let scene = Scene::new(Limits {
        requests: 2,
        address_share: 100,
        stall: Duration::from_secs(1),
        ..Limits::default()
    })
    .await;
    let mut client = scene.client(100_000, 8 << 20).await;
    let stuck = client.send(scene.request(None)).await.await.unwrap();
    // It takes as long as the other stands still, and some more.
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        let response = client.send(scene.request(Some((0, 999_999)))).await;
        let body = read(response.await.unwrap().into_body()).await.unwrap();
        assert!(body == scene.content[..1_000_000]);
    }
    let mut stuck = stuck.into_body();
    let error = loop {
        match timeout(LONG, stuck.data()).await.expect("it is not reset") {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("it came to its end"),
        }
    };
    assert_eq!(error.reason(), Some(Reason::CANCEL), "{error:?}");
    // Both places are free.
    let first = client.send(scene.request(Some((0, 0)))).await;
    let second = client.send(scene.request(Some((0, 0)))).await;
    for response in [first, second] {
        assert_eq!(
            response.await.unwrap().status(),
            StatusCode::PARTIAL_CONTENT
        );
    }
}

#[tokio::test]
async fn an_answer_that_waits_whole_keeps_its_place_and_not_for_ever() {
    let scene = Scene::new(Limits {
        requests: 2,
        address_share: 100,
        stall: Duration::from_secs(1),
        ..Limits::default()
    })
    .await;
    // One piece each, which the library takes at once.
    let mut client = scene.client(1000, 8 << 20).await;
    let first = client.send(scene.request(Some((0, 40_000)))).await;
    let second = client.send(scene.request(Some((0, 40_000)))).await;
    let open = [first.await.unwrap(), second.await.unwrap()];
    assert_eq!(scene.status().await, StatusCode::SERVICE_UNAVAILABLE);
    let ended = timeout(LONG, client.connection).await;
    let _ = ended.expect("the connection stays").unwrap();
    assert_eq!(scene.status().await, StatusCode::OK);
    drop(open);
}

#[tokio::test]
async fn a_connection_that_takes_nothing_is_closed() {
    let scene = Scene::new(Limits {
        stall: Duration::from_secs(1),
        ..Limits::default()
    })
    .await;
    let mut stream = scene.raw().await;
    // Windows as large as they get: nothing but the socket stops the answers.
    let window = 0x7fff_0000_u32.to_be_bytes();
    let setting = [&[0, 4][..], &window].concat();
    let mut bytes = frame(SETTINGS, 0, 0, &setting);
    bytes.extend(frame(8, 0, 0, &window));
    let block = scene.block();
    for n in 0..20 {
        bytes.extend(frame(HEADERS, 0x5, n * 2 + 1, &block));
    }
    stream.write_all(&bytes).await.unwrap();
    let closed = async {
        while stream.write_all(&frame(PING, 0, 0, &[0; 8])).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG, closed).await.expect("the connection stays");
}

#[tokio::test]
async fn an_answer_that_is_stuck_does_not_end_the_others() {
    let scene = Scene::new(Limits {
        stall: Duration::from_secs(1),
        ..Limits::default()
    })
    .await;
    let mut client = scene.client(1000, 8 << 20).await;
    let stuck = client.send(scene.request(Some((0, 40_000)))).await;
    let stuck = stuck.await.unwrap();
    let other = client.send(scene.request(None)).await.await.unwrap();
    let mut body = other.into_body();
    let mut bytes = BytesMut::new();
    let mut is_open = true;
    while let Some(piece) = timeout(LONG, body.data()).await.expect("it stands still") {
        let piece = piece.unwrap_or_else(|error| panic!("after {}: {error}", bytes.len()));
        body.flow_control().release_capacity(piece.len()).unwrap();
        bytes.extend_from_slice(&piece);
        // Slowly until no more requests are taken.
        is_open = is_open && client.sender.clone().ready().await.is_ok();
        if is_open {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert!(!is_open, "requests are still taken");
    assert!(bytes == scene.content);
    let ended = timeout(LONG, client.connection).await;
    let _ = ended.expect("the connection stays").unwrap();
    drop(stuck);
}
