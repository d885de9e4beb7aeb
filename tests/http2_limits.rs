//! HTTP/2 clients that are slow, greedy, or break the protocol: each meets a bound, and others go
//! on. The frames are written by hand, or by the `h2` crate's client.

mod registry_support;
mod server_support;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use overlaybd_proxy::oci::Digest;
use overlaybd_proxy::oci::media_type::OCI_MANIFEST;
use overlaybd_proxy::registry::Upstream;
use overlaybd_proxy::server::Limits;
use registry_support::scripted::{self, Answer as Scripted, Served};
use registry_support::{noise, quick, repo};
use server_support::{Proxy, config, plain};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const PING: u8 = 0x6;
const GOAWAY: u8 = 0x7;
const CONTINUATION: u8 = 0x9;
/// Longer than anything here takes; a test that waits for it fails.
const LONG: Duration = Duration::from_mins(1);

struct Scene {
    proxy: Proxy,
    _served: Served,
    path: String,
    content: Bytes,
}

impl Scene {
    async fn new(limits: Limits) -> Self {
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
        let upstream = Upstream::registry(&served.host(), &quick()).unwrap();
        let mut config = config(vec![plain(&upstream)]);
        config.h2c = true;
        config.limits = limits;
        let proxy = Proxy::start(config).await;
        let content = noise(4_000_000, 5);
        let digest = proxy
            .plant(upstream.host(), &repo("a"), &source, &content)
            .await;
        Self {
            path: format!("/v2/a/blobs/{digest}"),
            content,
            proxy,
            _served: served,
        }
    }

    fn request(&self, range: Option<(usize, usize)>) -> Request<()> {
        let mut request = Request::builder()
            .version(Version::HTTP_2)
            .uri(format!("http://{}{}", self.proxy.address, self.path));
        if let Some((first, last)) = range {
            request = request.header("range", format!("bytes={first}-{last}"));
        }
        request.body(()).unwrap()
    }

    /// A client whose streams and whose connection have such windows.
    async fn client(&self, stream_window: u32, window: u32) -> Client {
        let stream = TcpStream::connect(self.proxy.address).await.unwrap();
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(stream_window)
            .initial_connection_window_size(window)
            .handshake::<_, Bytes>(stream)
            .await
            .unwrap();
        Client {
            sender,
            connection: tokio::spawn(connection),
        }
    }

    /// A connection that speaks HTTP/2 by hand.
    async fn raw(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.proxy.address).await.unwrap();
        stream.write_all(PREFACE).await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, b"")).await.unwrap();
        stream
    }

    /// Whether a request of its own connection is answered.
    async fn status(&self) -> StatusCode {
        self.proxy.get("/v2/").await.status
    }
}

struct Client {
    sender: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    async fn send(&mut self, request: Request<()>) -> ResponseFuture {
        let mut sender = self.sender.clone().ready().await.unwrap();
        sender.send_request(request, true).unwrap().0
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// `GET /v2/` of `http://x`, in HPACK's static table and literals.
fn head() -> Vec<u8> {
    let mut block = vec![0x82, 0x86];
    block.extend_from_slice(b"\x04\x04/v2/");
    block.extend_from_slice(b"\x01\x01x");
    block
}

/// Reads frames until the connection ends: kind, stream and payload of each.
async fn frames(stream: &mut TcpStream) -> Vec<(u8, u32, Vec<u8>)> {
    let mut found = Vec::new();
    let read = async {
        let mut head = [0; 9];
        while stream.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let length = usize::try_from(length).unwrap();
            let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; length];
            if stream.read_exact(&mut payload).await.is_err() {
                break;
            }
            found.push((head[3], id, payload));
        }
    };
    timeout(LONG, read).await.expect("the connection stays");
    found
}

/// Writes the same bytes until the other side has had enough, and reads what it says meanwhile.
async fn flood(
    stream: TcpStream,
    most: usize,
    mut next: impl FnMut(usize) -> Vec<u8>,
) -> (usize, Vec<u8>) {
    let (mut reading, mut writing) = stream.into_split();
    let reader = tokio::spawn(async move {
        let mut bytes = Vec::new();
        let _ = reading.read_to_end(&mut bytes).await;
        bytes
    });
    let mut written = 0;
    let write = async {
        while written < most && writing.write_all(&next(written)).await.is_ok() {
            written += 1;
        }
    };
    timeout(LONG, write).await.expect("the flood goes on");
    assert!(written < most, "{written} were taken");
    let bytes = timeout(LONG, reader).await.expect("the connection stays");
    (written, bytes.unwrap())
}

/// All of a body, each piece released at once.
async fn read(mut body: RecvStream) -> Result<Bytes, h2::Error> {
    let mut bytes = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

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
    let path = u8::try_from(scene.path.len()).unwrap();
    let mut block = vec![0x82, 0x86, 0x04, path];
    block.extend_from_slice(scene.path.as_bytes());
    block.extend_from_slice(b"\x01\x01x");
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

/// Reads frames until one of this kind has come.
async fn read_until(stream: &mut TcpStream, kind: u8) {
    let read = async {
        let mut head = [0; 9];
        loop {
            stream.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            stream.read_exact(&mut payload).await.unwrap();
            if head[3] == kind {
                return;
            }
        }
    };
    timeout(LONG, read).await.expect("no such frame comes");
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
