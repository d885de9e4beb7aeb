//! HTTP/2 clients that are slow, greedy, or break the protocol: each meets a bound, and others go
//! on. The frames are written by hand, or by the `h2` crate's client.

mod bodies;
mod ends;
mod floods;
mod heads;
mod readers;

use crate::{registry_support, server_support};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{Request, Response, StatusCode, Version};
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
        Client::of(&self.proxy, stream_window, window).await
    }

    /// A connection that speaks HTTP/2 by hand.
    async fn raw(&self) -> TcpStream {
        connect(&self.proxy).await
    }

    /// The head of a request for the whole content, in HPACK's static table and literals.
    fn block(&self) -> Vec<u8> {
        let path = u8::try_from(self.path.len()).unwrap();
        let mut block = vec![0x82, 0x86, 0x04, path];
        block.extend_from_slice(self.path.as_bytes());
        block.extend_from_slice(b"\x01\x01x");
        block
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

/// A connection that speaks HTTP/2 by hand.
async fn connect(proxy: &Proxy) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, b"")).await.unwrap();
    stream
}

impl Client {
    /// A client whose streams and whose connection have such windows.
    async fn of(proxy: &Proxy, stream_window: u32, window: u32) -> Self {
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(stream_window)
            .initial_connection_window_size(window)
            .handshake::<_, Bytes>(stream)
            .await
            .unwrap();
        Self {
            sender,
            connection: tokio::spawn(connection),
        }
    }

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

/// A frame: kind, stream and payload.
type Frame = (u8, u32, Vec<u8>);

/// Reads a frame; none where the connection ends.
async fn next_frame(stream: &mut TcpStream) -> Option<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], id, payload))
}

/// Reads frames until the connection ends.
async fn frames(stream: &mut TcpStream) -> Vec<Frame> {
    let mut found = Vec::new();
    let read = async {
        while let Some(frame) = next_frame(stream).await {
            found.push(frame);
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

/// Reads frames until one of this kind has come.
async fn read_until(stream: &mut TcpStream, kind: u8) {
    let read = async { while next_frame(stream).await.expect("the connection ends").0 != kind {} };
    timeout(LONG, read).await.expect("no such frame comes");
}
