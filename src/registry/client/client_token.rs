//! Tokens for clients of the proxy, with the clients' own credentials.
//!
//! The registry's challenge names the realm; the token is requested there with the client's
//! credentials, under the same rules as with the program's own. Only the scheme is cached.

use std::time::Duration;

use base64::Engine as _;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use url::Url;

use super::answer::Answer;
use super::auth::{AuthScheme, preferred_scheme};
use super::challenge::challenges;
use super::dialer::{Outgoing, place};
use super::endpoint::Endpoint;
use super::payload::Payload;
use super::retry::Failure;
use super::scope::Scopes;
use super::{Registry, repeated, token};
use crate::registry::Error;

/// How a client authenticates at a registry.
#[derive(Debug, Clone)]
pub enum ClientAuth {
    /// Without credentials.
    Anonymous,
    /// With its user and password, which were not refused.
    Basic,
    /// With a token.
    Bearer(ClientToken),
}

/// A token of a registry's token server.
#[derive(Debug, Clone)]
pub struct ClientToken {
    /// The value of `Authorization`: `Bearer` and the token.
    pub header: HeaderValue,
    /// Its lifetime, if the response has `expires_in`.
    pub expires_in: Option<Duration>,
    /// `issued_at` of the response.
    pub issued_at: Option<String>,
}

impl Registry {
    /// As [`Upstream::has_credentials`](crate::registry::Upstream::has_credentials).
    pub(in crate::registry) async fn has_credentials(&self) -> Result<bool, Error> {
        let endpoints = self.all_endpoints();
        let registry = endpoints.iter().find(|endpoint| endpoint.is_registry);
        match registry {
            Some(endpoint) => endpoint.auth.has_credentials().await,
            None => Ok(false),
        }
    }

    /// As [`Upstream::authenticate_client`](crate::registry::Upstream::authenticate_client).
    pub(in crate::registry) async fn authenticate_client(
        &self,
        scopes: &[String],
        login: Option<&HeaderValue>,
    ) -> Result<ClientAuth, Error> {
        let endpoints = self.all_endpoints();
        let endpoint = endpoints.iter().find(|endpoint| endpoint.is_registry);
        let endpoint = endpoint.ok_or_else(|| {
            let host = self.host();
            Error::Configuration(format!(
                "{host}: hosts.toml leaves the registry itself out, which alone is shown clients' \
                 credentials"
            ))
        })?;
        let scopes = Scopes::parse(&scopes.join(" "));
        let timeouts = &endpoint.dialer.timeouts;
        let after = timeouts.connect.saturating_add(timeouts.response);
        let request = repeated(endpoint, || authenticate(endpoint, &scopes, login));
        tokio::time::timeout(after, Box::pin(request))
            .await
            .unwrap_or_else(|_| {
                Err(Error::TimedOut {
                    place: place(&Method::GET, &endpoint.url("")),
                    what: "token",
                    after,
                })
            })
    }
}

async fn authenticate(
    endpoint: &Endpoint,
    scopes: &Scopes,
    login: Option<&HeaderValue>,
) -> Result<ClientAuth, Failure> {
    let (scheme, url) = required_scheme(endpoint, scopes).await?;
    match (scheme, login) {
        // Repositories may require credentials although `/v2/` does not.
        (AuthScheme::Anonymous, _) | (AuthScheme::Basic, None) => Ok(ClientAuth::Anonymous),
        (AuthScheme::Basic, Some(login)) => {
            let answer = get(endpoint, url, Some(login)).await?;
            if answer.status() == StatusCode::UNAUTHORIZED {
                return Err(answer.failure().await);
            }
            discard(answer).await?;
            Ok(ClientAuth::Basic)
        }
        (AuthScheme::Bearer { realm, service }, login) => {
            let account = login.and_then(user_of);
            let outgoing =
                token::get_request(&realm, service.as_deref(), scopes, account.as_deref());
            let token = token::send(&outgoing, login, false, &endpoint.dialer).await?;
            Ok(ClientAuth::Bearer(ClientToken {
                header: token.header,
                expires_in: token.expires_in,
                issued_at: token.issued_at,
            }))
        }
    }
}

/// The scheme that the registry requires, and the URL that required it. A registry that accepts
/// `/v2/` without credentials may require them for repositories.
async fn required_scheme(
    endpoint: &Endpoint,
    scopes: &Scopes,
) -> Result<(AuthScheme, Url), Failure> {
    let root = endpoint.url("");
    let scheme = if let Some(scheme) = endpoint.client_scheme.get() {
        scheme
    } else {
        let scheme = scheme_at(endpoint, root.clone()).await?;
        endpoint.client_scheme.set(&scheme);
        scheme
    };
    match (scheme, scopes.repo()) {
        (AuthScheme::Anonymous, Some(repo)) => {
            let mut tags = endpoint.url(&format!("{repo}/tags/list"));
            tags.query_pairs_mut().append_pair("n", "1");
            Ok((scheme_at(endpoint, tags.clone()).await?, tags))
        }
        (scheme, _) => Ok((scheme, root)),
    }
}

/// The scheme that a URL of the registry requires.
async fn scheme_at(endpoint: &Endpoint, url: Url) -> Result<AuthScheme, Failure> {
    let answer = get(endpoint, url, None).await?;
    if answer.status() != StatusCode::UNAUTHORIZED {
        discard(answer).await?;
        return Ok(AuthScheme::Anonymous);
    }
    // The challenge of a redirect's target is not the registry's.
    if answer.at_home {
        let challenges = challenges(answer.response.headers());
        let scheme = preferred_scheme(&answer.place, &challenges, &endpoint.dialer)?;
        if let Some((scheme, _)) = scheme {
            answer.drain().await;
            return Ok(scheme);
        }
    }
    Err(answer.failure().await)
}

/// Discards a response that is no challenge. A lasting error is one of the client's own request
/// too, and reported there.
async fn discard(answer: Answer) -> Result<(), Failure> {
    let status = answer.status();
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Err(answer.failure().await);
    }
    answer.drain().await;
    Ok(())
}

async fn get(
    endpoint: &Endpoint,
    url: Url,
    login: Option<&HeaderValue>,
) -> Result<Answer, Failure> {
    let outgoing = Outgoing {
        method: Method::GET,
        url,
        headers: HeaderMap::new(),
        payload: Payload::Empty,
    };
    let mut answer = endpoint.dialer.follow(&outgoing, login).await?;
    answer.is_own = false;
    Ok(answer)
}

/// The user of a Basic `Authorization`: the `account` of a token request.
fn user_of(login: &HeaderValue) -> Option<String> {
    let (_, encoded) = login.to_str().ok()?.split_once(' ')?;
    let text = base64::prelude::BASE64_STANDARD
        .decode(encoded.trim())
        .ok()?;
    let text = String::from_utf8(text).ok()?;
    let (user, _) = text.split_once(':')?;
    (!user.is_empty()).then(|| user.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_the_part_before_the_colon() {
        let user = |text: &'static str| user_of(&HeaderValue::from_static(text));
        assert_eq!(user("Basic YW5uOmE6Yg==").as_deref(), Some("ann"));
        for none in ["Basic OnA=", "Basic YW5u", "Basic !", "Basic"] {
            assert_eq!(user(none), None, "{none}");
        }
    }
}
