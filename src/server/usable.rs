//! Whether the files that settings name can be used: they are read as a start reads them.

use std::path::Path;

use crate::server::access::token_file::TokenFile;
use crate::server::access::url_keys::UrlKeys;
use crate::server::access::users::Users;
use crate::server::config::{Limits, TlsConfig};
use crate::server::http::tls::{Tls, TlsError};

/// Reads a file of users, as [`Access::Own`](crate::server::Access::Own) names it.
///
/// # Errors
/// A text that says what is wrong with it.
pub fn users_file(path: &Path) -> Result<(), String> {
    Users::open(path, &Limits::default()).map(drop)
}

/// Reads a file whose first line is a secret: that of operators, of notifications or of webhooks.
///
/// # Errors
/// A text that says what is wrong with it.
pub fn secret_file(path: &Path) -> Result<(), String> {
    TokenFile::open(Some(path)).map(drop)
}

/// Reads a file of the keys that addresses are signed with.
///
/// # Errors
/// A text that says what is wrong with it.
pub fn url_key_file(path: &Path) -> Result<(), String> {
    UrlKeys::open(Some(path)).map(drop)
}

/// Reads the server's certificate, its key, and the authority of clients.
///
/// # Errors
/// Which of them cannot be used, and why.
pub fn tls_files(config: &TlsConfig) -> Result<(), TlsError> {
    Tls::open(config, true).map(drop)
}
