//! The server's settings.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::convert::layer::TurboSettings;
use crate::oci::{RepoName, Tag};
use crate::registry::{Secret, Upstream};
use crate::server::pattern::Pattern;
use crate::server::policy::Rule;

/// The settings of the server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Listen address for registry clients; port 0 for any.
    pub listen: SocketAddr,
    /// Listen address for nodes that read overlaybd, if there is one: plain tags are answered
    /// there with converted images.
    pub listen_overlaybd: Option<SocketAddr>,
    /// Listen address of health checks and metrics, if there is one.
    pub admin: Option<SocketAddr>,
    /// Certificate and key; `None` for plain HTTP.
    pub tls: Option<TlsConfig>,
    /// Whether HTTP/2 is offered to clients with TLS.
    pub http2: bool,
    /// Whether clients without TLS may speak HTTP/2 from their first byte on.
    pub h2c: bool,
    /// What stands behind. Never empty; the first is the default one.
    pub upstreams: Vec<UpstreamEntry>,
    /// The end of a tag that asks for the converted image, such as `_obd`.
    pub suffix: String,
    /// How TurboOCI images are served, if they are.
    pub turbo: Option<TurboConfig>,
    /// The end of a tag that asks for an index of the image and what it was converted to, such as
    /// `_merged`; empty for none.
    pub merged_suffix: String,
    /// Whether lists of referrers have the converted forms of their subject.
    pub list_referrers: bool,
    /// Hosts that nodes may read from below `/p2p/`, besides the upstreams: `HOST` or `HOST:PORT`.
    pub p2p_hosts: Vec<String>,
    /// Whether a tag of the upstream's own that ends like that is served before its plain tag is
    /// converted.
    pub prefer_upstream_tags: bool,
    /// How long a request waits for a conversion.
    pub hold: Duration,
    /// What a request gets whose hold is over.
    pub on_timeout: OnTimeout,
    /// Which clients are accepted, and with which credentials the upstream is asked.
    pub access: Access,
    /// How long an upstream's yes to a client's credentials is remembered.
    pub auth_cache_ttl: Duration,
    /// How long an upstream's yes holds while the upstream fails.
    pub stale_if_error: Duration,
    /// How long the addresses are good that overlaybd is sent to for a blob; zero: it is not sent
    /// to any.
    pub url_ttl: Duration,
    /// How long the addresses of the object storage are good that clients are sent to for converted
    /// blobs; `None`: they are not sent there.
    pub blob_redirect: Option<Duration>,
    /// How long at most a conversion that failed is not begun again; zero: each request begins
    /// another.
    pub failure_ttl: Duration,
    /// The file with the token that changes by operators need; `None`: they change nothing.
    pub admin_token_file: Option<PathBuf>,
    /// The file with the secret that registries' notifications need; `None`: none are taken.
    pub notification_secret_file: Option<PathBuf>,
    /// Addresses that are told of each conversion that ended.
    pub webhooks: Vec<Secret>,
    /// The file with the secret that webhooks are signed with; `None`: they are not.
    pub webhook_secret_file: Option<PathBuf>,
    /// The keys that these are signed with; `None`: a random one of this process.
    pub url_key_file: Option<PathBuf>,
    /// Whether what changes the upstream is refused.
    pub read_only: bool,
    /// Whether unauthenticated clients may write to the upstream with the proxy's credentials.
    pub allow_anonymous_push: bool,
    /// Whether redirects of the upstream are followed here instead of handed to the client. With
    /// our credentials those that stay with the upstream are followed in any case.
    pub follow_redirects: bool,
    /// How what upstreams have is cached as it is, if it is.
    pub source_cache: Option<SourceCacheConfig>,
    /// Images whose converted form is prepared when their plain tag is pulled:
    /// patterns of `REPO:TAG`.
    pub convert_on_pull: Vec<Pattern>,
    /// How long what a node reads of an image counts as its start, from which priority lists are
    /// learned; `None`: none are.
    pub learn_window: Option<Duration>,
    /// The directory of the lists that are or were learned.
    pub learned_lists: PathBuf,
    /// Which images are converted, to what and for whom; the first rule that matches holds.
    pub policy: Vec<Rule>,
    /// What stands between clients and this server, and tells where these are.
    pub balancers: Balancers,
    /// Bounds.
    pub limits: Limits,
}

/// What stands between clients and this server, and is believed where these are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balancers {
    /// Addresses whose connections begin with a header of the PROXY protocol, and are closed
    /// without one. Those of others begin with none.
    pub proxy_protocol: Vec<IpNet>,
    /// HTTP proxies whose headers about the client are believed.
    pub trusted: Vec<IpNet>,
    /// Which headers these send.
    pub headers: ForwardedHeaders,
}

/// By which headers an HTTP proxy tells about the client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ForwardedHeaders {
    /// `X-Forwarded-For`, `X-Forwarded-Proto`, `X-Forwarded-Host`.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Standard,
}

/// How many requests one client may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientRate {
    /// The time for which one request counts.
    pub interval: Duration,
    /// Most at once, by a client that made none for a while; at least 1.
    pub burst: u32,
}

/// How what upstreams have is cached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceCacheConfig {
    /// How long what a tag names is served without asking the upstream for it, within the lifetime
    /// of its permissions.
    pub tag_ttl: Duration,
}

