//! Single requests as overlaybd sends them: a connection each, no redirect followed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::Url;

/// How long a connection, and a response with what is read of it, may take each.
pub const LIMIT: Duration = Duration::from_secs(15);
/// Most of a body that is read, in bytes: what overlaybd takes of a token server's answer.
const MAX_BODY: usize = 16 << 10;

/// A response, its body up to a length.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// At most [`MAX_BODY`] bytes; the rest is not read.
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

pub trait Stream: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> Stream for S {}

/// The name that a certificate must be for.
///
/// # Errors
/// Where the address has none.
pub fn server_name(url: &Url) -> Result<ServerName<'static>, String> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())
}

/// Connects to the host of an address, with TLS for `https`.
///
/// # Errors
/// What failed.
pub async fn connect(url: &Url, tls: &Arc<ClientConfig>) -> Result<Pin<Box<dyn Stream>>, String> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or(443);
    let connected = timeout(LIMIT, TcpStream::connect((host, port))).await;
    let stream = flat(connected, "connect")?;
    if url.scheme() == "http" {
        return Ok(Box::pin(stream));
    }
    let connector = TlsConnector::from(Arc::clone(tls));
    let handshake = timeout(LIMIT, connector.connect(server_name(url)?, stream)).await;
    Ok(Box::pin(flat(handshake, "TLS")?))
}

fn flat<T>(
    result: Result<io::Result<T>, tokio::time::error::Elapsed>,
    what: &str,
) -> Result<T, String> {
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(format!("{what}: {error}")),
        Err(_) => Err(format!("{what}: no answer within {LIMIT:?}")),
    }
}

/// One `GET`.
///
/// # Errors
/// What failed.
pub async fn get(
    url: &Url,
    tls: &Arc<ClientConfig>,
    headers: &HeaderMap,
) -> Result<Answer, String> {
    let stream = connect(url, tls).await?;
    let mut target = url.path().to_owned();
    if let Some(query) = url.query() {
        target.push('?');
        target.push_str(query);
    }
    let host = url.host_str().unwrap_or_default();
    let host = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    get_over(stream, &target, &host, headers).await
}

/// One `GET` over a connection.
///
/// # Errors
/// What failed.
pub async fn get_over<S>(
    stream: S,
    target: &str,
    host: &str,
    headers: &HeaderMap,
) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut request = Request::get(target)
        .header(header::HOST, host)
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    request.headers_mut().extend(headers.clone());
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| crate::registry::error::chain(&error))?;
        let driver = tokio::spawn(connection);
        let answer = read(&mut sender, request).await;
        driver.abort();
        answer
    };
    timeout(LIMIT, exchange)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}")))
}

async fn read(
    sender: &mut hyper::client::conn::http1::SendRequest<Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
) -> Result<Answer, String> {
    let text = |error: hyper::Error| crate::registry::error::chain(&error);
    let response = sender.send_request(request).await.map_err(text)?;
    let (head, mut content) = response.into_parts();
    let mut body = Vec::new();
    while body.len() < MAX_BODY
        && let Some(frame) = content.frame().await
    {
        if let Ok(data) = frame.map_err(text)?.into_data() {
            let left = MAX_BODY - body.len();
            body.extend(data.iter().take(left));
        }
    }
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body,
    })
}
