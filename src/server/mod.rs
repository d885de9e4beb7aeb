//! HTTP in front: accept, TLS, routes, the interception, drain.
//!
//! ```text
//! accept ─ tls ─ activity        a connection, within its limits
//!   front ─ host, path, route,   a request: who, where, what
//!           upstreams, gate      and whether at all
//!     challenge, token, wrapped  credentials of clients, where paths choose the upstream
//!     turn ─ places              worked on or waiting, each within its bound
//!     manifest, blob             converted content: permission, then the store
//!     warm                       the same again, for as long as the permission holds
//!     forward ─ headers, rewrite everything else
//!   respond ─ told               whatever went wrong, as a status
//!   record ─ metrics             what is told of it
//! ```

mod accept;
mod access;
mod activity;
mod admin;
mod blob;
mod body;
mod buffers;
mod challenge;
pub mod config;
mod converted;
mod files;
mod forward;
mod front;
mod gate;
mod headers;
mod hold;
mod host;
mod label;
mod linger;
mod manifest;
mod metrics;
mod path;
mod patience;
mod permission;
mod pieces;
mod places;
mod prepare;
mod ranges;
mod record;
mod refusals;
mod reload;
mod respond;
mod rewrite;
mod rounds;
mod route;
mod scope;
mod shelf;
mod tags;
mod tls;
mod token;
mod told;
mod turn;
mod unconverted;
mod upstreams;
mod warm;
mod wrapped;

pub use config::{
    Access, ClientCertificates, Limits, OnTimeout, Pattern, ServerConfig, TlsConfig,
    UpstreamChoice, UpstreamEntry,
};
pub use reload::Reloader;
pub use route::{Endpoint, Kind, Route};

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;

use crate::convert::Converter;
use crate::store::Store;
use accept::Door;
use admin::AdminDoor;
use front::{Front, FrontDoor};
use places::Places;
use tls::Tls;

/// Connections that wait in the kernel to be accepted.
const BACKLOG: u32 = 4096;

/// The least time between two sweeps of the index.
const SWEEP: Duration = Duration::from_secs(10);

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
pub struct Server {
    front: Arc<Front>,
    tls: Option<Arc<Tls>>,
    listener: TcpListener,
    admin: Option<TcpListener>,
    local_addr: SocketAddr,
    admin_addr: Option<SocketAddr>,
}

impl Server {
    /// Listens on the configured addresses.
    ///
    /// # Errors
    /// When an address is taken, or a file that the configuration names cannot be used.
    #[allow(clippy::unused_async)]
    pub async fn bind(mut config: ServerConfig, converter: Converter) -> Result<Self, ServerError> {
        let files = raise_open_files();
        config.limits.connections = connections(config.limits.connections, files);
        let tls = config.tls.as_ref().map(Tls::open).transpose();
        let tls = tls.map_err(ServerError::Configuration)?;
        let (listener, local_addr) = listen(config.listen)?;
        let (admin, admin_addr) = match config.admin {
            Some(address) => {
                let (listener, address) = listen(address)?;
                (Some(listener), Some(address))
            }
            None => (None, None),
        };
        Ok(Self {
            front: Arc::new(Front::new(config, converter, files)?),
            tls: tls.map(Arc::new),
            listener,
            admin,
            local_addr,
            admin_addr,
        })
    }

    /// Where registry clients are answered.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where operators are answered, if anywhere.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// What has it read its files again.
    pub fn reloader(&self) -> Reloader {
        Reloader {
            front: Arc::clone(&self.front),
            tls: self.tls.clone(),
        }
    }

