//! What a connection fails of when the account wants a plugin that cannot serve, with its
//! remedy.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use mysql_async::{Conn, DriverError, Error, IoError, Pool};

/// The plugins that the client has, strongest first.
const PLUGINS: &str = "parsec, ed25519, caching_sha2_password or mysql_native_password";

/// A connection of the pool.
///
/// The driver panics on what it holds to be impossible, such as a plugin whose answer it
/// cannot compute: that is an error here.
pub(super) async fn connect(pool: &Pool) -> Result<Conn, Error> {
    match AssertUnwindSafe(pool.get_conn()).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(panic) => Err(Error::Other(
            format!(
                "the client library gave up while logging in: {}; most likely the account's \
                 authentication plugin wants what the connection text lacks (a password?): try \
                 one with {PLUGINS}",
                crate::panics::text(panic.as_ref())
            )
            .into(),
        )),
    }
}

/// What an error says, and what to do where the account's plugin is the cause.
pub(super) fn explain(error: &Error) -> String {
    match error {
        Error::Driver(DriverError::UnknownAuthPlugin { name }) => format!(
            "the account uses the authentication plugin {name:?}, which this client does not \
             have: use an account with {PLUGINS}"
        ),
        Error::Driver(DriverError::MysqlOldPasswordDisabled) => format!(
            "the account uses the authentication plugin mysql_old_password, which is no \
             protection: use an account with {PLUGINS}"
        ),
        Error::Driver(DriverError::CleartextPluginDisabled) => format!(
            "the account uses the authentication plugin mysql_clear_password, which sends the \
             password as it is: add allowCleartextPasswords=true to the connection text, with \
             TLS, or use an account with {PLUGINS}"
        ),
        Error::Driver(DriverError::InvalidParsecSalt) => {
            "the server's parsec plugin sent no salt that this client understands: use an \
             account with ed25519"
                .to_owned()
        }
        // ER_PLUGIN_IS_NOT_LOADED
        Error::Server(server) if server.code == 1524 => {
            format!("{error}: load it (INSTALL SONAME), or use an account with another plugin")
        }
        // The library says what it is for each of its own layers.
        Error::Io(IoError::Io(error)) => format!("Input/output error: {error}"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_io_error_is_printed_once() {
        let error = std::io::Error::other("connection reset");
        let error = Error::Io(IoError::Io(error));
        assert_eq!(explain(&error), "Input/output error: connection reset");
    }
}
