//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::RwLock;
use tokio::sync::Semaphore;

use crate::convert::Converter;
use crate::registry::{Direct, Poster, RegistryConfig};
use crate::server::ServerError;
use crate::server::access::missing::Missing;
use crate::server::access::permission::Permissions;
use crate::server::access::signed_address::SignedAddresses;
use crate::server::access::token_file::TokenFile;
use crate::server::access::users::Users;
use crate::server::background::prepare::Preparations;
use crate::server::background::push_tags::PushedTags;
use crate::server::background::unattended::Unattended;
use crate::server::background::verification::Verification;
use crate::server::background::webhooks::Webhooks;
use crate::server::cache::conversions::Conversions;
use crate::server::cache::open_files::OpenFiles;
use crate::server::cache::responses::ResponseCache;
use crate::server::config::{Access, ServerConfig};
use crate::server::http::client_address::ClientAddresses;
use crate::server::learn::Learner;
use crate::server::limits::client_rate::ClientRates;
use crate::server::limits::request_slot::RequestLimits;
use crate::server::limits::slots::Slots;
use crate::server::observe::events::Events;
use crate::server::observe::metrics::Metrics;
use crate::server::policy::Policy;
use crate::server::upstreams::Upstreams;

/// Bytes of pushed manifests that are read at one time. Beyond that they are passed on unread.
const MAX_MANIFEST_BYTES: usize = 64 << 20;

/// A policy that is or was in force.
pub(in crate::server) struct InForce {
    /// Another one for each that is put in force.
    pub number: u64,
    pub policy: Policy,
}

/// All that requests are answered from.
pub(in crate::server) struct AppState {
    pub config: ServerConfig,
    pub upstreams: Upstreams,
    policy: RwLock<Arc<InForce>>,
    pub permissions: Permissions,
    pub missing: Missing,
    pub converted: Conversions,
    pub open_files: Arc<OpenFiles>,
    pub users: Option<Users>,
    /// What changes by operators need.
    pub admin_token: TokenFile,
    /// What registries' notifications need.
    pub notification_secret: TokenFile,
    pub unattended: Unattended,
    /// Who is told of conversions that ended.
    pub webhooks: Arc<Webhooks>,
    pub verification: Verification,
    pub addresses: SignedAddresses,
    pub learner: Learner,
    pub prepare: Preparations,
    pub tags: PushedTags,
    pub responses: ResponseCache,
    pub metrics: Arc<Metrics>,
    pub is_draining: AtomicBool,
    pub connections: Slots,
    pub limits: RequestLimits,
    /// Where clients are.
    pub clients: Arc<ClientAddresses>,
    pub rates: ClientRates,
    /// Bytes of pushed manifests and of lists of referrers that may be in memory.
    pub manifest_bytes: Semaphore,
    /// For what nodes read at hosts that upstreams redirect to.
    pub p2p: Option<Direct>,
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
        let admin_token = TokenFile::open(config.admin_token_file.as_deref());
        let admin_token = admin_token.map_err(ServerError::Configuration)?;
        let notification_secret = TokenFile::open(config.notification_secret_file.as_deref());
        let notification_secret = notification_secret.map_err(ServerError::Configuration)?;
        let addresses = SignedAddresses::open(&config).map_err(ServerError::Configuration)?;
        let metrics = Arc::new(Metrics::new());
        let webhooks = Arc::new(webhooks(&config, &metrics.events)?);
        let (counted, told) = (Arc::clone(&metrics), Arc::clone(&webhooks));
        converter.on_conversion_end(Box::new(move |ended| {
            counted.converted(ended);
            told.tell(ended);
        }));
        let tags = PushedTags::new();
        let p2p = p2p(&config)?;
        let converter = match config.source_cache {
            Some(_) => converter.caching_sources(),
            None => converter,
        };
        let converter = converter.serving_unpushed();
        let converter = if config.failure_ttl.is_zero() {
            converter
        } else {
            converter.remembering_failures(
                config.failure_ttl,
                matches!(config.access, Access::Own { .. }),
            )
        };
        let open_files = Arc::new(OpenFiles::new(converter.store().blobs().clone(), files));
        let idle = Arc::downgrade(&open_files);
        converter.store().blobs().on_shortage(move || {
            if let Some(open_files) = idle.upgrade() {
                open_files.close_unread();
            }
        });
        Ok(Self {
            p2p,
            upstreams: Upstreams::new(config.upstreams.clone()),
            policy: RwLock::new(Arc::new(InForce {
                number: 0,
                policy: Policy::new(config.policy.clone()),
            })),
            permissions: Permissions::new(
                config.auth_cache_ttl,
                config.stale_if_error,
                config.hold,
            ),
            missing: Missing::new(),
            open_files,
            users,
            admin_token,
            notification_secret,
            unattended: Unattended::new(),
            webhooks,
            verification: Verification::default(),
            addresses,
            learner: Learner::new(config.learned_lists.clone(), config.learn_window),
            prepare: Preparations::new(tags.clone()),
            tags,
            manifest_bytes: Semaphore::new(MAX_MANIFEST_BYTES),
            converted: Conversions::new(
                converter,
                config.turbo.as_ref().map(|turbo| turbo.settings),
            ),
            responses: ResponseCache::new(),
            metrics,
            is_draining: AtomicBool::new(false),
            connections: Slots::new(config.limits.connections, config.limits.address_share),
            limits: RequestLimits::new(&config.limits, config.upstreams.len()),
            clients: Arc::new(ClientAddresses::new(config.balancers.clone())),
            rates: ClientRates::new(config.limits.client_rate),
            config,
        })
    }

    /// The policy that is in force.
    pub fn policy(&self) -> Arc<InForce> {
        Arc::clone(&self.policy.read())
    }

    /// Puts another policy in force: for requests that begin from now on.
    pub fn set_policy(&self, policy: Policy) {
        let mut current = self.policy.write();
        let number = current.number.wrapping_add(1);
        *current = Arc::new(InForce { number, policy });
    }

    /// Whether upstreams are asked with the proxy's own credentials.
    pub fn is_own(&self) -> bool {
        matches!(self.config.access, Access::Own { .. })
    }
}

/// Where conversions that ended are told, reached as the first registry among the upstreams is.
fn webhooks(config: &ServerConfig, events: &Events) -> Result<Webhooks, ServerError> {
    let wrong = |error: String| ServerError::Configuration(error);
    let registry = first_registry(config).unwrap_or_default();
    let posters = config.webhooks.iter();
    let posters = posters.map(|address| Poster::new(address.expose(), &registry));
    let posters: Result<Vec<Poster>, _> = posters.collect();
    let posters = posters.map_err(|error| wrong(error.to_string()))?;
    let secret = TokenFile::open(config.webhook_secret_file.as_deref()).map_err(wrong)?;
    Ok(Webhooks::start(posters, &secret, events))
}

/// How the first registry among the upstreams is reached.
fn first_registry(config: &ServerConfig) -> Option<RegistryConfig> {
    let mut upstreams = config.upstreams.iter();
    let found = upstreams.find_map(|entry| entry.upstream.registry_config());
    found.cloned()
}

/// Reads at hosts that upstreams redirect to, as the first registry among these is read.
fn p2p(config: &ServerConfig) -> Result<Option<Direct>, ServerError> {
    if config.p2p_hosts.is_empty() {
        return Ok(None);
    }
    let direct = Direct::new(&first_registry(config).unwrap_or_default());
    let direct = direct.map_err(|error| ServerError::Configuration(error.to_string()))?;
    Ok(Some(direct))
}
