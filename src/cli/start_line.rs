//! The line of the log that says what `serve` was started as: what to look for first when
//! something is not as it was.

use std::path::PathBuf;

use crate::config::ServeConfig;
use crate::convert::{Platforms, PushTarget};
use crate::registry::Upstream;
use crate::server::{Access, Server, ServerConfig, UpstreamEntry};
use crate::store::{CacheSize, IndexConfig};

/// What is known before the parts are made that take the settings over.
pub(super) struct StartLine {
    data_dir: PathBuf,
    index: String,
    cache_size: String,
    keep: String,
    push: String,
    conversions: usize,
    memory: u64,
    max_queue: usize,
    conversion_timeout: String,
    platforms: String,
    compression: String,
    blob_store: String,
    server: ServerConfig,
}

impl StartLine {
    pub(super) fn of(config: &ServeConfig) -> Self {
        let (store, converter) = (&config.store, &config.converter);
        let settings = &converter.settings;
        Self {
            data_dir: store.data_dir.clone(),
            index: match &store.index {
                IndexConfig::Sqlite => "SQLite".to_owned(),
                // Its text has no password.
                IndexConfig::Mysql(config) => config.dsn.to_string(),
            },
            cache_size: match store.cache_size {
                CacheSize::Bytes(bytes) => bytes.to_string(),
                CacheSize::Percent(percent) => format!("{percent}%"),
                CacheSize::Unbounded => "off".to_owned(),
            },
            keep: time(store.keep),
            blob_store: match &store.objects {
                Some(objects) => objects.address.to_string(),
                None => "none".to_owned(),
            },
            push: pushed_to(converter.push.as_ref()),
            conversions: converter.conversions,
            memory: converter.memory,
            max_queue: converter.max_queue,
            conversion_timeout: time(converter.timeout),
            platforms: platforms(&converter.platforms),
            compression: format!(
                "{:?} in blocks of {} KiB",
                settings.algorithm,
                settings.block_size.bytes() >> 10
            ),
            server: config.server.clone(),
        }
    }

    /// Writes it, once it listens.
    pub(super) fn log(&self, server: &Server) {
        let config = &self.server;
        let limits = server.limits();
        let upstreams: Vec<String> = config.upstreams.iter().map(named).collect();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            listen = %server.local_addr(),
            listen_overlaybd = server.overlaybd_addr().map(debug),
            admin = server.admin_addr().map(debug),
            tls = config.tls.is_some(),
            upstreams = upstreams.join(" "),
            access = access(&config.access),
            data_dir = %self.data_dir.display(),
            index = self.index,
            cache_size = self.cache_size,
            keep = self.keep,
            blob_store = self.blob_store,
            push = self.push,
            platforms = self.platforms,
            compression = self.compression,
            conversions = self.conversions,
            memory = self.memory,
            max_queue = self.max_queue,
            conversion_timeout = self.conversion_timeout,
            failure_ttl = time(config.failure_ttl),
            hold = time(config.hold),
            auth_cache_ttl = time(config.auth_cache_ttl),
            stale_if_error = time(config.stale_if_error),
            max_connections = limits.connections,
            max_requests = limits.requests,
            max_waiting = limits.waiting,
            address_share = limits.address_share,
            proxy_protocol = networks(&config.balancers.proxy_protocol),
            trusted_proxies = networks(&config.balancers.trusted),
            drain_delay = time(limits.drain_delay),
            drain = time(limits.drain),
            "serving"
        );
    }
}

/// Networks, if there are any.
fn networks(networks: &[ipnet::IpNet]) -> Option<String> {
    let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
    (!networks.is_empty()).then(|| networks.join(","))
}

fn time(time: std::time::Duration) -> String {
    humantime::format_duration(time).to_string()
}

/// An upstream with what requests choose it by.
fn named(entry: &UpstreamEntry) -> String {
    let mut name = entry.upstream.host().to_owned();
    let choice = &entry.choice;
    for namespace in &choice.namespaces {
        name.push_str(",ns=");
        name.push_str(namespace);
    }
    for host in &choice.hosts {
        name.push_str(",hosts=");
        name.push_str(host);
    }
    if let Some(prefix) = &choice.path_prefix {
        name.push_str(",path-prefix=");
        name.push_str(prefix);
    }
    name
}

fn access(access: &Access) -> &'static str {
    match access {
        Access::PassThrough => "each client's own credentials",
        Access::Own { htpasswd: Some(_) } => "the proxy's credentials, for users of --htpasswd",
        Access::Own { htpasswd: None } => "the proxy's credentials",
    }
}

fn pushed_to(push: Option<&PushTarget>) -> String {
    let Some(push) = push else {
        return "off".to_owned();
    };
    let upstream = push.upstream.as_ref().map(Upstream::host);
    match (upstream, &push.repo) {
        (None, None) => "to each image's repository".to_owned(),
        (Some(host), None) => host.to_owned(),
        (None, Some(repo)) => repo.to_string(),
        (Some(host), Some(repo)) => format!("{host}/{repo}"),
    }
}

fn platforms(platforms: &Platforms) -> String {
    match platforms {
        Platforms::All => "all".to_owned(),
        Platforms::Some(wanted) => {
            let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            wanted.join(",")
        }
    }
}
