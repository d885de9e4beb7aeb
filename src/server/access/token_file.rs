//! Secrets in files, which requests show that they know: the token of operators, and that of
//! registries' notifications.

use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::secret_file::first_line;

/// The shortest token, in bytes.
const MIN_BYTES: usize = 16;

/// Where the secret is. It is read whenever it is needed: another one holds at once.
#[derive(Debug, Clone)]
pub(in crate::server) struct TokenFile(Option<PathBuf>);

/// Why a request is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::server) enum NotAllowed {
    /// There is no secret: no request is.
    Off,
    /// The request has none, or another one.
    Wrong,
    /// The file cannot be used.
    Unusable(String),
}

impl TokenFile {
    /// The secret in a file, which must be usable; `None`: no request is accepted.
    ///
    /// # Errors
    /// A text that says what is wrong with the file.
    pub fn open(path: Option<&Path>) -> Result<Self, String> {
        if let Some(path) = path {
            read(path)?;
        }
        Ok(Self(path.map(Path::to_owned)))
    }

    /// Whether these headers have the secret, as a bearer token. Takes the same time whatever is
    /// wrong with it.
    ///
    /// # Errors
    /// Why they do not.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), NotAllowed> {
        self.check_text(bearer(headers).unwrap_or_default())
    }

    /// Whether this is the secret.
    ///
    /// # Errors
    /// Why it is not.
    pub fn check_text(&self, given: &str) -> Result<(), NotAllowed> {
        let secret = self.read()?;
        let of = |text: &str| digest(&SHA256, text.as_bytes());
        verify_slices_are_equal(of(given).as_ref(), of(&secret).as_ref())
            .map_err(|_| NotAllowed::Wrong)
    }

    /// Whether `signature` is the HMAC-SHA256 of `content` with the secret.
    ///
    /// # Errors
    /// Why it is not.
    pub fn check_signature(&self, content: &[u8], signature: &[u8]) -> Result<(), NotAllowed> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.read()?.as_bytes());
        hmac::verify(&key, content, signature).map_err(|_| NotAllowed::Wrong)
    }

    /// The HMAC-SHA256 of `content` with the secret; nothing without one.
    ///
    /// # Errors
    /// A text that says what is wrong with the file.
    pub fn sign(&self, content: &[u8]) -> Result<Option<hmac::Tag>, String> {
        let Some(path) = &self.0 else {
            return Ok(None);
        };
        let key = hmac::Key::new(hmac::HMAC_SHA256, read(path)?.as_bytes());
        Ok(Some(hmac::sign(&key, content)))
    }

    fn read(&self) -> Result<String, NotAllowed> {
        let path = self.0.as_deref().ok_or(NotAllowed::Off)?;
        read(path).map_err(NotAllowed::Unusable)
    }
}

/// The one bearer token of these headers.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, given) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| given.trim())
}

/// The secret in the file.
fn read(path: &Path) -> Result<String, String> {
    let token = first_line(path)?;
    if token.len() < MIN_BYTES {
        return Err(format!(
            "{}: the first line is the secret, of at least {MIN_BYTES} bytes: `openssl rand -hex 32` makes one",
            path.display()
        ));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        headers
    }

    #[test]
    fn only_the_token_of_the_file_is_good_and_a_new_one_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        let token = TokenFile::open(Some(&path)).unwrap();
        assert_eq!(token.check(&headers("Bearer 0123456789abcdef")), Ok(()));
        assert_eq!(token.check(&headers("bearer  0123456789abcdef")), Ok(()));
        let wrong = [
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
            "Bearer",
        ];
        for wrong in wrong {
            assert_eq!(
                token.check(&headers(wrong)),
                Err(NotAllowed::Wrong),
                "{wrong}"
            );
        }
        assert_eq!(token.check(&HeaderMap::new()), Err(NotAllowed::Wrong));
        let mut twice = headers("Bearer 0123456789abcdef");
        twice.append(AUTHORIZATION, "Bearer 0123456789abcdef".parse().unwrap());
        assert_eq!(token.check(&twice), Err(NotAllowed::Wrong));
        std::fs::write(&path, "fedcba9876543210").unwrap();
        assert_eq!(
            token.check(&headers("Bearer 0123456789abcdef")),
            Err(NotAllowed::Wrong)
        );
        assert_eq!(token.check(&headers("Bearer fedcba9876543210")), Ok(()));
    }

    #[test]
    fn a_signature_is_good_for_its_content_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        let secret = TokenFile::open(Some(&path)).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef");
        let signature = hmac::sign(&key, b"content");
        let signature = signature.as_ref();
        assert_eq!(secret.check_signature(b"content", signature), Ok(()));
        let wrong = Err(NotAllowed::Wrong);
        assert_eq!(secret.check_signature(b"other", signature), wrong);
        assert_eq!(secret.check_signature(b"content", &signature[1..]), wrong);
        assert_eq!(secret.check_text("0123456789abcdef"), Ok(()));
        assert_eq!(secret.check_text(""), wrong);
    }

    #[test]
    fn without_a_usable_file_nothing_is_allowed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        assert!(TokenFile::open(Some(&path)).is_err());
        std::fs::write(&path, "short\n0123456789abcdef\n").unwrap();
        assert!(TokenFile::open(Some(&path)).is_err());
        let none = TokenFile::open(None).unwrap();
        let bearer = headers("Bearer 0123456789abcdef");
        assert_eq!(none.check(&bearer), Err(NotAllowed::Off));
        std::fs::write(&path, "0123456789abcdef").unwrap();
        let token = TokenFile::open(Some(&path)).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(token.check(&bearer), Err(NotAllowed::Unusable(_))));
    }
}
