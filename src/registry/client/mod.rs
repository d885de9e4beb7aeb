//! A registry over HTTP.
//!
//! One call comes down these steps, each a module:
//!
//! | step | what it adds |
//! |---|---|
//! | `manifests`, `tags`, `download`, `upload`, `referrers` | one operation of the distribution API |
//! | `retry` | what is worth another attempt, and when |
//! | `endpoint` | the registry or a mirror of it; `auth`, `token`, `credentials`: authentication there |
//! | `dialer` | redirects, guarded by `dial`; what is secret stays at its origin |
//! | `transport` | one exchange on a pooled connection, within time limits |
//! | `connector` | connections: directly, or through an egress proxy (`egress`, `tunnel`) |
//!
//! `forward` enters at the dialer: it repeats nothing. So does `direct`, for addresses of no registry, and
//! `storage`, for object storage.

mod ahead;
mod answer;
mod auth;
mod blob_access;
mod blobs;
mod cause;
mod challenge;
mod client_token;
mod connections;
mod connector;
mod credentials;
mod dial;
mod dialer;
mod direct;
mod docker_config;
mod docker_logins;
mod download;
mod dump;
mod early;
mod egress;
mod endpoint;
mod forward;
mod helper;
mod helper_cache;
mod hosts_dir;
mod http1_hosts;
mod large;
mod listing;
mod login;
mod manifests;
mod no_proxy;
mod payload;
mod poster;
mod referrers;
mod retry;
mod scope;
mod secret_end;
mod storage;
mod tags;
mod tls;
mod token;
mod transport;
mod tunnel;
mod upload;
mod upload_session;
mod watch;

pub use challenge::{Challenge, challenges};
pub use client_token::{ClientAuth, ClientToken};
pub use direct::Direct;
pub use docker_logins::{DockerLogin, DockerLogins};
pub(crate) use hosts_dir::{HostEntry, parse as parse_hosts_toml};
pub use poster::{Answered, PostError, Poster};
pub(crate) use referrers::{fallback_tag, referrer, subject_of};
pub use scope::needed_scopes;
pub use storage::StorageConnector;

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use http::{HeaderMap, Method};
use parking_lot::RwLock;

use self::endpoint::{Call, Endpoint};
use self::listing::Listings;
use self::payload::Payload;
use self::retry::Failure;
use self::scope::Scopes;
use super::config::MAX_MANIFEST;
use super::{Authorization, Error, RegistryConfig};
use crate::oci::reference;
use crate::telemetry;

/// A registry. Cheap to clone; clones share connections and tokens.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

type Endpoints = Arc<[Arc<Endpoint>]>;

struct Inner {
    /// As the index knows it.
    host: String,
    /// In the order in which they are asked; the registry itself is the last. Others take their
    /// place when settings are read again.
    endpoints: RwLock<Endpoints>,
    config: RegistryConfig,
    /// Locks of lists of referrers.
    listings: Listings,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").field(&self.0.host).finish()
    }
}

/// What an endpoint must be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Pull,
    Resolve,
    Push,
}

impl Registry {
    pub(super) fn new(host: &str, config: &RegistryConfig) -> Result<Self, Error> {
        let host = host.to_ascii_lowercase();
        if !reference::is_host(&host) {
            return Err(Error::Configuration(format!(
                "{host:?} is not a registry host: HOST, HOST:PORT or [IPV6]:PORT is expected"
            )));
        }
        if config.manifest_limit > MAX_MANIFEST {
            return Err(Error::Configuration(format!(
                "manifests of up to {} bytes cannot be taken: {MAX_MANIFEST} is the most",
                config.manifest_limit
            )));
        }
        // The directories of Docker Hub have the name that users write.
        let host = reference::index_host(&host).to_owned();
        let endpoints = endpoint::endpoints(&host, config)?;
        Ok(Self(Arc::new(Inner {
            host,
            endpoints: RwLock::new(endpoints.into_iter().map(Arc::new).collect()),
            config: config.clone(),
            listings: Listings::default(),
        })))
    }