    /// Answers until `shutdown` comes, then drains: no new connections, open requests are
    /// finished within [`Limits::drain`]. `true` when all of them were.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> bool {
        let limits = self.front.config.limits.clone();
        let upkeep = tokio::spawn(upkeep(Arc::clone(&self.front), self.tls.clone()));
        let (stop_admin, admin_stopped) = oneshot::channel::<()>();
        let admin = self.admin.map(|listener| {
            let door = Door {
                listener,
                tls: None,
                limits: Limits {
                    connections: 64,
                    drain: Duration::from_secs(1),
                    ..limits.clone()
                },
                connections: Gauge::default(),
                places: Places::new(64, 100),
                handler: AdminDoor(Arc::clone(&self.front)),
            };
            tokio::spawn(async move {
                let stopped = async {
                    let _ = admin_stopped.await;
                };
                door.open(stopped).await.leave().await
            })
        });
        let door = Door {
            listener: self.listener,
            tls: self.tls,
            limits,
            connections: self.front.metrics.connections.clone(),
            places: self.front.connections.clone(),
            handler: FrontDoor(Arc::clone(&self.front)),
        };
        let guests = door.open(shutdown).await;
        self.front.is_draining.store(true, Ordering::Relaxed);
        let all_finished = guests.leave().await;
        // Operators are answered to the end: they see what the drain waits for.
        drop(stop_admin);
        if let Some(admin) = admin {
            let _ = admin.await;
        }
        upkeep.abort();
        all_finished
    }
}

fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServerError> {
    let listen = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // A restart need not wait for the last connections' remains.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let local = listener.local_addr()?;
        Ok((listener, local))
    };
    listen().map_err(|cause| ServerError::Listen { address, cause })
}

/// Lets this process open as many files as it may be allowed: each connection is one, and the
/// usual limit of 1024 is there for programs that know no better. Says how many these are.
fn raise_open_files() -> u64 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    raised.unwrap_or_else(|error| {
        tracing::warn!(%error, "the limit of open files stays as it is");
        getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
    })
}

/// The connections that are accepted where so many files may be open: those at work need another
/// one to the upstream, or a file.
fn connections(wanted: usize, files: u64) -> usize {
    let most = usize::try_from(files / 8 * 5).unwrap_or(usize::MAX).max(8);
    if wanted > most {
        tracing::info!(
            files,
            connections = most,
            "fewer connections are accepted than --max-connections says: raise the limit of open \
             files (ulimit -n, LimitNOFILE)"
        );
    }
    wanted.min(most)
}

/// What is looked after as time goes by.
async fn upkeep(front: Arc<Front>, tls: Option<Arc<Tls>>) {
    let sweeper = tokio::spawn(sweep(front.converted.store().clone()));
    let _swept = AbortOnDrop(sweeper.abort_handle());
    let mut turns: u32 = 0;
    let mut told = String::new();
    loop {
        tokio::time::sleep(files::INTERVAL / 2).await;
        turns = turns.wrapping_add(1);
        let (front, tls) = (Arc::clone(&front), tls.clone());
        // All of it asks the disk.
        let work = tokio::task::spawn_blocking(move || {
            front.shelf.close_stale();
            front.warm.forget_stale();
            // Blobs that were pinned when others came, or whose time to be kept is over now.
            let evicted = front.converted.converter.store().blobs().evict();
            if turns.is_multiple_of(2) {
                if let Some(tls) = tls {
                    tls.refresh();
                }
                if let Some(users) = &front.users {
                    users.refresh();
                }
            }
            evicted.err().map(|error| error.to_string())
        });
        match work.await {
            // A disk that cannot be written is told once, not every second.
            Ok(Some(error)) if error == told => {}
            Ok(Some(error)) => {
                tracing::warn!(error, "the blob cache cannot be kept within its bound");
                told = error;
            }
            Ok(None) => told.clear(),
            Err(error) => tracing::error!(%error, "the upkeep failed"),
        }
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Forgets what the index has of blobs that are gone: once after the start, and after evictions.
async fn sweep(store: Store) {
    let mut swept = None;
    loop {
        let evicted = store.blobs().evicted();
        let mut pause = SWEEP;
        if swept != Some(evicted) {
            let begun = Instant::now();
            match store.sweep().await {
                Ok(0) => swept = Some(evicted),
                Ok(rows) => {
                    swept = Some(evicted);
                    tracing::info!(rows, "the index forgot what it had of blobs that are gone");
                }
                Err(error) => tracing::debug!(%error, "the index is not swept now"),
            }
            // A large index is not swept all the time.
            pause = pause.max(begun.elapsed().saturating_mul(50));
        }
        tokio::time::sleep(pause).await;
    }
}
