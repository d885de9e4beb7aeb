//! The proxy's own users: an `htpasswd` file with bcrypt hashes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;
use moka::future::Cache;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::files::Watched;

/// How long a pair that was right is not checked again.
const REMEMBERED: Duration = Duration::from_secs(30);
/// Most pairs remembered.
const MOST: u64 = 10_000;
/// Checks at one time: each is some tens of milliseconds of a core, on purpose.
const CHECKS: usize = 2;

type Table = HashMap<String, String>;

/// The users, and which of them were seen lately.
pub(super) struct Users {
    path: PathBuf,
    table: RwLock<Arc<Table>>,
    watched: Mutex<Watched>,
    /// Keyed hashes of pairs that were right.
    right: Cache<[u8; 32], ()>,
    secret: [u8; 32],
    checks: Arc<Semaphore>,
}

impl Users {
    /// Reads the file.
    ///
    /// # Errors
    /// A text that says what is wrong with it.
    pub fn open(path: &Path) -> Result<Self, String> {
        let watched = Watched::new(vec![path.to_owned()]);
        let table = read(path)?;
        Ok(Self {
            path: path.to_owned(),
            table: RwLock::new(Arc::new(table)),
            watched: Mutex::new(watched),
            right: Cache::builder()
                .max_capacity(MOST)
                .time_to_live(REMEMBERED)
                .build(),
            secret: rand::random(),
            checks: Arc::new(Semaphore::new(CHECKS)),
        })
    }

    /// Reads the file again if it changed. A file that cannot be used changes nothing.
    pub fn refresh(&self) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if !watched.have_changed() {
            return;
        }
        match read(&self.path) {
            Ok(table) => {
                tracing::info!(file = %self.path.display(), users = table.len(), "read the users again");
                *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
            }
            Err(error) => tracing::error!(%error, "the users stay as they were"),
        }
    }

    /// Whether `authorization` is a user with the right password.
    pub async fn know(&self, authorization: Option<&HeaderValue>) -> bool {
        let Some((user, password)) = authorization.and_then(basic) else {
            return false;
        };
        let table = Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner));
        // An unknown user takes as long as a wrong password.
        let (hash, is_known) = match table.get(&user) {
            Some(hash) => (hash, true),
            None => match table.values().next() {
                Some(any) => (any, false),
                None => return false,
            },
        };
        let key = self.key(&user, &password, hash);
        if is_known && self.right.contains_key(&key) {
            return true;
        }
        let Ok(permit) = Arc::clone(&self.checks).acquire_owned().await else {
            return false;
        };
        // Whoever came with the same pair before may have found it right meanwhile.
        if is_known && self.right.contains_key(&key) {
            return true;
        }
        let hash = hash.clone();
        let check = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            bcrypt::verify(password, &hash).unwrap_or(false)
        });
        let is_right = check.await.unwrap_or(false) && is_known;
        if is_right {
            self.right.insert(key, ()).await;
        }
        is_right
    }

    fn key(&self, user: &str, password: &[u8], hash: &str) -> [u8; 32] {
        let mut keyed = Sha256::new();
        keyed.update(self.secret);
        for part in [user.as_bytes(), password, hash.as_bytes()] {
            keyed.update(part.len().to_le_bytes());
            keyed.update(part);
        }
        keyed.finalize().into()
    }
}

/// User and password of a `Basic` authorization (RFC 7617).
fn basic(value: &HeaderValue) -> Option<(String, Vec<u8>)> {
    let text = value.to_str().ok()?;
    let (scheme, encoded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let user = String::from_utf8(decoded.get(..colon)?.to_vec()).ok()?;
    Some((user, decoded.get(colon + 1..)?.to_vec()))
}

fn read(path: &Path) -> Result<Table, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
    let mut table = Table::new();
    for (place, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let number = place + 1;
        let (user, hash) = line
            .split_once(':')
            .ok_or_else(|| format!("{shown}, line {number}: USER:HASH is expected"))?;
        let is_bcrypt = ["$2y$", "$2b$", "$2a$"]
            .iter()
            .any(|prefix| hash.starts_with(prefix));
        if !is_bcrypt || hash.parse::<bcrypt::HashParts>().is_err() {
            return Err(format!(
                "{shown}, line {number}: the password of {user:?} is not hashed by bcrypt: \
                 use htpasswd -B"
            ));
        }
        if table.insert(user.to_owned(), hash.to_owned()).is_some() {
            return Err(format!("{shown}, line {number}: {user:?} is there twice"));
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authorization(user: &str, password: &str) -> HeaderValue {
        let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
        HeaderValue::from_str(&format!("Basic {encoded}")).unwrap()
    }

    fn line(user: &str, password: &str) -> String {
        format!("{user}:{}\n", bcrypt::hash(password, 4).unwrap())
    }

    #[tokio::test]
    async fn only_the_right_password_of_a_known_user_is_right() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        let text = format!("# people\n\n{}{}", line("ann", "p:w"), line("bob", "x"));
        std::fs::write(&path, text).unwrap();
        let users = Users::open(&path).unwrap();
        for _ in 0..2 {
            assert!(users.know(Some(&authorization("ann", "p:w"))).await);
            assert!(users.know(Some(&authorization("bob", "x"))).await);
            assert!(!users.know(Some(&authorization("ann", "x"))).await);
            assert!(!users.know(Some(&authorization("eve", "x"))).await);
            assert!(!users.know(None).await);
        }
        for odd in ["Basic", "Basic !!", "Bearer YTpi", "Basic YQ=="] {
            assert!(!users.know(Some(&HeaderValue::from_static(odd))).await);
        }
    }

    #[tokio::test]
    async fn a_changed_file_counts_at_once_and_a_broken_one_never() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        std::fs::write(&path, line("ann", "old")).unwrap();
        let users = Users::open(&path).unwrap();
        assert!(users.know(Some(&authorization("ann", "old"))).await);
        std::fs::write(&path, "ann:{SHA}nothing\n").unwrap();
        users.refresh();
        assert!(users.know(Some(&authorization("ann", "old"))).await);
        std::fs::write(&path, format!("{}#\n", line("ann", "new"))).unwrap();
        users.refresh();
        assert!(!users.know(Some(&authorization("ann", "old"))).await);
        assert!(users.know(Some(&authorization("ann", "new"))).await);
    }

    #[test]
    fn other_hashes_are_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        for text in ["ann:plain", "ann", "ann:$2y$05$short"] {
            std::fs::write(&path, text).unwrap();
            assert!(Users::open(&path).is_err(), "{text}");
        }
        std::fs::write(&path, "x:$apr1$aaaa$bbbb").unwrap();
        assert!(Users::open(&path).err().unwrap().contains("htpasswd -B"));
        assert!(Users::open(&directory.path().join("none")).is_err());
    }
}
