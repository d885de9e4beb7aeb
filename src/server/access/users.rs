//! The proxy's own users: an `htpasswd` file with bcrypt hashes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;
use moka::future::Cache;
use parking_lot::RwLock;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::convert::lock::KeyedLock;
use crate::server::config::Limits;
use crate::server::files::Watched;
use crate::server::limits::slots::{Full, Slots};

/// How long a wrong pair that does not come again is remembered.
const REMEMBERED: Duration = Duration::from_mins(10);
/// Most pairs remembered, of the right and of the wrong ones.
const MAX_REMEMBERED_LOGINS: u64 = 10_000;
/// Checks at one time: each is some tens of milliseconds of a core, on purpose.
const CHECKS: usize = 2;

type Table = HashMap<String, String>;

/// The users, and which of them were seen lately.
pub(in crate::server) struct Users {
    path: PathBuf,
    table: RwLock<Arc<Table>>,
    watched: Watched,
    /// Keyed hashes of pairs and the hash that they were checked with: none means anything any
    /// more when the user's line of the file is another.
    right: Cache<[u8; 32], ()>,
    wrong: Cache<[u8; 32], ()>,
    secret: [u8; 32],
    /// Those that are checked or wait for it.
    slots: Slots,
    /// Of each client one is checked at a time, so that none keeps the others waiting for more
    /// than that one.
    clients: KeyedLock<IpAddr>,
    checks: Arc<Semaphore>,
}

impl Users {
    /// Reads the file.
    ///
    /// # Errors
    /// A text that says what is wrong with it.
    pub fn open(path: &Path, limits: &Limits) -> Result<Self, String> {
        let watched = Watched::new(vec![path.to_owned()]);
        let table = read(path)?;
        Ok(Self {
            path: path.to_owned(),
            table: RwLock::new(Arc::new(table)),
            watched,
            right: Cache::new(MAX_REMEMBERED_LOGINS),
            wrong: Cache::builder()
                .max_capacity(MAX_REMEMBERED_LOGINS)
                .time_to_idle(REMEMBERED)
                .build(),
            secret: rand::random(),
            slots: Slots::new(limits.logins, limits.address_share),
            clients: KeyedLock::default(),
            checks: Arc::new(Semaphore::new(CHECKS)),
        })
    }

    /// Reads the file again if it changed. A file that cannot be used changes nothing.
    pub fn refresh(&self) {
        if self.watched.have_changed() {
            self.reload();
        }
    }

    /// Reads the file again. A file that cannot be used changes nothing.
    pub fn reload(&self) {
        match read(&self.path) {
            Ok(table) => {
                tracing::info!(file = %self.path.display(), users = table.len(), "read the users again");
                *self.table.write() = Arc::new(table);
            }
            Err(error) => tracing::error!(%error, "the users stay as they were"),
        }
    }

    /// Whether `authorization`, which a client brings, is a user with the right password.
    ///
    /// # Errors
    /// When too many wait to be checked.
    pub async fn know(
        &self,
        authorization: Option<&HeaderValue>,
        client: IpAddr,
    ) -> Result<bool, Full> {
        let Some((user, password)) = authorization.and_then(basic) else {
            return Ok(false);
        };
        let table = Arc::clone(&self.table.read());
        // An unknown user takes as long as a wrong password.
        let (hash, is_known) = match table.get(&user) {
            Some(hash) => (hash, true),
            None => match table.values().next() {
                Some(any) => (any, false),
                None => return Ok(false),
            },
        };
        let key = self.key(&user, &password, hash);
        if let Some(is_right) = self.remembered(&key, is_known) {
            return Ok(is_right);
        }
        let place = self.slots.take(client)?;
        let claim = self.clients.lock(client).await;
        // Whoever came with the same pair before may have had it checked meanwhile.
        if let Some(is_right) = self.remembered(&key, is_known) {
            return Ok(is_right);
        }
        let Ok(permit) = Arc::clone(&self.checks).acquire_owned().await else {
            return Ok(false);
        };
        let hash = hash.clone();
        let check = tokio::task::spawn_blocking(move || {
            // It goes on when the client leaves, and counts as long as it does.
            let _held = (permit, claim, place);
            bcrypt::verify(password, &hash).ok()
        });
        let Ok(Some(is_right)) = check.await else {
            return Ok(false);
        };
        let is_right = is_right && is_known;
        let pairs = if is_right { &self.right } else { &self.wrong };
        pairs.insert(key, ()).await;
        Ok(is_right)
    }

    /// What was found when this pair was checked, if it is remembered.
    fn remembered(&self, key: &[u8; 32], is_known: bool) -> Option<bool> {
        if is_known && self.right.contains_key(key) {
            return Some(true);
        }
        self.wrong.contains_key(key).then_some(false)
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
pub(in crate::server) fn basic(value: &HeaderValue) -> Option<(String, Vec<u8>)> {
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

    async fn know(users: &Users, authorization: Option<&HeaderValue>) -> bool {
        let client = IpAddr::from([127, 0, 0, 1]);
        users.know(authorization, client).await.unwrap()
    }

    fn line(user: &str, password: &str) -> String {
        format!("{user}:{}\n", bcrypt::hash(password, 4).unwrap())
    }

    #[tokio::test]
    async fn only_the_right_password_of_a_known_user_is_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        let text = format!("# people\n\n{}{}", line("ann", "p:w"), line("bob", "x"));
        std::fs::write(&path, text).unwrap();
        let users = Users::open(&path, &Limits::default()).unwrap();
        for _ in 0..2 {
            assert!(know(&users, Some(&authorization("ann", "p:w"))).await);
            assert!(know(&users, Some(&authorization("bob", "x"))).await);
            assert!(!know(&users, Some(&authorization("ann", "x"))).await);
            assert!(!know(&users, Some(&authorization("eve", "x"))).await);
            assert!(!know(&users, None).await);
        }
        for odd in ["Basic", "Basic !!", "Bearer YTpi", "Basic YQ=="] {
            assert!(!know(&users, Some(&HeaderValue::from_static(odd))).await);
        }
    }

    #[tokio::test]
    async fn a_changed_file_takes_effect_at_once_and_an_invalid_one_never() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        std::fs::write(&path, line("ann", "old")).unwrap();
        let users = Users::open(&path, &Limits::default()).unwrap();
        assert!(know(&users, Some(&authorization("ann", "old"))).await);
        std::fs::write(&path, "ann:{SHA}nothing\n").unwrap();
        users.refresh();
        assert!(know(&users, Some(&authorization("ann", "old"))).await);
        std::fs::write(&path, format!("{}#\n", line("ann", "new"))).unwrap();
        users.refresh();
        assert!(!know(&users, Some(&authorization("ann", "old"))).await);
        assert!(know(&users, Some(&authorization("ann", "new"))).await);
    }

    #[test]
    fn other_hashes_are_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        for text in ["ann:plain", "ann", "ann:$2y$05$short"] {
            std::fs::write(&path, text).unwrap();
            assert!(Users::open(&path, &Limits::default()).is_err(), "{text}");
        }
        std::fs::write(&path, "x:$apr1$aaaa$bbbb").unwrap();
        assert!(
            Users::open(&path, &Limits::default())
                .err()
                .unwrap()
                .contains("htpasswd -B")
        );
        assert!(Users::open(&directory.path().join("none"), &Limits::default()).is_err());
    }
}