/// How TurboOCI images are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurboConfig {
    /// The end of a tag that asks for one, such as `_turbo`.
    pub suffix: String,
    /// What it is where the format cannot carry the image.
    pub fallback: TurboFallback,
    /// How the layers are made.
    pub settings: TurboSettings,
}

/// What a TurboOCI tag is where that format cannot carry the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurboFallback {
    /// The native converted image.
    Native,
    /// The unconverted image.
    Original,
    /// An error.
    Error,
}

/// A registry or layout behind the proxy, and which requests are for it.
#[derive(Debug, Clone)]
pub struct UpstreamEntry {
    /// What is asked.
    pub upstream: Upstream,
    /// How a request chooses it, besides being the default.
    pub choice: UpstreamChoice,
}

/// How a request chooses an upstream. Whatever is empty chooses nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamChoice {
    /// Values of containerd's `ns` parameter, such as `docker.io`.
    pub namespaces: Vec<String>,
    /// Values of the `Host` header, without port.
    pub hosts: Vec<String>,
    /// The first components of a repository, which are taken off: `hub` for `hub/library/redis`.
    pub path_prefix: Option<String>,
}

/// What a request gets when its conversion takes longer than the hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnTimeout {
    /// 307 to the same address: another hold, as often as clients follow; 429 then.
    Wait,
    /// The same, and the source manifest in the end.
    WaitThenOriginal,
    /// 429 with `Retry-After`.
    Busy,
    /// The source manifest; the conversion goes on.
    Original,
}

/// Which clients are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// The client's own credentials go upstream.
    PassThrough,
    /// Our credentials go upstream.
    Own {
        /// Users and bcrypt hashes as `htpasswd -B` writes them; `None`: whoever comes in
        /// (a client certificate may still be required).
        htpasswd: Option<PathBuf>,
    },
}

/// Certificate and key, read again when the files change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM: the certificate and those that lead to its root.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
    /// Whether clients have certificates too.
    pub clients: ClientCertificates,
}

/// Whether clients have certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked.
    Ignored,
    /// Those that have one must have one of this authority (PEM).
    Optional(PathBuf),
    /// Only clients with one of this authority (PEM) come in.
    Required(PathBuf),
}

/// Bounds that keep one client from starving the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most connections at one time.
    pub connections: usize,
    /// Most requests that are worked on at one time; more are answered 503 with `Retry-After`.
    pub requests: usize,
    /// Most requests that wait for a conversion at one time, and as many for each upstream; more
    /// are answered 503 with `Retry-After`.
    pub waiting: usize,
    /// How much of the connections, requests and waiting places one client address may have, in
    /// percent; an IPv6 network of 64 bits counts as one.
    pub address_share: u8,
    /// Most requests of one client address that are worked on at one time, and as many that wait
    /// for a conversion or for one upstream; `None`: its share.
    pub client_requests: Option<usize>,
    /// How many requests that cost something one client may make; `None`: any number.
    pub client_rate: Option<ClientRate>,
    /// Most passwords that are checked or wait for it at one time; more are answered 429 with
    /// `Retry-After`.
    pub logins: usize,
    /// Most bytes of a request's head.
    pub head_bytes: usize,
    /// How long a connection may take over a request's head.
    pub head_timeout: Duration,
    /// How long a connection may be idle between requests.
    pub idle: Duration,
    /// How long the body of either side may stand still.
    pub stall: Duration,
    /// How long connections are still accepted after the signal to stop, while readiness says that
    /// there is an end to it.
    pub drain_delay: Duration,
    /// How long open requests may take after that.
    pub drain: Duration,
}

impl Balancers {
    /// Whether connections from an address begin with a header of the PROXY protocol.
    #[must_use]
    pub fn send_header(&self, address: IpAddr) -> bool {
        is_among(&self.proxy_protocol, address)
    }

    /// Whether what an address says about clients is believed.
    #[must_use]
    pub fn are_trusted(&self, address: IpAddr) -> bool {
        is_among(&self.trusted, address)
    }
}

fn is_among(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

impl ServerConfig {
    /// Whether what an image becomes is prepared when its plain tag is pulled.
    #[must_use]
    pub fn prepares(&self, repo: &RepoName, tag: &Tag) -> bool {
        !self.convert_on_pull.is_empty() && {
            let name = format!("{repo}:{tag}");
            let mut patterns = self.convert_on_pull.iter();
            patterns.any(|pattern| pattern.matches(&name))
        }
    }

    /// Whether the upstream is asked with our credentials for whoever comes: there are no users,
    /// and clients need no certificate.
    #[must_use]
    pub fn is_for_anyone(&self) -> bool {
        let needs_certificate = self
            .tls
            .as_ref()
            .is_some_and(|tls| matches!(tls.clients, ClientCertificates::Required(_)));
        matches!(self.access, Access::Own { htpasswd: None }) && !needs_certificate
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            requests: 4_096,
            waiting: 4_096,
            address_share: 75,
            client_requests: None,
            client_rate: None,
            logins: 64,
            head_bytes: 64 << 10,
            head_timeout: Duration::from_secs(30),
            idle: Duration::from_mins(2),
            stall: Duration::from_mins(1),
            drain_delay: Duration::ZERO,
            drain: Duration::from_secs(30),
        }
    }
}
