//! How connections end: idle ones, and all of them when the server stops.

use std::time::Duration;

use overlaybd_proxy::server::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http2_limits::{GOAWAY, LONG, PING, SETTINGS, Scene, frame, read, read_until};

#[tokio::test]
async fn an_idle_connection_is_closed_whatever_it_says() {
    let scene = Scene::new(Limits {
        idle: Duration::from_secs(1),
        ..Limits::default()
    })
    .await;
    let mut client = scene.client(1 << 20, 8 << 20).await;
    let response = client
        .send(scene.request(Some((0, 9))))
        .await
        .await
        .unwrap();
    read(response.into_body()).await.unwrap();
    // It says that it goes, so no request is lost.
    let ended = timeout(LONG, client.connection).await.expect("it stays");
    ended.unwrap().unwrap();
    let mut stream = scene.raw().await;
    let (mut reading, mut writing) = stream.split();
    let ping = async {
        loop {
            let sent = writing.write_all(&frame(PING, 0, 0, &[0; 8])).await;
            if sent.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut bytes = Vec::new();
    tokio::select! {
        () = ping => {}
        read = timeout(LONG, reading.read_to_end(&mut bytes)) => {
            assert!(read.is_ok(), "the connection stays");
        }
    }
}

#[tokio::test]
async fn a_stop_lets_open_streams_end() {
    let mut scene = Scene::new(Limits {
        drain: LONG,
        ..Limits::default()
    })
    .await;
    let mut client = scene.client(100_000, 8 << 20).await;
    let response = client.send(scene.request(None)).await.await.unwrap();
    // Nobody has said anything yet on this one.
    let mut silent = TcpStream::connect(scene.proxy.address).await.unwrap();
    scene.proxy.stop();
    assert_eq!(silent.read(&mut [0]).await.unwrap_or(0), 0);
    let body = read(response.into_body()).await.unwrap();
    assert!(body == scene.content);
    let ended = timeout(LONG, client.connection).await.expect("it stays");
    ended.unwrap().unwrap();
    assert!(scene.proxy.stopped().await);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_clients_that_are_gone() {
    // The PING of the shutdown is never answered.
    let scene = Scene::new(Limits {
        drain: LONG,
        ..Limits::default()
    })
    .await;
    let mut stream = scene.raw().await;
    read_until(&mut stream, SETTINGS).await;
    assert!(scene.proxy.stopped().await);
    // Nor is that of a connection that was idle.
    let scene = Scene::new(Limits {
        idle: Duration::from_secs(8),
        drain: Duration::from_secs(6),
        ..Limits::default()
    })
    .await;
    let mut idle = scene.raw().await;
    read_until(&mut idle, GOAWAY).await;
    assert!(scene.proxy.stopped().await);
}
