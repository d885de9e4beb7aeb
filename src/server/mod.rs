//! The HTTP server: connections, routing, converted images, pass-through, shutdown.
//!
//! | module | what it does |
//! |---|---|
//! | [`dispatch`] | from a request to its handler; imported by this module only |
//! | [`handlers`] | one kind of request each |
//! | [`context`] | one request that was let in, and what can be asked for it |
//! | [`background`], [`upkeep`] | work that no request waits for |
//! | [`state`] | what all requests share |
//! | [`access`], [`limits`], [`cache`], [`observe`] | its parts |
//! | [`error`], [`document`] | answers |
//! | [`http`] | connections, TLS, bodies, headers, ranges, paths |
//! | [`decision`], [`policy`], [`pattern`], [`explain`], [`question`] | in which form an image is served |
//! | [`learn`] | priority lists from what nodes read |
//! | [`upstreams`], [`route`], [`config`], [`usable`] | which upstream, what about, settings and their files |
//!
//! The files import each other in one direction only; `tests/layering.rs` sees to that.

mod access;
mod background;
mod cache;
pub mod config;
mod context;
mod decision;
mod dispatch;
mod document;
mod error;
mod explain;
mod files;
mod handlers;
mod http;
mod learn;
mod limits;
mod observe;
mod pattern;
mod policy;
mod question;
mod reload;
mod route;
mod state;
mod upkeep;
mod upstreams;
pub mod usable;

pub use self::http::proxy_protocol::{HeaderError, v1 as proxy_header_v1, v2 as proxy_header_v2};
pub use self::http::tls::{TlsError, TlsFile};
pub use config::{
    Access, Balancers, ClientCertificates, ClientRate, ForwardedHeaders, Limits, OnTimeout,
    ServerConfig, SourceCacheConfig, TlsConfig, TurboConfig, TurboFallback, UpstreamChoice,
    UpstreamEntry,
};
pub use explain::{Case, Explanation, ImageQuestion, KnownSize, Pull, Unexplained, explain};
pub use pattern::Pattern;
pub use policy::{Form, ImageName, Policy, Rule, When};
pub use reload::Reloader;
pub use route::{Endpoint, Kind, Route};

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::http::accept::HttpListener;
use self::http::admission::Admission;
use self::http::client_address::ClientAddresses;
use self::http::tls::Tls;
use crate::convert::Converter;
use background::push_logins::check_push_logins;
use dispatch::Dispatcher;
use handlers::admin::AdminHandler;
use limits::slots::Slots;
use observe::refusals::Refusals;
use state::AppState;
use upkeep::upkeep;

