//! Bodies of answers: whole, or seen to be cut; and what goes with them.

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderName, Method, Request, Response, Version};
use overlaybd_proxy::oci::Digest;
use overlaybd_proxy::registry::Upstream;
use overlaybd_proxy::server::Limits;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::http2_limits::{Client, LONG, Scene, read};
use crate::registry_support::quick;
use crate::registry_support::scripted::{self, Served};
use crate::server_support::{Proxy, config, plain};

/// A proxy before an upstream that answers each request by these bytes, and hangs up.
async fn passing(answer: &'static str) -> (Proxy, Served) {
    let served = scripted::raw(move |_, _, mut stream: TcpStream| async move {
        scripted::write(&mut stream, answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    })
    .await;
    (before(&served).await, served)
}

async fn before(served: &Served) -> Proxy {
    let upstream = Upstream::registry(&served.host(), &quick()).unwrap();
    let mut config = config(vec![plain(&upstream)]);
    config.h2c = true;
    Proxy::start(config).await
}

fn request(proxy: &Proxy, method: Method, path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder()
        .method(method)
        .version(Version::HTTP_2)
        .uri(format!("http://{}{path}", proxy.address));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

async fn ask(
    proxy: &Proxy,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> Response<RecvStream> {
    let mut client = Client::of(proxy, 1 << 20, 8 << 20).await;
    let request = request(proxy, method, path, headers);
    let response = client.send(request).await;
    timeout(LONG, response).await.expect("no answer").unwrap()
}

fn header<'a, B>(response: &'a Response<B>, name: &str) -> Option<&'a str> {
    let value = response
        .headers()
        .get(name.parse::<HeaderName>().unwrap())?;
    value.to_str().ok()
}

fn paths() -> [String; 3] {
    let digest = Digest::of(b"no such content");
    [
        "/v2/a/tags/list".to_owned(),
        format!("/v2/a/blobs/{digest}"),
        format!("/v2/a/referrers/{digest}"),
    ]
}

#[tokio::test]
async fn what_an_upstream_does_not_end_is_reset() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nthe beginning",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegin\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nd\r\nthe beginn",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegin\r\nzz\r\n",
    ] {
        let (proxy, _served) = passing(answer).await;
        for path in paths() {
            let response = ask(&proxy, Method::GET, &path, &[]).await;
            if response.status() != 200 {
                // It was read before it was answered.
                assert_eq!(response.status(), 502, "{path}: {answer:?}");
                continue;
            }
            let length = header(&response, "content-length");
            assert_eq!(length.is_some(), answer.contains("content-length"));
            let body = timeout(LONG, read(response.into_body())).await;
            let error = body.expect("it is not reset").unwrap_err();
            assert!(error.is_reset(), "{path}: {answer:?}: {error:?}");
        }
    }
}

#[tokio::test]
async fn what_an_upstream_ends_is_whole_and_trailers_do_not_pass() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntrailer: x-trailer\r\ntransfer-encoding: chunked\r\n\r\n\
         2\r\n{}\r\n0\r\nx-trailer: 1\r\nset-cookie: a=b\r\n\r\n",
    ] {
        let (proxy, _served) = passing(answer).await;
        let path = "/v2/a/tags/list";
        let response = ask(&proxy, Method::GET, path, &[("te", "trailers")]).await;
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "trailer"), None);
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        while let Some(piece) = body.data().await {
            bytes.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(bytes, b"{}");
        assert_eq!(body.trailers().await.unwrap(), None, "{answer}");
    }
}

