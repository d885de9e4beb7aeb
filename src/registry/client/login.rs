//! The credentials for one request.

use base64::Engine as _;
use http::HeaderValue;

use crate::registry::Secret;

/// The credentials for a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Login {
    Anonymous,
    Basic {
        username: String,
        password: Secret,
    },
    /// An OAuth refresh token, for the token server.
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
