//! The client's settings.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::Egress;
use crate::oci::reference::Scheme;

/// A text that must not be shown.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Secret(String);

impl Secret {
    /// Keeps this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the wire only.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where our own credentials come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// There are none.
    Anonymous,
    /// A user and a password.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A refresh token (Docker: identity token) for the authorization server.
    RefreshToken(Secret),
    /// Docker's `config.json` with its credential helpers; no entry means anonymous.
    DockerConfig {
        /// The file; `None` for `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.
        path: Option<PathBuf>,
    },
}

/// A client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// PEM: the certificate and those that lead to its root.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

/// How the upstream is authenticated, and we to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// PEM files whose certificates are trusted besides the system's.
    pub extra_roots: Vec<PathBuf>,
    /// Whether the system's roots are trusted.
    pub system_roots: bool,
    /// Accepts any certificate: for tests and trusted networks.
    pub skip_verify: bool,
    /// Our own certificate.
    pub client: Option<ClientIdentity>,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self {
            extra_roots: Vec::new(),
            system_roots: true,
            skip_verify: false,
            client: None,
        }
    }
}

/// How long is waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For a response's head.
    pub response: Duration,
    /// For the next bytes of a body.
    pub stall: Duration,
    /// For the next request, before a connection is closed.
    pub idle: Duration,
    /// For a credential helper.
    pub helper: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            response: Duration::from_mins(1),
            stall: Duration::from_mins(1),
            idle: Duration::from_mins(1),
            helper: Duration::from_secs(15),
        }
    }
}

/// How often and after which wait a failed request is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all; 1 repeats nothing.
    pub attempts: u32,
    /// The wait before the second attempt; doubled each time, and spread by chance.
    pub base: Duration,
    /// The longest wait of our own choice.
    pub max: Duration,
    /// The longest `Retry-After` that is waited for; above it the error is returned.
    pub max_retry_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            base: Duration::from_millis(200),
            max: Duration::from_secs(8),
            max_retry_after: Duration::from_secs(30),
        }
    }
}

/// Which hosts the upstream may lead us to, by redirects and token realms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DialOptions {
    /// Hosts that are always allowed, whatever their address: `HOST` or `*.DOMAIN`.
    pub allow_hosts: Vec<String>,
    /// Whether a redirect may lead from https to plain http.
    pub allow_downgrade: bool,
}

/// How blobs are uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadMode {
    /// POST, then one PUT with all bytes.
    Monolithic,
    /// POST, `PATCH` by `PATCH` of at most so many bytes, then an empty PUT.
    Chunked(u64),
}

/// The settings of a registry client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryConfig {
    /// TLS or plain HTTP. `None`: TLS, but plain HTTP to loopback hosts without TLS settings, as
    /// with Docker.
    pub scheme: Option<Scheme>,
    /// TLS settings.
    pub tls: TlsOptions,
    /// Directories with a folder a host, as `/etc/docker/certs.d` and
    /// `/etc/containerd/certs.d`: the first that has the host is used.
    pub hosts_dirs: Vec<PathBuf>,
    /// Our own credentials.
    pub credentials: Credentials,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Repetition.
    pub retry: RetryPolicy,
    /// Where the upstream may lead us.
    pub dial: DialOptions,
    /// Through which HTTP proxy it is reached, with its mirrors, its token server and what it
    /// redirects to.
    pub egress: Egress,
    /// The longest manifest taken, in bytes; at most [`MAX_MANIFEST`].
    pub manifest_limit: usize,
    /// How blobs are uploaded.
    pub upload: UploadMode,
    /// Whether HTTP/2 is offered to hosts with TLS, for all but blobs and what is passed on.
    pub http2: bool,
}

/// The log's target for the heads of requests and responses, at level trace.
pub const DUMP_TARGET: &str = "http_dump";

/// The log's target for how connections are made and used, at level trace.
pub const TRACE_TARGET: &str = "http_trace";

/// The longest manifest that may be configured, in bytes.
pub const MAX_MANIFEST: usize = 16 << 20;

/// The longest manifest taken by default, in bytes: what registries guarantee to take
/// (OCI distribution-spec § Pushing manifests).
pub const DEFAULT_MANIFEST: usize = 4 << 20;

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            scheme: None,
            tls: TlsOptions::default(),
            hosts_dirs: Vec::new(),
            credentials: Credentials::Anonymous,
            timeouts: Timeouts::default(),
            retry: RetryPolicy::default(),
            dial: DialOptions::default(),
            egress: Egress::default(),
            manifest_limit: DEFAULT_MANIFEST,
            upload: UploadMode::Monolithic,
            http2: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let config = RegistryConfig {
            credentials: Credentials::Basic {
                username: "user".to_owned(),
                password: Secret::new("hunter2"),
            },
            ..RegistryConfig::default()
        };
        let shown = format!("{config:?}");
        assert!(shown.contains("user") && !shown.contains("hunter2"));
    }
}