#[tokio::test]
async fn trailers_of_a_request_do_not_pass() {
    let (sender, mut seen) = mpsc::channel(1);
    let served = scripted::raw(move |_, _, mut stream: TcpStream| {
        let sender = sender.clone();
        async move {
            let mut bytes = Vec::new();
            while !bytes.ends_with(b"\r\n\r\n") {
                let read = tokio::io::AsyncReadExt::read_buf(&mut stream, &mut bytes).await;
                if !read.is_ok_and(|count| count > 0) {
                    break;
                }
            }
            let _ = sender.send(bytes).await;
            let answer = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
            scripted::write(&mut stream, answer).await;
        }
    })
    .await;
    let proxy = before(&served).await;
    let client = Client::of(&proxy, 1 << 20, 8 << 20).await;
    let mut sender = client.sender.ready().await.unwrap();
    let path = "/v2/a/blobs/uploads/1";
    let request = request(&proxy, Method::PATCH, path, &[("trailer", "x-trailer")]);
    let (response, mut body) = sender.send_request(request, false).unwrap();
    body.send_data(Bytes::from_static(b"content"), false)
        .unwrap();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-trailer", "1".parse().unwrap());
    body.send_trailers(trailers).unwrap();
    let response = timeout(LONG, response).await.expect("no answer").unwrap();
    assert_eq!(response.status(), 202);
    let came = seen.recv().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&came), "7\r\ncontent\r\n0\r\n\r\n");
}

#[tokio::test]
async fn content_that_goes_missing_meanwhile_is_reset() {
    let scene = Scene::new(Limits::default()).await;
    let mut client = scene.client(10_000, 8 << 20).await;
    let response = client.send(scene.request(None)).await.await.unwrap();
    let length = scene.content.len().to_string();
    assert_eq!(header(&response, "content-length"), Some(&*length));
    let digest = Digest::of(&scene.content);
    let path = scene.proxy.store.blobs().path(&digest);
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(1_000_000).unwrap();
    let body = timeout(LONG, read(response.into_body())).await;
    let error = body.expect("it is not reset").unwrap_err();
    assert!(error.is_reset(), "{error:?}");
}

#[tokio::test]
async fn answers_without_a_body_end_with_their_head() {
    let scene = Scene::new(Limits::default()).await;
    let length = scene.content.len().to_string();
    let ask = async |method: Method, headers: &[(&str, &str)]| {
        let response = ask(&scene.proxy, method, &scene.path, headers).await;
        let is_over = response.body().is_end_stream();
        (response, is_over)
    };
    let (head, is_over) = ask(Method::HEAD, &[]).await;
    assert_eq!((head.status().as_u16(), is_over), (200, true));
    assert_eq!(header(&head, "content-length"), Some(&*length));
    let tag = header(&head, "etag").unwrap();
    let (same, is_over) = ask(Method::GET, &[("if-none-match", tag)]).await;
    assert_eq!((same.status().as_u16(), is_over), (304, true));
    let range = [("range", "bytes=0-9")];
    let (part, is_over) = ask(Method::HEAD, &range).await;
    // Ranges are of GET (RFC 9110 § 14.2).
    assert_eq!((part.status().as_u16(), is_over), (200, true));
    assert_eq!(header(&part, "content-length"), Some(&*length));
    let (part, _) = ask(Method::GET, &range).await;
    assert_eq!(part.status(), 206);
    assert_eq!(header(&part, "content-length"), Some("10"));
    let wanted = format!("bytes 0-9/{length}");
    assert_eq!(header(&part, "content-range"), Some(&*wanted));
    assert_eq!(read(part.into_body()).await.unwrap(), scene.content[..10]);
    let (beyond, _) = ask(Method::GET, &[("range", "bytes=99999999-")]).await;
    assert_eq!(beyond.status(), 416);
    let wanted = format!("bytes */{length}");
    assert_eq!(header(&beyond, "content-range"), Some(&*wanted));
    // Of what an upstream says of its own, too.
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\ncontent-length: 1000\r\n\r\n",
    ] {
        let (proxy, _served) = passing(answer).await;
        let response =
            crate::http2_limits::bodies::ask(&proxy, Method::HEAD, "/v2/a/tags/list", &[]).await;
        assert!(response.body().is_end_stream(), "{answer}");
        assert_eq!(header(&response, "content-length"), Some("1000"));
    }
}
