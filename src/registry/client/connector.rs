//! Connections to hosts: directly, or through an egress proxy; TLS; within a time limit.
//!
//! TLS is with the host itself, also through a proxy, which sees no more than its name.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::upgrade::Upgraded;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower_service::Service;

use super::dial::{Guard, Resolver};
use super::dump;
use super::early::Readable;
use super::egress::{Routes, authority, bare_host};
use super::tunnel::{self, NoTunnel};
use crate::registry::BoxError;

/// TLS settings: with the registry, and with an egress proxy.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) registry: Arc<ClientConfig>,
    pub(super) egress: Arc<ClientConfig>,
}

#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("no connection within {0:?}")]
pub(super) struct ConnectTimedOut(pub(super) Duration);

/// Connects within a time limit, CONNECT and TLS included.
#[derive(Clone)]
pub(super) struct Connector {
    inner: HttpsConnector<Reacher>,
    routes: Arc<Routes>,
    limit: Duration,
}

impl Connector {
    pub(super) fn new(tls: Tls, guard: Arc<Guard>, routes: Arc<Routes>, limit: Duration) -> Self {
        let direct = tcp(
            HttpConnector::new_with_resolver(Resolver(Arc::clone(&guard))),
            limit,
        );
        // The operator names the proxy, so it may have any address.
        let hop = tcp(HttpConnector::new(), limit);
        let reacher = Reacher {
            direct,
            hop: HttpsConnector::from((hop, tls.egress)),
            guard,
            routes: Arc::clone(&routes),
        };
        Self {
            inner: HttpsConnector::from((reacher, tls.registry)),
            routes,
            limit,
        }
    }
}

fn tcp<R>(mut connector: HttpConnector<R>, limit: Duration) -> HttpConnector<R> {
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(Duration::from_secs(30)));
    // Shared out among a name's addresses, so that one dead one does not use it up.
    connector.set_connect_timeout(Some(limit));
    connector
}

impl Service<Uri> for Connector {
    type Response = Readable<MaybeHttpsStream<Reached>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let connecting = self.inner.call(address.clone());
        let limit = self.limit;
        let hop = self.routes.of(&address).cloned();
        Box::pin(async move {
            let began = std::time::Instant::now();
            let connected = match tokio::time::timeout(limit, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err(match &hop {
                    Some(hop) => hop.late(&address, limit).into(),
                    None => ConnectTimedOut(limit).into(),
                }),
            };
            let egress = hop.as_ref().map(|hop| hop.address());
            dump::connected(
                address.authority(),
                egress,
                connected.is_ok(),
                began.elapsed(),
            );
            connected.map(Readable::new)
        })
    }
}

/// Connects to a host, or to the egress proxy that leads to it.
#[derive(Clone)]
struct Reacher {
    direct: HttpConnector<Resolver>,
    hop: HttpsConnector<HttpConnector>,
    guard: Arc<Guard>,
    routes: Arc<Routes>,
}

impl Service<Uri> for Reacher {
    type Response = Reached;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Reached, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        ready!(self.direct.poll_ready(context))?;
        self.hop.poll_ready(context)
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let Some(hop) = self.routes.of(&address).cloned() else {
            let connecting = self.direct.call(address);
            return Box::pin(async move { Ok(Reached::Directly(connecting.await?)) });
        };
        let connecting = self.hop.call(hop.address().clone());
        let guard = Arc::clone(&self.guard);
        Box::pin(async move {
            guard.check_name(&bare_host(&address)).await?;
            let stream = connecting.await.map_err(|error| hop.unreachable(error))?;
            if address.scheme() != Some(&Scheme::HTTPS) {
                return Ok(Reached::Proxy(Box::new(stream)));
            }
            let target = authority(&address);
            match tunnel::connect(stream, &target, hop.authorization()).await {
                Ok(tunnel) => Ok(Reached::Tunnel(tunnel)),
                Err(NoTunnel::Status(status)) => Err(hop.refused(&address, status).into()),
                Err(NoTunnel::Broken(error)) => Err(hop.broken(&address, error.into()).into()),
            }
        })
    }
}

/// A connection to a host, or one on which a proxy passes on what comes.
pub(super) enum Reached {
    Directly(TokioIo<TcpStream>),
    /// To a proxy, which is sent whole addresses (RFC 9112 § 3.2.2).
    Proxy(Box<MaybeHttpsStream<TokioIo<TcpStream>>>),
    /// Through a proxy.
    Tunnel(Upgraded),
}

impl Connection for Reached {
    fn connected(&self) -> Connected {
        match self {
            Self::Directly(stream) => stream.connected(),
            Self::Proxy(stream) => stream.connected().proxy(true),
            Self::Tunnel(_) => Connected::new(),
        }
    }
}

impl Read for Reached {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Directly(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Proxy(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tunnel(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl Write for Reached {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Directly(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Proxy(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tunnel(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Directly(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Proxy(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tunnel(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Directly(stream) => stream.is_write_vectored(),
            Self::Proxy(stream) => stream.is_write_vectored(),
            Self::Tunnel(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Directly(stream) => Pin::new(stream).poll_flush(context),
            Self::Proxy(stream) => Pin::new(stream).poll_flush(context),
            Self::Tunnel(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Directly(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Proxy(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tunnel(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
