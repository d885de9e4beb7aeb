//! Our own credentials for one registry: as configured, or from Docker's `config.json`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use http::HeaderValue;

use crate::oci::reference;
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

type Remembered = Option<(Instant, Login)>;

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

    pub(super) async fn login(&self) -> Result<Login, Error> {
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
        if let Some(login) = self.remembered() {
            return Ok(login);
        }
        match tokio::time::timeout(self.limit, self.ask(path)).await {
            Ok(Ok(login)) => Ok(login),
            Ok(Err(detail)) => Err(self.error(&detail)),
            Err(_) => {
                let after = self.limit;
                Err(self.error(&format!(
                    "the credential helper gives no answer within {after:?}"
                )))
            }
        }
    }

    /// Forgets credentials that were refused, so that they are asked for anew.
    pub(super) fn forget(&self, refused: &Login) {
        let mut known = lock(&self.known);
        if known.as_ref().is_some_and(|(_, login)| login == refused) {
            *known = None;
        }
    }

    fn remembered(&self) -> Option<Login> {
        match &*lock(&self.known) {
            Some((since, login)) if since.elapsed() < KEPT => Some(login.clone()),
            _ => None,
        }
    }

    // The call blocks and cannot be stopped, so that one at a time is made: others wait
    // for the lock, which the thread lets go.
    async fn ask(&self, path: Option<PathBuf>) -> Result<Login, String> {
        let asking = Arc::clone(&self.asking).lock_owned().await;
        if let Some(login) = self.remembered() {
            return Ok(login);
        }
        let key = if reference::is_docker_hub(&self.host) {
            // Docker Hub's key since its first days.
            "https://index.docker.io/v1/".to_owned()
        } else {
            self.host.clone()
        };
        let known = Arc::clone(&self.known);
        tokio::task::spawn_blocking(move || {
            let login = read(path.as_deref(), &key)?;
            *lock(&known) = Some((Instant::now(), login.clone()));
            drop(asking);
            Ok(login)
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

fn lock(known: &Mutex<Remembered>) -> std::sync::MutexGuard<'_, Remembered> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

fn default_path() -> Option<PathBuf> {
    if let Some(directory) = std::env::var_os("DOCKER_CONFIG") {
        return Some(Path::new(&directory).join("config.json"));
    }
    let home = std::env::var_os("HOME")?;
    Some(Path::new(&home).join(".docker/config.json"))
}

fn read(path: Option<&Path>, key: &str) -> Result<Login, String> {
    let is_stated = path.is_some();
    let Some(path) = path.map(Path::to_owned).or_else(default_path) else {
        return Ok(Login::Anonymous);
    };
    let shown = path.display();
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_stated => {
            return Ok(Login::Anonymous);
        }
        Err(error) => return Err(format!("{shown}: {error}")),
    };
    match docker_credential::get_credential_from_reader(file.take(MAX_CONFIG), key) {
        Ok(DockerCredential::UsernamePassword(username, password)) => Ok(Login::Basic {
            username,
            // Docker pads what it writes with NULs.
            password: Secret::new(password.trim_matches('\0')),
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
            "{shown}: {error}: is the docker-credential-… that it names in PATH?"
        )),
        Err(error) => Err(format!("{shown}: {error}")),
    }
}
