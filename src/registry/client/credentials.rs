//! The proxy's own credentials for one registry: as configured, or from Docker's `config.json`.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use docker_credential::{CredentialRetrievalError, DockerCredential};
use parking_lot::Mutex;

use super::docker_config::{DockerConfig, Found};
use super::login::Login;
use crate::registry::{Credentials, Error, Secret};

/// How long credentials of the configuration or a helper are cached.
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
    /// Locked while a helper runs, which continues when its caller is dropped.
    query: Arc<tokio::sync::Mutex<()>>,
}

/// The credentials of the configuration and the helpers.
#[derive(Debug, Default)]
struct Cached {
    config: Option<(Instant, Arc<DockerConfig>)>,
    /// By helper and server.
    helpers: HashMap<(String, String), (Instant, Login)>,
    /// The helper that runs now.
    running: Option<String>,
}

impl Cached {
    /// The credentials for a repository, if they are cached.
    fn login(&self, host: &str, repo: Option<&str>) -> Option<Result<Login, String>> {
        let (since, config) = self.config.as_ref()?;
        if since.elapsed() >= CACHE_TTL {
            return None;
        }
        match config.find(host, repo) {
            Ok(Found::Login(login)) => Some(Ok(login)),
            Ok(Found::Helper { program, server }) => {
                let (since, login) = self.helpers.get(&(program, server))?;
                (since.elapsed() < CACHE_TTL).then(|| Ok(login.clone()))
            }
            Err(error) => Some(Err(error)),
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
        let cached = self.cache.lock().login(&self.host, repo);
        if let Some(Ok(login)) = cached {
            return Ok(login);
        }
        match tokio::time::timeout(self.limit, self.query(path, repo)).await {
            Ok(Ok(login)) => Ok(login),
            Ok(Err(detail)) => Err(self.error(&detail)),
            Err(_) => {
                let after = self.limit;
                let running = self.cache.lock().running.clone();
                Err(self.error(&match running {
                    Some(helper) => format!(
                        "the credential helper {helper} gives no answer within {after:?}: \
                         run `{helper} get` to see why"
                    ),
                    None => format!("config.json cannot be read within {after:?}"),
                }))
            }
        }
    }

    /// Removes credentials that were refused from the cache.
    pub(super) fn forget(&self, refused: &Login) {
        let mut cache = self.cache.lock();
        cache.config = None;
        cache.helpers.retain(|_, (_, login)| login != refused);
    }

    // The call blocks and cannot be stopped, so only one at a time is made: others wait for the
    // lock, which the thread releases.
    async fn query(&self, path: Option<PathBuf>, repo: Option<&str>) -> Result<Login, String> {
        let guard = Arc::clone(&self.query).lock_owned().await;
        if let Some(Ok(login)) = self.cache.lock().login(&self.host, repo) {
            return Ok(login);
        }
        let cache = Arc::clone(&self.cache);
        let (host, repo) = (self.host.clone(), repo.map(ToOwned::to_owned));
        tokio::task::spawn_blocking(move || {
            let login = query_all(path.as_deref(), &host, repo.as_deref(), &cache);
            drop(guard);
            login
        })
        .await
        .unwrap_or_else(|_| Err("the reading of config.json failed".to_owned()))
    }

    fn error(&self, detail: &str) -> Error {
        Error::Credentials {
            host: self.host.clone(),
            detail: detail.to_owned(),
        }
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

/// Reads the configuration, and runs the helper that it names.
fn query_all(
    path: Option<&Path>,
    host: &str,
    repo: Option<&str>,
    cache: &Mutex<Cached>,
) -> Result<Login, String> {
    let is_stated = path.is_some();
    let Some(path) = path.map(Path::to_owned).or_else(default_path) else {
        return Ok(Login::Anonymous);
    };
    let shown = path.display().to_string();
    let config = Arc::new(read(&path, is_stated).map_err(|error| format!("{shown}: {error}"))?);
    cache.lock().config = Some((Instant::now(), Arc::clone(&config)));
    let found = config.find(host, repo);
    let (program, server) = match found.map_err(|error| format!("{shown}: {error}"))? {
        Found::Login(login) => return Ok(login),
        Found::Helper { program, server } => (program, server),
    };
    cache.lock().running = Some(format!("docker-credential-{program}"));
    let login = run_helper(&program, &server, &shown);
    let mut cache = cache.lock();
    cache.running = None;
    let login = login?;
    let entry = (Instant::now(), login.clone());
    cache.helpers.insert((program, server), entry);
    Ok(login)
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

/// Runs a credential helper for a server.
fn run_helper(program: &str, server: &str, shown: &str) -> Result<Login, String> {
    // The crate runs helpers only by a configuration.
    let helper = serde_json::json!({ "credHelpers": { server: program } }).to_string();
    match docker_credential::get_credential_from_reader(helper.as_bytes(), server) {
        Ok(DockerCredential::UsernamePassword(username, password)) => Ok(Login::Basic {
            username,
            password: Secret::new(password),
        }),
        Ok(DockerCredential::IdentityToken(token)) => Ok(Login::Identity(Secret::new(token))),
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(Login::Anonymous),
        // What helpers of Docker say when they have nothing (docker-credential-helpers).
        Err(CredentialRetrievalError::HelperFailure { stdout, .. })
            if stdout.contains("credentials not found") =>
        {
            Ok(Login::Anonymous)
        }
        // A helper's output may hold secrets, so it is not repeated.
        Err(CredentialRetrievalError::HelperFailure { helper, .. }) => Err(format!(
            "{helper} fails (named in {shown}): run `{helper} get` to see why"
        )),
        Err(error @ CredentialRetrievalError::HelperCommunicationError) => Err(format!(
            "{shown}: {error}: is docker-credential-{program}, which it names, in PATH?"
        )),
        Err(error) => Err(format!(
            "docker-credential-{program} (named in {shown}): {error}"
        )),
    }
}
