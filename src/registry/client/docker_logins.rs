//! Docker's credentials by host and repository, for programs that cannot run its helpers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::credentials::{self, CredentialProvider};
use super::login::Login;
use crate::oci::reference;
use crate::registry::{Credentials, Error, Secret};

/// Most hosts whose credentials are kept.
const MAX_HOSTS: u64 = 256;
/// Most hosts of a `config.json` that are listed.
const MAX_LISTED: usize = 64;

/// Credentials of a `config.json` and of the helpers that it names.
#[derive(Debug)]
pub struct DockerLogins {
    path: Option<PathBuf>,
    limit: Duration,
    hosts: moka::future::Cache<String, Arc<CredentialProvider>>,
}

/// The credentials for a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerLogin {
    /// There are none.
    Nothing,
    /// A user with a password.
    Password {
        /// The user.
        username: String,
        /// The password.
        password: Secret,
    },
    /// An OAuth refresh token (Docker: `identitytoken`).
    IdentityToken,
    /// A bearer token for the registry (Docker: `registrytoken`).
    RegistryToken,
}

impl DockerLogins {
    /// Of the file at `path`; `None` for `$DOCKER_CONFIG/config.json` or
    /// `~/.docker/config.json`. A helper is given `limit`.
    #[must_use]
    pub fn new(path: Option<PathBuf>, limit: Duration) -> Self {
        Self {
            path,
            limit,
            hosts: moka::future::Cache::new(MAX_HOSTS),
        }
    }

    /// The file, if it is known where one would be.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        self.path.clone().or_else(credentials::default_path)
    }

    /// The credentials for a repository of a host, or for the host.
    ///
    /// # Errors
    /// Where `host` is no host, the file cannot be read, or its helper fails or is too slow.
    pub async fn find(&self, host: &str, repo: Option<&str>) -> Result<DockerLogin, Error> {
        let host = host.to_ascii_lowercase();
        if !reference::is_host(&host) {
            return Err(Error::Configuration(format!(
                "{host:?} is not a registry host: HOST, HOST:PORT or [IPV6]:PORT is expected"
            )));
        }
        let source = Credentials::DockerConfig {
            path: self.path.clone(),
        };
        let made = async { Arc::new(CredentialProvider::new(source, &host, self.limit)) };
        let provider = self.hosts.get_with(host.clone(), made).await;
        Ok(match provider.login(repo).await? {
            Login::Basic { username, password } => DockerLogin::Password { username, password },
            Login::Identity(_) => DockerLogin::IdentityToken,
            Login::Anonymous if self.has_registry_token(&host, repo).await => {
                DockerLogin::RegistryToken
            }
            Login::Anonymous => DockerLogin::Nothing,
        })
    }

    /// The hosts that the file names: those whose credentials may be asked for.
    pub async fn named_hosts(&self) -> Vec<String> {
        let found = self.with_config(|config| config.hosts(MAX_LISTED)).await;
        found.unwrap_or_default()
    }

    /// Reads the file again, and has the helpers run again.
    pub fn forget(&self) {
        self.hosts.invalidate_all();
    }

    async fn has_registry_token(&self, host: &str, repo: Option<&str>) -> bool {
        let (host, repo) = (host.to_owned(), repo.map(str::to_owned));
        self.with_config(move |config| config.has_registry_token(&host, repo.as_deref()))
            .await
            .unwrap_or_default()
    }

    /// What `look` finds in the file, which may not be there.
    async fn with_config<T, F>(&self, look: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce(&super::docker_config::DockerConfig) -> T + Send + 'static,
    {
        let path = self.path()?;
        let is_stated = self.path.is_some();
        tokio::task::spawn_blocking(move || {
            credentials::read(&path, is_stated)
                .ok()
                .map(|config| look(&config))
        })
        .await
        .ok()
        .flatten()
    }
}
