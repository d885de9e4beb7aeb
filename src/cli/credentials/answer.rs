//! The answers, as overlaybd reads them (`ImageAuthResponse` in its `src/config.h`).

use serde_json::{Value, json};

use super::question::Question;
use crate::registry::DockerLogin;

/// Why an identity token is of no use.
pub const IDENTITY_TOKEN: &str = "there is an identity token, which overlaybd cannot use: log in \
                                  with a user and a password or an access token";

/// Why a registry token is of no use.
pub const REGISTRY_TOKEN: &str = "there is a registrytoken, which overlaybd cannot use: log in \
                                  with a user and a password or an access token";

/// What is known about a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What the configuration or a helper says.
    Login(DockerLogin),
    /// It is not known, and why.
    Unknown(String),
}

impl Answer {
    /// Whether there is a user with a password.
    pub fn is_usable(&self) -> bool {
        matches!(self, Self::Login(DockerLogin::Password { .. }))
    }

    /// Why there is none.
    pub fn why_not(&self) -> &str {
        match self {
            Self::Login(DockerLogin::Password { .. }) => "",
            Self::Login(DockerLogin::Nothing) => "there are no credentials for this",
            Self::Login(DockerLogin::IdentityToken) => IDENTITY_TOKEN,
            Self::Login(DockerLogin::RegistryToken) => REGISTRY_TOKEN,
            Self::Unknown(why) => why,
        }
    }

    /// The body of the response. `data.auths` is always an object: overlaybd takes it for one
    /// without looking.
    pub fn body(&self, question: &Question, trace: &str) -> Value {
        let Self::Login(DockerLogin::Password { username, password }) = self else {
            return refusal(trace, self.why_not());
        };
        let login = json!({ "username": username, "password": password.expose() });
        json!({
            "traceId": trace,
            "success": true,
            "data": { "auths": { question.host.as_str(): login } },
        })
    }
}

/// The body of a response without credentials.
pub fn refusal(trace: &str, why: &str) -> Value {
    json!({
        "traceId": trace,
        "success": false,
        "message": why,
        "data": { "auths": {} },
    })
}
