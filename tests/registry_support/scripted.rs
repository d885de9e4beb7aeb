//! A server that answers by script, well or badly.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use overlaybd_proxy::registry::Body;

/// What is answered.
pub enum Answer {
    /// A right HTTP response.
    Http(Response<Full<Bytes>>),
    /// A response whose body comes as it comes.
    Stream(Response<Body>),
}

/// A server on a port of its own, which ends when dropped.
pub struct Served {
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Served {
    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The same port by the other name of this machine.
    pub fn other_name(&self) -> String {
        format!("localhost:{}", self.address.port())
    }
}

/// Answers requests by `script`.
pub async fn serve<F, A>(script: F) -> Served
where
    F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let script = Arc::new(script);
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let script = Arc::clone(&script);
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let answer = script(request);
                    async move {
                        Ok::<_, Infallible>(match answer.await {
                            Answer::Http(response) => response
                                .map(|body| body.map_err(|never| match never {}).boxed_unsync()),
                            Answer::Stream(response) => response,
                        })
                    }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Served { address, task }
}

/// Answers every request with this status and header.
pub async fn always(status: u16, name: &'static str, value: &str) -> Served {
    let value = value.to_owned();
    serve(move |_| {
        let response = Response::builder()
            .status(status)
            .header(name, &value)
            .body(Full::default())
            .unwrap();
        std::future::ready(Answer::Http(response))
    })
    .await
}

/// One request as it came over the wire.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
}

/// Requests in their order.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Seen>>>);

impl Log {
    pub fn add(&self, request: &Request<Incoming>) -> usize {
        let mut log = self.0.lock();
        log.push(Seen {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        });
        log.len()
    }

    pub fn all(&self) -> Vec<Seen> {
        self.0.lock().clone()
    }

    pub fn header(&self, at: usize, name: &str) -> Option<String> {
        let log = self.0.lock();
        let value = log.get(at)?.headers.get(name)?;
        Some(value.to_str().unwrap().to_owned())
    }
}

/// Reads a request's head from each connection, and lets `script` write whatever it likes;
/// `nth` counts connections from 1.
pub async fn raw<F, A>(script: F) -> Served
where
    F: Fn(usize, String, TcpStream) -> A + Send + Sync + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let script = Arc::new(script);
    let task = tokio::spawn(async move {
        let mut nth = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            nth += 1;
            let script = Arc::clone(&script);
            tokio::spawn(async move {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut byte).await {
                        Ok(1) => head.push(byte[0]),
                        _ => return,
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                script(nth, head, stream).await;
            });
        }
    });
    Served { address, task }
}

/// Writes, and does not mind if the other side has gone.
pub async fn write(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
}

/// The first byte of the `Range` of a request's head.
pub fn range_start(head: &str) -> Option<usize> {
    let line = head.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("range: bytes=")
            .map(str::to_owned)
    })?;
    line.split('-').next()?.parse().ok()
}
