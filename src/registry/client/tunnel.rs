//! `CONNECT` (RFC 9110 § 9.3.6): a connection to a registry through an egress proxy.

use std::pin::pin;

use bytes::Bytes;
use http::HeaderValue;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper::upgrade::Upgraded;

/// Most bytes of the head of an answer.
const MAX_HEAD: usize = 8 << 10;

/// Why there is no connection.
pub(super) enum NoTunnel {
    /// The proxy's answer.
    Status(StatusCode),
    /// There is no answer, or none of HTTP.
    Broken(hyper::Error),
}

/// Has the proxy at the other end of `stream` connect to `authority`, `HOST:PORT`. The caller
/// limits the time.
pub(super) async fn connect<T>(
    stream: T,
    authority: &str,
    authorization: Option<&HeaderValue>,
) -> Result<Upgraded, NoTunnel>
where
    T: Read + Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(stream)
        .await
        .map_err(NoTunnel::Broken)?;
    let mut driving = pin!(connection.with_upgrades());
    let mut asking = pin!(async move {
        let mut request = Request::connect(authority).header(header::HOST, authority);
        if let Some(value) = authorization {
            request = request.header(header::PROXY_AUTHORIZATION, value);
        }
        let request = request.body(Empty::<Bytes>::new());
        let Ok(request) = request else {
            return Err(NoTunnel::Status(StatusCode::BAD_REQUEST));
        };
        let response = sender.send_request(request).await;
        let response = response.map_err(NoTunnel::Broken)?;
        if !response.status().is_success() {
            return Err(NoTunnel::Status(response.status()));
        }
        hyper::upgrade::on(response).await.map_err(NoTunnel::Broken)
    });
    tokio::select! {
        // An answer that is there counts, although the connection ended after it.
        biased;
        asked = &mut asking => asked,
        driven = &mut driving => match driven {
            Ok(()) => asking.await,
            Err(error) => Err(NoTunnel::Broken(error)),
        },
    }
}
