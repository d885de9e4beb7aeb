//! The keys that addresses are signed with: of a file that replicas share, or of this process.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use parking_lot::RwLock;

use crate::server::files::Watched;

/// The shortest key, in bytes: as long as what SHA-256 makes (RFC 2104 § 3).
const MIN_KEY_BYTES: usize = 32;
/// Most keys of a file: one in use, and those that came before it.
const MAX_KEYS: usize = 16;
/// The longest file, in bytes.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Keys. The first one signs, all of them verify.
pub(in crate::server) struct UrlKeys {
    keys: RwLock<Arc<Vec<Key>>>,
    file: Option<(PathBuf, Watched)>,
}

impl UrlKeys {
    /// Reads the file; without one, the only key is a random one of this process.
    ///
    /// # Errors
    /// A text that says what is wrong with the file.
    pub fn open(path: Option<&Path>) -> Result<Self, String> {
        let file = path.map(|path| (path.to_owned(), Watched::new(vec![path.to_owned()])));
        let keys = match path {
            Some(path) => read(path)?,
            None => vec![Key::new(HMAC_SHA256, &rand::random::<[u8; 32]>())],
        };
        Ok(Self {
            keys: RwLock::new(Arc::new(keys)),
            file,
        })
    }

    /// Whether the keys are of a file, which replicas share.
    pub fn is_of_file(&self) -> bool {
        self.file.is_some()
    }

    /// The signature of a text; `None` without a key, which there always is.
    pub fn sign(&self, text: &[u8]) -> Option<hmac::Tag> {
        let keys = Arc::clone(&self.keys.read());
        keys.first().map(|key| hmac::sign(key, text))
    }

    /// Whether a signature of a text was made with one of the keys. Takes the same time whatever
    /// is wrong with it.
    pub fn is_signed(&self, text: &[u8], signature: &[u8]) -> bool {
        let keys = Arc::clone(&self.keys.read());
        keys.iter()
            .any(|key| hmac::verify(key, text, signature).is_ok())
    }

    /// Reads the file again if it changed. A file that cannot be used changes nothing.
    pub fn refresh(&self) {
        if let Some((_, watched)) = &self.file
            && watched.have_changed()
        {
            self.reload();
        }
    }

    /// Reads the file again. A file that cannot be used changes nothing.
    pub fn reload(&self) {
        let Some((path, _)) = &self.file else {
            return;
        };
        match read(path) {
            Ok(keys) => {
                tracing::info!(file = %path.display(), keys = keys.len(),
                    "read the keys of addresses again");
                *self.keys.write() = Arc::new(keys);
            }
            Err(error) => tracing::error!(%error, "the keys of addresses stay as they were"),
        }
    }
}

fn read(path: &Path) -> Result<Vec<Key>, String> {
    let shown = path.display();
    let mut text = String::new();
    let file = File::open(path).map_err(|error| format!("{shown}: {error}"))?;
    let read = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text);
    match read {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            return Err(format!(
                "{shown} is no text: a key a line is expected, as `openssl rand -hex 32` writes it"
            ));
        }
        Err(error) => return Err(format!("{shown}: {error}")),
        Ok(_) if text.len() as u64 > MAX_FILE_BYTES => {
            return Err(format!(
                "{shown} is longer than 64 KiB: is it another file?"
            ));
        }
        Ok(_) => {}
    }
    let mut keys = Vec::new();
    for (place, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let number = place + 1;
        if line.len() < MIN_KEY_BYTES {
            return Err(format!(
                "{shown}, line {number}: a key has {MIN_KEY_BYTES} characters or more: use one of \
                 `openssl rand -hex 32`"
            ));
        }
        if keys.len() == MAX_KEYS {
            return Err(format!(
                "{shown}, line {number}: there are more than {MAX_KEYS} keys: drop the last ones, \
                 which nothing is signed with any more"
            ));
        }
        keys.push(Key::new(HMAC_SHA256, line.as_bytes()));
    }
    if keys.is_empty() {
        return Err(format!(
            "{shown} has no key: one of `openssl rand -hex 32` is expected"
        ));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "0123456789abcdef0123456789abcdef";
    const NEW: &str = "fedcba9876543210fedcba9876543210";

    fn keys(text: impl AsRef<[u8]>) -> (tempfile::TempDir, Result<UrlKeys, String>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        std::fs::write(&path, text).unwrap();
        let keys = UrlKeys::open(Some(&path));
        (directory, keys)
    }

    #[test]
    fn the_first_key_signs_and_all_verify() {
        let (_old, old) = keys(format!("{OLD}\n"));
        let (_both, both) = keys(format!("# rotated\n\n {NEW} \n{OLD}\n"));
        let (_new, new) = keys(NEW);
        let (old, both, new) = (old.unwrap(), both.unwrap(), new.unwrap());
        let signed = |by: &UrlKeys| by.sign(b"x").unwrap();
        assert!(both.is_signed(b"x", signed(&old).as_ref()));
        assert!(both.is_signed(b"x", signed(&new).as_ref()));
        assert!(new.is_signed(b"x", signed(&both).as_ref()));
        assert!(!old.is_signed(b"x", signed(&both).as_ref()));
        assert!(!both.is_signed(b"y", signed(&both).as_ref()));
        let random = UrlKeys::open(None).unwrap();
        assert!(random.is_signed(b"x", signed(&random).as_ref()));
        assert!(
            !UrlKeys::open(None)
                .unwrap()
                .is_signed(b"x", signed(&random).as_ref())
        );
    }

    #[test]
    fn a_file_that_is_no_list_of_keys_is_refused_with_the_remedy() {
        let long = vec![b'x'; (64 << 10) + 1];
        for (text, wanted) in [
            (&b""[..], "no key"),
            (b"# nothing\n", "no key"),
            (b"short\n", "line 1: a key has 32"),
            (b"\xff\xfe", "is no text"),
            (&long, "longer than 64 KiB"),
        ] {
            let error = keys(text).1.err().unwrap();
            assert!(error.contains(wanted), "{error}");
        }
        let many = format!("{OLD}\n").repeat(MAX_KEYS + 1);
        assert!(keys(many).1.err().unwrap().contains("line 17"));
        assert!(UrlKeys::open(Some(Path::new("/nonexistent"))).is_err());
    }

    #[test]
    fn a_file_is_read_again_and_a_bad_one_changes_nothing() {
        let (directory, keys) = keys(OLD);
        let keys = keys.unwrap();
        let old = keys.sign(b"x").unwrap();
        let path = directory.path().join("keys");
        std::fs::write(&path, "short").unwrap();
        keys.refresh();
        assert!(keys.is_signed(b"x", old.as_ref()));
        std::fs::write(&path, format!("{NEW}\n")).unwrap();
        keys.refresh();
        assert!(!keys.is_signed(b"x", old.as_ref()));
    }
}