/// Connections that wait in the kernel to be accepted.
const BACKLOG: u32 = 4096;
/// How long a stop waits for webhooks at most.
const WEBHOOK_GRACE: Duration = Duration::from_secs(5);

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// The setting that has it.
        setting: &'static str,
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
    state: Arc<AppState>,
    tls: Option<Arc<Tls>>,
    listener: TcpListener,
    overlaybd: Option<TcpListener>,
    admin: Option<TcpListener>,
    local_addr: SocketAddr,
    overlaybd_addr: Option<SocketAddr>,
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
        let open_tls = |tls| Tls::open(tls, config.http2);
        let tls = config.tls.as_ref().map(open_tls).transpose();
        let tls = tls.map_err(|error| ServerError::Configuration(error.to_string()))?;
        let (listener, local_addr) = listen("listen", config.listen)?;
        let on = |name| move |address| listen(name, address);
        let overlaybd = config.listen_overlaybd.map(on("listen-overlaybd"));
        let (overlaybd, overlaybd_addr) = overlaybd.transpose()?.unzip();
        let (admin, admin_addr) = config.admin.map(on("admin")).transpose()?.unzip();
        Ok(Self {
            state: Arc::new(AppState::new(config, converter, files)?),
            tls: tls.map(Arc::new),
            listener,
            overlaybd,
            admin,
            local_addr,
            overlaybd_addr,
            admin_addr,
        })
    }

    /// The address that registry clients connect to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The address that nodes connect to that read overlaybd, if there is one.
    pub fn overlaybd_addr(&self) -> Option<SocketAddr> {
        self.overlaybd_addr
    }

    /// The address of health checks and metrics, if there is one.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// What has it read its files again.
    pub fn reloader(&self) -> Reloader {
        Reloader {
            state: Arc::clone(&self.state),
            tls: self.tls.clone(),
        }
    }

    /// The bounds that are in force.
    pub fn limits(&self) -> &Limits {
        &self.state.config.limits
    }

    /// Answers until `shutdown` comes, and for [`Limits::drain_delay`] after that, in which whoever
    /// asks for readiness is told; then drains: no new connections, open requests are finished
    /// within [`Limits::drain`], and webhooks that wait are sent in what is left of that. `true` when all
    /// requests were.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> bool {
        let limits = self.state.config.limits.clone();
        let upkeep = tokio::spawn(upkeep(Arc::clone(&self.state), self.tls.clone()));
        let push_logins = tokio::spawn(check_push_logins(Arc::clone(&self.state)));
        let (stop_admin, admin_stopped) = oneshot::channel::<()>();
        let admin = self.admin.map(|listener| {
            let listener = HttpListener {
                listeners: vec![(listener, AdminHandler::new(&self.state))],
                tls: None,
                h2c: false,
                limits: Limits {
                    connections: 64,
                    drain: Duration::from_secs(1),
                    ..limits.clone()
                },
                connections: Gauge::default(),
                // No PROXY header and no forwarded headers are accepted on the admin address.
                admission: Admission::new(
                    Arc::new(ClientAddresses::new(Balancers::default())),
                    Slots::new(64, 100),
                    limits.head_timeout,
                    Refusals::default(),
                ),
            };
            tokio::spawn(async move {
                let stopped = async {
                    let _ = admin_stopped.await;
                };
                listener.accept_until(stopped).await.close().await
            })
        });
        let dispatcher = |is_overlaybd| Dispatcher {
            state: Arc::clone(&self.state),
            is_overlaybd,
        };
        let mut listeners = vec![(self.listener, dispatcher(false))];
        listeners.extend(self.overlaybd.map(|listener| (listener, dispatcher(true))));
        let listener = HttpListener {
            listeners,
            tls: self.tls,
            h2c: self.state.config.h2c,
            limits: limits.clone(),
            connections: self.state.metrics.connections.clone(),
            admission: Admission::new(
                Arc::clone(&self.state.clients),
                self.state.connections.clone(),
                limits.head_timeout,
                self.state.metrics.refusals.clone(),
            ),
        };
        let (state, delay) = (Arc::clone(&self.state), limits.drain_delay);
        let mut drain_end = None;
        let stopped = &mut drain_end;
        let shutdown = async move {
            shutdown.await;
            *stopped = Instant::now().checked_add(delay.saturating_add(limits.drain));
            state.is_draining.store(true, Ordering::Relaxed);
            if !delay.is_zero() {
                tracing::info!(
                    ?delay,
                    "connections are still accepted for a while (--drain-delay)"
                );
                tokio::time::sleep(delay).await;
            }
        };
        let open_connections = listener.accept_until(shutdown).await;
        let all_finished = open_connections.close().await;
        let grace = Instant::now() + WEBHOOK_GRACE;
        let last = drain_end.map_or(grace, |end| grace.min(end));
        self.state.webhooks.sent(last).await;
        // Operators are answered to the end: they see what the drain waits for.
        drop(stop_admin);
        if let Some(admin) = admin {
            let _ = admin.await;
        }
        upkeep.abort();
        push_logins.abort();
        all_finished
    }
}

fn listen(
    setting: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), ServerError> {
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
    listen().map_err(|cause| ServerError::Listen {
        setting,
        address,
        cause,
    })
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
