//! HTTP in front: accept, TLS, routes, the interception, drain.

pub mod config;

pub use config::{
    Access, ClientCertificates, Limits, OnTimeout, Pattern, ServerConfig, TlsConfig,
    UpstreamChoice, UpstreamEntry,
};

use std::net::SocketAddr;

use crate::convert::Converter;

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// A certificate, key or password file cannot be used.
    #[error("{0}")]
    Configuration(String),
}

/// A server that listens and does not answer yet.
pub struct Server {}

impl Server {
    /// Listens on the configured addresses.
    ///
    /// # Errors
    /// When an address is taken, or a file that the configuration names cannot be used.
    #[allow(clippy::unused_async)]
    pub async fn bind(config: ServerConfig, converter: Converter) -> Result<Self, ServerError> {
        let _ = (config, converter);
        Err(ServerError::Configuration("not built yet".to_owned()))
    }

    /// Where registry clients are answered.
    pub fn local_addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    /// Where operators are answered, if anywhere.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        None
    }

    /// Answers until `shutdown` comes, then drains: no new connections, open requests are
    /// finished within [`Limits::drain`]. `true` when all of them were.
    #[allow(clippy::unused_async)]
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> bool {
        let _ = shutdown;
        true
    }
}
