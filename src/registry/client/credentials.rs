//! The proxy's own credentials for one registry: as configured, or from Docker's `config.json`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::docker_config::{DockerConfig, Found};
use super::helper;
use super::helper_cache::{Helpers, Key};
use super::login::Login;
use crate::registry::{Credentials, Error};

/// How long `config.json` is cached.
const CACHE_TTL: Duration = Duration::from_mins(5);

/// Longest `config.json` that is read, in bytes.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// Provides the credentials for one host.
#[derive(Debug)]
pub(super) struct CredentialProvider {
    source: Credentials,
    host: String,
    limit: Duration,
    cache: Arc<Mutex<Cached>>,
    /// Locked while the configuration is read or a helper runs, which continues when its caller
    /// is dropped.
    query: Arc<tokio::sync::Mutex<()>>,
}

/// The credentials of the configuration and the helpers.
#[derive(Debug, Default)]
struct Cached {
    config: Option<(Instant, Arc<DockerConfig>)>,
    helpers: Helpers,
    /// The helper that runs now.
    running: Option<String>,
}

impl Cached {
    fn config(&self) -> Option<Arc<DockerConfig>> {
        let (since, config) = self.config.as_ref()?;
        (since.elapsed() < CACHE_TTL).then(|| Arc::clone(config))
    }

    /// The credentials for a repository, if they are cached. What a helper said after `came`
    /// counts in any case, its errors too: it is the answer to whoever has waited since then.
    fn login(
        &self,
        host: &str,
        repo: Option<&str>,
        came: Instant,
    ) -> Option<Result<Login, String>> {
        match self.config()?.find(host, repo) {
            Ok(Found::Login(login)) => Some(Ok(login)),
            Ok(Found::Helper { program, server }) => {
                self.helpers.get(&Key { program, server }, came)
            }
            // The file may have been mended.
            Err(_) => None,
        }
    }
}

impl CredentialProvider {
    /// `host` is as users write it; `limit` is the time for a helper.
    pub(super) fn new(source: Credentials, host: &str, limit: Duration) -> Self {
        Self {
            source,
            host: host.to_owned(),
            limit,
            cache: Arc::default(),
            query: Arc::default(),
        }
    }

    /// Whether there can be any credentials.
    pub(super) fn is_anonymous(&self) -> bool {
        self.source == Credentials::Anonymous
    }

    /// The credentials for a repository, or for the host.
    pub(super) async fn login(&self, repo: Option<&str>) -> Result<Login, Error> {
        let path = match &self.source {
            Credentials::Anonymous => return Ok(Login::Anonymous),
            Credentials::Basic { username, password } => {
                return Ok(Login::Basic {
                    username: username.clone(),
                    password: password.clone(),
                });
            }
            Credentials::RefreshToken(token) => return Ok(Login::Identity(token.clone())),
            Credentials::DockerConfig { path } => path.clone(),
        };
        let came = Instant::now();
        let cached = self.cache.lock().login(&self.host, repo, came);
        let found = if let Some(found) = cached {
            found
        } else {
            let query = self.query(path, repo, came);
            tokio::time::timeout(self.limit, query)
                .await
                .unwrap_or_else(|_| Err(self.late()))
        };
        found.map_err(|detail| Error::Credentials {
            host: self.host.clone(),
            detail,
        })
    }

    /// Takes back credentials that were refused, so that the configuration is read and the helper
    /// asked again, though not each time. Whether there may be others then.
    pub(super) fn forget(&self, refused: &Login) -> bool {
        if !matches!(self.source, Credentials::DockerConfig { .. }) {
            return false;
        }
        let mut cache = self.cache.lock();
        cache.config = None;
        cache.helpers.forget(refused);
        true
    }

    // One query at a time: others wait for the lock, and take what it has found.
    async fn query(
        &self,
        path: Option<PathBuf>,
        repo: Option<&str>,
        came: Instant,
    ) -> Result<Login, String> {
        let guard = Arc::clone(&self.query).lock_owned().await;
        if let Some(found) = self.cache.lock().login(&self.host, repo, came) {
            return found;
        }
        let query = Query {
            path,
            host: self.host.clone(),
            repo: repo.map(ToOwned::to_owned),
            limit: self.limit,
            cache: Arc::clone(&self.cache),
        };
        // A task of its own: whoever gives up waiting does not end it for the others.
        let task = tokio::spawn(async move {
            let found = query.run().await;
            drop(guard);
            found
        });
        task.await
            .unwrap_or_else(|_| Err("the reading of config.json failed".to_owned()))
    }

    fn late(&self) -> String {
        let limit = self.limit;
        match &self.cache.lock().running {
            Some(name) => helper::late(name, limit),
            None => format!("config.json cannot be read within {limit:?}"),
        }
    }
}

/// A search for credentials.
struct Query {
    path: Option<PathBuf>,
    host: String,
    repo: Option<String>,
    limit: Duration,
    cache: Arc<Mutex<Cached>>,
}

impl Query {
    /// Reads the configuration if it is due, and runs the helper that it names.
    async fn run(self) -> Result<Login, String> {
        let is_stated = self.path.is_some();
        let Some(path) = self.path.or_else(default_path) else {
            return Ok(Login::Anonymous);
        };
        let shown = path.display().to_string();
        let cached = self.cache.lock().config();
        let config = if let Some(config) = cached {
            config
        } else {
            let read = tokio::task::spawn_blocking(move || read(&path, is_stated));
            let read = read.await.unwrap_or_else(|error| Err(error.to_string()));
            let config = Arc::new(read.map_err(|error| format!("{shown}: {error}"))?);
            self.cache.lock().config = Some((Instant::now(), Arc::clone(&config)));
            config
        };
        let found = config.find(&self.host, self.repo.as_deref());
        let key = match found.map_err(|error| format!("{shown}: {error}"))? {
            Found::Login(login) => return Ok(login),
            Found::Helper { program, server } => Key { program, server },
        };
        // The file was read again after a refusal; the helper may not be due yet.
        if let Some(Ok(login)) = self.cache.lock().helpers.get(&key, Instant::now()) {
            return Ok(login);
        }
        self.cache.lock().running = Some(helper::name(&key.program));
        let said = helper::get(&key.program, &key.server, self.limit).await;
        let said = said.map_err(|error| format!("{shown}: {error}"));
        let mut cache = self.cache.lock();
        cache.running = None;
        cache.helpers.put(key, said)
    }
}

/// Where Docker keeps its configuration.
pub(super) fn default_path() -> Option<PathBuf> {
    if let Some(directory) = std::env::var_os("DOCKER_CONFIG") {
        return Some(Path::new(&directory).join("config.json"));
    }
    let home = std::env::var_os("HOME")?;
    Some(Path::new(&home).join(".docker/config.json"))
}

/// Reads a `config.json`; one that is not `is_stated` need not be there.
pub(super) fn read(path: &Path, is_stated: bool) -> Result<DockerConfig, String> {
    let mut text = Vec::new();
    match std::fs::File::open(path) {
        Ok(file) => file.take(MAX_CONFIG_BYTES).read_to_end(&mut text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_stated => {
            return Ok(DockerConfig::default());
        }
        Err(error) => Err(error),
    }
    .map_err(|error| error.to_string())?;
    DockerConfig::parse(&text)
}
