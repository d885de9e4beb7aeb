//! Upstreams by script.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::http2::Keys;

/// A server, which ends when dropped.
pub struct Served {
    pub address: SocketAddr,
    requests: Arc<AtomicUsize>,
    over_http2: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Served {
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Those of them that came over HTTP/2.
    pub fn over_http2(&self) -> usize {
        self.over_http2.load(Ordering::Relaxed)
    }
}

fn start() -> (Runtime, TcpListener) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    (runtime, listener)
}

/// An HTTP/1.1 server that answers with the request that it got.
pub fn echo() -> Served {
    let (runtime, listener) = start();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    count.fetch_add(1, Ordering::Relaxed);
                    std::future::ready(Ok::<_, std::convert::Infallible>(echoed(&request)))
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Served {
        address,
        requests,
        over_http2: Arc::default(),
        _runtime: runtime,
    }
}

fn echoed(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let mut headers = Map::new();
    for (name, value) in request.headers() {
        headers.insert(name.to_string(), Value::from(value.to_str().unwrap()));
    }
    let text = json!({
        "target": request.uri().to_string(),
        "version": format!("{:?}", request.version()),
        "headers": headers,
    });
    Response::builder()
        .header("connection", "x-hop, keep-alive")
        .header("x-hop", "dropped")
        .header("keep-alive", "timeout=5")
        .header("x-answer", "kept")
        .body(Full::from(text.to_string()))
        .unwrap()
}

/// What an HTTP/2 upstream does before it answers that there is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// The first request is refused.
    RefuseFirst,
    /// Requests are taken over HTTP/1.1 only: each is refused.
    RequireHttp1,
    /// The same, said of the connection.
    CloseForHttp1,
    /// The first connection takes no request.
    GoAwayFirst,
    /// The first connection says nothing any more once it was asked.
    FallSilent,
}

/// An HTTP/2 server with TLS.
pub fn http2(keys: &Keys, behaviour: Behaviour) -> Served {
    let (runtime, listener) = start();
    let address = listener.local_addr().unwrap();
    let certificates: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(keys.path("server.crt"))
            .unwrap()
            .map(Result::unwrap)
            .collect();
    let key = PrivateKeyDer::from_pem_file(keys.path("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (requests, over_http2) = (Arc::<AtomicUsize>::default(), Arc::default());
    let (count, seen) = (Arc::clone(&requests), Arc::clone(&over_http2));
    runtime.spawn(async move {
        let connections = Arc::new(AtomicUsize::new(0));
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
            let nth = Arc::clone(&connections);
            let over_http2 = Arc::clone(&seen);
            tokio::spawn(serve(acceptor, stream, behaviour, nth, (count, over_http2)));
        }
    });
    Served {
        address,
        requests,
        over_http2,
        _runtime: runtime,
    }
}

async fn serve(
    acceptor: tokio_rustls::TlsAcceptor,
    stream: TcpStream,
    behaviour: Behaviour,
    is_first: Arc<AtomicUsize>,
    (count, over_http2): (Arc<AtomicUsize>, Arc<AtomicUsize>),
) {
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        let service = service_fn(|_: Request<Incoming>| {
            count.fetch_add(1, Ordering::Relaxed);
            let answer = none().body(Full::<Bytes>::from(NONE)).unwrap();
            std::future::ready(Ok::<_, std::convert::Infallible>(answer))
        });
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
        return;
    }
    // Of those that speak HTTP/2.
    let is_first = is_first.fetch_add(1, Ordering::Relaxed) == 0;
    let reason = match behaviour {
        Behaviour::GoAwayFirst if is_first => Some(h2::Reason::NO_ERROR),
        Behaviour::CloseForHttp1 => Some(h2::Reason::HTTP_1_1_REQUIRED),
        _ => None,
    };
    if let Some(reason) = reason {
        over_http2.fetch_add(1, Ordering::Relaxed);
        return go_away(stream, &count, reason).await;
    }
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let nth = count.fetch_add(1, Ordering::Relaxed);
        over_http2.fetch_add(1, Ordering::Relaxed);
        match behaviour {
            Behaviour::RefuseFirst if nth == 0 => {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
                continue;
            }
            Behaviour::RequireHttp1 => {
                respond.send_reset(h2::Reason::HTTP_1_1_REQUIRED);
                continue;
            }
            Behaviour::FallSilent if is_first => std::future::pending().await,
            _ => {}
        }
        if let Ok(mut body) = respond.send_response(none().body(()).unwrap(), false) {
            let _ = body.send_data(Bytes::from(NONE), true);
        }
    }
}

const NONE: &str = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"none"}]}"#;

/// The head of an answer that there is nothing.
fn none() -> http::response::Builder {
    Response::builder()
        .status(404)
        .header("content-type", "application/json")
}

/// As a server that is stopped: no request was looked at (RFC 9113 § 6.8).
async fn go_away(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    count: &AtomicUsize,
    reason: h2::Reason,
) {
    let mut came = Vec::new();
    // The preface, SETTINGS, WINDOW_UPDATE, and the head of a request behind them.
    while !came.windows(3).any(|it| it == [1, 5, 0]) && came.len() < 10_000 {
        match stream.read_buf(&mut came).await {
            Ok(read) if read > 0 => {}
            _ => return,
        }
    }
    count.fetch_add(1, Ordering::Relaxed);
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let go_away = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let reason = u32::from(reason).to_be_bytes();
    let bytes = [&settings[..], &go_away, &reason].concat();
    let _ = stream.write_all(&bytes).await;
    let _ = stream.read_to_end(&mut came).await;
}
