//! Our own credentials for one registry: as configured, or from Docker's `config.json`.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use http::HeaderValue;
use parking_lot::Mutex;

use super::docker_config::{DockerConfig, Found};
use crate::registry::{Credentials, Error, Secret};

/// How long an answer of the configuration or a helper is used without asking again.
const KEPT: Duration = Duration::from_mins(5);

/// Longest `config.json` that is read, in bytes.
const MAX_CONFIG: u64 = 4 << 20;

/// Who we are for a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Login {
    Anonymous,
    Basic {
        username: String,
        password: Secret,
    },
    /// An OAuth refresh token, which a token server takes.
    Identity(Secret),
}

impl Login {
    /// The value of `Authorization` for user and password.
    pub(super) fn basic(&self) -> Option<HeaderValue> {
        let Self::Basic { username, password } = self else {
            return None;
        };
        let text = format!("{username}:{}", password.expose());
        let text = base64::engine::general_purpose::STANDARD.encode(text);
        let mut value = HeaderValue::from_str(&format!("Basic {text}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// Keeps the credentials for one host.
#[derive(Debug)]
pub(super) struct Keeper {
    source: Credentials,
    host: String,
    limit: Duration,
    known: Arc<Mutex<Remembered>>,
    /// Held while a helper runs, which goes on when nobody waits for it any more.
    asking: Arc<tokio::sync::Mutex<()>>,
}

/// What the configuration and the helpers said.
#[derive(Debug, Default)]
struct Remembered {
    config: Option<(Instant, Arc<DockerConfig>)>,
    /// By helper and server.
    helped: HashMap<(String, String), (Instant, Login)>,
    /// The helper that runs now.
    running: Option<String>,
}

impl Remembered {
    /// The credentials for a repository, as far as nothing has to be asked.
    fn login(&self, host: &str, repo: Option<&str>) -> Option<Result<Login, String>> {
        let (since, config) = self.config.as_ref()?;
        if since.elapsed() >= KEPT {
            return None;
        }
        match config.find(host, repo) {
            Ok(Found::Login(login)) => Some(Ok(login)),
            Ok(Found::Helper { program, server }) => {
                let (since, login) = self.helped.get(&(program, server))?;
                (since.elapsed() < KEPT).then(|| Ok(login.clone()))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

impl Keeper {
    /// `host` is as users write it; `limit` is the time for a helper.
    pub(super) fn new(source: Credentials, host: &str, limit: Duration) -> Self {
        Self {
            source,
            host: host.to_owned(),
            limit,
            known: Arc::default(),
            asking: Arc::default(),
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
        let remembered = self.known.lock().login(&self.host, repo);
        if let Some(Ok(login)) = remembered {
            return Ok(login);
        }
        match tokio::time::timeout(self.limit, self.ask(path, repo)).await {
            Ok(Ok(login)) => Ok(login),
            Ok(Err(detail)) => Err(self.error(&detail)),
            Err(_) => {
                let after = self.limit;
                let running = self.known.lock().running.clone();
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

    /// Forgets credentials that were refused, so that they are asked for anew.
    pub(super) fn forget(&self, refused: &Login) {
        let mut known = self.known.lock();
        known.config = None;
        known.helped.retain(|_, (_, login)| login != refused);
    }

    // The call blocks and cannot be stopped, so that one at a time is made: others wait
    // for the lock, which the thread lets go.
    async fn ask(&self, path: Option<PathBuf>, repo: Option<&str>) -> Result<Login, String> {
        let asking = Arc::clone(&self.asking).lock_owned().await;
        if let Some(Ok(login)) = self.known.lock().login(&self.host, repo) {
            return Ok(login);
        }
        let known = Arc::clone(&self.known);
        let (host, repo) = (self.host.clone(), repo.map(ToOwned::to_owned));
        tokio::task::spawn_blocking(move || {
            let asked = ask_all(path.as_deref(), &host, repo.as_deref(), &known);
            drop(asking);
            asked
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

fn default_path() -> Option<PathBuf> {
    if let Some(directory) = std::env::var_os("DOCKER_CONFIG") {
        return Some(Path::new(&directory).join("config.json"));
    }
    let home = std::env::var_os("HOME")?;
    Some(Path::new(&home).join(".docker/config.json"))
}

/// Asks the configuration, and the helper that it names.
fn ask_all(
    path: Option<&Path>,
    host: &str,
    repo: Option<&str>,
    known: &Mutex<Remembered>,
) -> Result<Login, String> {
    let is_stated = path.is_some();
    let Some(path) = path.map(Path::to_owned).or_else(default_path) else {
        return Ok(Login::Anonymous);
    };
    let shown = path.display().to_string();
    let config = Arc::new(read(&path, is_stated).map_err(|error| format!("{shown}: {error}"))?);
    known.lock().config = Some((Instant::now(), Arc::clone(&config)));
    let found = config.find(host, repo);
    let (program, server) = match found.map_err(|error| format!("{shown}: {error}"))? {
        Found::Login(login) => return Ok(login),
        Found::Helper { program, server } => (program, server),
    };
    known.lock().running = Some(format!("docker-credential-{program}"));
    let login = run_helper(&program, &server, &shown);
    let mut known = known.lock();
    known.running = None;
    let login = login?;
    let answer = (Instant::now(), login.clone());
    known.helped.insert((program, server), answer);
    Ok(login)
}

fn read(path: &Path, is_stated: bool) -> Result<DockerConfig, String> {
    let mut text = Vec::new();
    match std::fs::File::open(path) {
        Ok(file) => file.take(MAX_CONFIG).read_to_end(&mut text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_stated => {
            return Ok(DockerConfig::default());
        }
        Err(error) => Err(error),
    }
    .map_err(|error| error.to_string())?;
    DockerConfig::parse(&text)
}

/// Asks a credential helper about a server.
fn run_helper(program: &str, server: &str, shown: &str) -> Result<Login, String> {
    // The crate knows helpers by a configuration only.
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