    pub(super) fn host(&self) -> &str {
        &self.0.host
    }

    /// The host, and the addresses of all that answers for it, in the order in which they are
    /// asked.
    pub(super) fn sources(&self) -> String {
        let mut text = self.host().to_owned();
        for endpoint in self.all_endpoints().iter() {
            text.push(' ');
            text.push_str(endpoint.base().as_str());
        }
        text
    }

    pub(super) fn config(&self) -> &RegistryConfig {
        &self.0.config
    }

    fn all_endpoints(&self) -> Endpoints {
        Arc::clone(&self.0.endpoints.read())
    }

    /// Speaks to its endpoints as `fresh` does from now on: with the same certificates,
    /// credentials, mirrors and time limits. `false`, and no change, if that is of another
    /// registry.
    pub(super) fn take_over(&self, fresh: &Self) -> bool {
        if self.host() != fresh.host() {
            return false;
        }
        *self.0.endpoints.write() = fresh.all_endpoints();
        true
    }

    /// The endpoints to ask, in order. A client's credentials were made for the registry,
    /// so mirrors are not shown them.
    fn endpoints(
        &self,
        need: Need,
        authorization: &Authorization,
    ) -> Result<Vec<Arc<Endpoint>>, Error> {
        let only_registry = match authorization {
            Authorization::Own => false,
            Authorization::Client(given) => given.is_some(),
            Authorization::Renewed(renewal) => renewal.current().is_some(),
        };
        let found: Vec<Arc<Endpoint>> = self
            .all_endpoints()
            .iter()
            .filter(|endpoint| match need {
                Need::Pull => endpoint.can.pull,
                Need::Resolve => endpoint.can.resolve,
                Need::Push => endpoint.can.push,
            })
            .filter(|endpoint| endpoint.is_registry || !only_registry)
            .cloned()
            .collect();
        if found.is_empty() {
            let need = match need {
                Need::Pull => "pull",
                Need::Resolve => "resolve",
                Need::Push => "push",
            };
            let host = self.host();
            return Err(Error::Configuration(format!(
                "{host}: hosts.toml gives no host for this that has the capability {need:?}"
            )));
        }
        Ok(found)
    }

    /// The one endpoint that is written to.
    fn writer(&self, authorization: &Authorization) -> Result<Arc<Endpoint>, Error> {
        let mut found = self.endpoints(Need::Push, authorization)?;
        Ok(found.swap_remove(0))
    }

    /// Asks one endpoint after the other, each as often as is worth it.
    async fn first<T, F, A>(
        &self,
        need: Need,
        authorization: &Authorization,
        attempt: F,
    ) -> Result<T, Error>
    where
        F: Fn(Arc<Endpoint>) -> A,
        A: Future<Output = Result<T, Failure>>,
    {
        let mut last = Error::Configuration("there is no endpoint".to_owned());
        for endpoint in self.endpoints(need, authorization)? {
            match repeated(&endpoint, || attempt(Arc::clone(&endpoint))).await {
                Ok(found) => return Ok(found),
                Err(error) => {
                    if !endpoint.is_registry {
                        tracing::debug!(%error, "the next host is asked");
                    }
                    last = error;
                }
            }
        }
        Err(last)
    }
}

/// Makes attempts at an endpoint, as many as are worth it.
async fn repeated<T, F, A>(endpoint: &Endpoint, attempt: F) -> Result<T, Error>
where
    F: Fn() -> A,
    A: Future<Output = Result<T, Failure>>,
{
    let mut attempts = endpoint.attempts();
    loop {
        match telemetry::resent(attempts.failed(), attempt()).await {
            Ok(found) => return Ok(found),
            Err(failure) => attempts.pause(failure).await?,
        }
    }
}

/// A request without a body.
fn call(
    method: Method,
    url: url::Url,
    headers: HeaderMap,
    scopes: Scopes,
    authorization: &Authorization,
) -> Call<'_> {
    Call {
        outgoing: dialer::Outgoing {
            method,
            url,
            headers,
            payload: Payload::Empty,
        },
        scopes,
        authorization,
    }
}
