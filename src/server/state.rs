//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::Semaphore;

use crate::convert::Converter;
use crate::server::ServerError;
use crate::server::access::missing::Missing;
use crate::server::access::permission::Permissions;
use crate::server::access::users::Users;
use crate::server::background::prepare::Preparations;
use crate::server::background::push_tags::PushedTags;
use crate::server::cache::conversions::Conversions;
use crate::server::cache::open_files::OpenFiles;
use crate::server::cache::responses::ResponseCache;
use crate::server::config::{Access, ServerConfig};
use crate::server::limits::request_slot::RequestLimits;
use crate::server::limits::slots::Slots;
use crate::server::observe::metrics::Metrics;
use crate::server::upstreams::Upstreams;

/// Bytes of pushed manifests that are read at one time. Beyond that they are passed on unread.
const MAX_MANIFEST_BYTES: usize = 64 << 20;

/// All that requests are answered from.
pub(in crate::server) struct AppState {
    pub config: ServerConfig,
    pub upstreams: Upstreams,
    pub permissions: Permissions,
    pub missing: Missing,
    pub converted: Conversions,
    pub open_files: OpenFiles,
    pub users: Option<Users>,
    pub prepare: Preparations,
    pub tags: PushedTags,
    pub responses: ResponseCache,
    pub metrics: Arc<Metrics>,
    pub is_draining: AtomicBool,
    pub connections: Slots,
    pub limits: RequestLimits,
    /// Bytes of pushed manifests that may be in memory.
    pub manifest_bytes: Semaphore,
}

impl AppState {
    /// # Errors
    /// When a file that the configuration names cannot be used, or there is no upstream.
    pub fn new(
        config: ServerConfig,
        converter: Converter,
        files: u64,
    ) -> Result<Self, ServerError> {
        if config.upstreams.is_empty() {
            let text = "no upstream is configured: there is nothing to stand in front of";
            return Err(ServerError::Configuration(text.to_owned()));
        }
        let users = match &config.access {
            Access::Own {
                htpasswd: Some(path),
            } => {
                let users = Users::open(path, &config.limits);
                Some(users.map_err(ServerError::Configuration)?)
            }
            Access::Own { htpasswd: None } | Access::PassThrough => None,
        };
        let tags = PushedTags::new();
        let converter = match config.source_cache {
            Some(_) => converter.caching_sources(),
            None => converter,
        };
        Ok(Self {
            upstreams: Upstreams::new(config.upstreams.clone()),
            permissions: Permissions::new(
                config.auth_cache_ttl,
                config.stale_if_error,
                config.hold,
            ),
            missing: Missing::new(),
            open_files: OpenFiles::new(converter.store().blobs().clone(), files),
            users,
            prepare: Preparations::new(&config.convert_on_pull, converter.clone(), tags.clone()),
            tags,
            manifest_bytes: Semaphore::new(MAX_MANIFEST_BYTES),
            converted: Conversions::new(
                converter,
                config.turbo.as_ref().map(|turbo| turbo.settings),
            ),
            responses: ResponseCache::new(),
            metrics: Arc::new(Metrics::new()),
            is_draining: AtomicBool::new(false),
            connections: Slots::new(config.limits.connections, config.limits.address_share),
            limits: RequestLimits::new(&config.limits, config.upstreams.len()),
            config,
        })
    }

    /// Whether upstreams are asked with the proxy's own credentials.
    pub fn is_own(&self) -> bool {
        matches!(self.config.access, Access::Own { .. })
    }
}
