//! The options of `serve`.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use super::options::{
    BlobStoreOptions, ClientOptions, ConversionOptions, LimitOptions, LogConfig, LogOptions,
    PolicyOptions, PushOptions, RegistryOptions, ScrubOptions, ServerOptions, StoreOptions,
    TraceOptions, UpstreamOptions, remark,
};
use super::{ConfigErrors, Sources};
use crate::convert::{ConverterConfig, PushTarget};
use crate::server::{Limits, ServerConfig};
use crate::store::{IndexConfig, StoreConfig};
use crate::telemetry::TelemetryConfig;

/// The options of `serve`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ServeOptions {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub upstream: UpstreamOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub server: ServerOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub push: PushOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub conversion: ConversionOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub store: StoreOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub blob_store: BlobStoreOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub scrub: ScrubOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub registry: RegistryOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub limits: LimitOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub clients: ClientOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub policy: PolicyOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub traces: TraceOptions,
}

/// What `serve` is made from.
#[derive(Debug)]
pub struct ServeConfig {
    /// The store.
    pub store: StoreConfig,
    /// Bytes a second at which the store's blobs are read again; `None` for never.
    pub scrub: Option<NonZeroU64>,
    /// The converter.
    pub converter: ConverterConfig,
    /// The server.
    pub server: ServerConfig,
    /// The log.
    pub log: LogConfig,
    /// Where spans go, if there are traces.
    pub traces: Option<TelemetryConfig>,
    /// What is not used of OpenTelemetry's variables, and what settings mean together that may not
    /// be meant.
    pub remarks: Vec<String>,
}

/// Whether other replicas would not know the addresses that one signs.
#[must_use]
pub fn needs_url_keys(store: &StoreConfig, server: &ServerConfig) -> bool {
    matches!(store.index, IndexConfig::Mysql(_)) && server.url_key_file.is_none()
}

impl ServeOptions {
    /// These over what the file and the defaults say.
    #[must_use]
    pub fn effective(&self, sources: &mut Sources, errors: &mut ConfigErrors) -> Self {
        Self {
            upstream: sources.effective(&self.upstream, errors),
            server: sources.effective(&self.server, errors),
            push: sources.effective(&self.push, errors),
            conversion: sources.effective(&self.conversion, errors),
            store: sources.effective(&self.store, errors),
            blob_store: sources.effective(&self.blob_store, errors),
            scrub: sources.effective(&self.scrub, errors),
            registry: sources.effective(&self.registry, errors),
            limits: sources.effective(&self.limits, errors),
            clients: sources.effective(&self.clients, errors),
            policy: sources.effective(&self.policy, errors),
            traces: sources.effective(&self.traces, errors),
        }
    }

    /// Reads the files that the server reads at its start, which [`config`](Self::config) only looks
    /// for: what cannot be used of them is a mistake.
    pub fn read_files(&self, errors: &mut ConfigErrors) {
        self.server.read_files(errors);
    }

    /// The settings of every part; all mistakes are reported, not only the first.
    ///
    /// # Errors
    /// All mistakes.
    pub fn config(
        &self,
        log: &LogOptions,
        mut errors: ConfigErrors,
    ) -> Result<ServeConfig, ConfigErrors> {
        let found = &mut errors;
        let log = log.config(found);
        let objects = self.blob_store.config(&self.registry, found);
        let store = self.store.config(found);
        let store = store.map(|store| StoreConfig { objects, ..store });
        let is_redirecting = self.blob_store.is_redirecting(found);
        let scrub = self.scrub.config(found);
        let (traces, mut remarks) = self.traces.config(found);
        let limits = self.limits.config(found);
        let balancers = self.clients.balancers(found);
        let (client_rate, client_requests) =
            (self.clients.rate(found), self.clients.requests(found));
        let limits = limits.map(|limits| Limits {
            client_requests,
            client_rate,
            ..limits
        });
        let (named, registries) = self.upstream.config(&self.registry, found);
        let mut upstreams = Vec::new();
        for upstream in &named {
            match upstream.open() {
                Ok(upstream) => upstreams.push(upstream),
                Err(error) => found.add("upstream", error),
            }
        }
        let push = self.push.target(&registries, found);
        let suffixes = self.push.suffixes(&mut ConfigErrors::default());
        let is_elsewhere = push.as_ref().is_some_and(PushTarget::is_elsewhere);
        let converter = self.conversion.config(push, is_elsewhere, found);
        let turbo = self.conversion.turbo(found);
        let has_turbo = suffixes.as_ref().is_none_or(|it| it.turbo.is_some());
        let policy = self.policy.config(has_turbo, found);
        let named = (suffixes, self.push.turbo_fallback(found));
        let asked = (limits, policy);
        let server = self.server.config(upstreams, named, turbo, asked, found);
        let server = server.map(|server| ServerConfig {
            learned_lists: store
                .as_ref()
                .map_or_else(PathBuf::new, |store| store.data_dir.join("prefetch")),
            blob_redirect: is_redirecting.then_some(server.url_ttl),
            balancers: balancers.unwrap_or_default(),
            ..server
        });
        if let Some(server) = &server
            && server
                .blob_redirect
                .is_some_and(|lifetime| lifetime.is_zero())
        {
            let what = "addresses of the bucket that are good for no time: give --url-ttl";
            found.add("blob-store-redirect", what);
        }
        if let Some(server) = &server
            && server.blob_redirect.is_some()
            && server.learn_window.is_some()
        {
            let what = "what nodes read at a bucket (--blob-store-redirect) is not seen here: leave \
                        one out";
            found.add("learn-prefetch", what);
        }
        if let (Some(store), Some(server)) = (&store, &server)
            && matches!(store.index, IndexConfig::Mysql(_))
            && server.learn_window.is_some()
        {
            found.add(
                "learn-prefetch",
                "lists are learned for one data directory, and replicas with a shared index \
                 (--dbstr) would make different images of one source: leave one out, or put a \
                 list that one proxy learned into a rule (prefetch-list)",
            );
        }
        let server = server.map(|server| match &store {
            Some(store) if needs_url_keys(store, &server) => ServerConfig {
                url_ttl: Duration::ZERO,
                ..server
            },
            _ => server,
        });
        if let (Some(server), Some(converter)) = (&server, &converter) {
            remarks.extend(remark(server, converter.push.is_some()));
        }
        let config = (|| {
            Some(ServeConfig {
                store: store?,
                scrub: scrub?,
                converter: converter?,
                server: server?,
                log: log?,
                traces,
                remarks,
            })
        })();
        errors.none_or(config)
    }
}
