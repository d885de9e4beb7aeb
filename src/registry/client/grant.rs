//! Tokens for the clients of a proxy, which bring their own user and password.
//!
//! The registry says by a challenge what it wants; its token server is asked with the client's
//! password, under the same rules as with our own. Nothing of it is kept but the challenge.

use std::time::{Duration, Instant};

use base64::Engine as _;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use parking_lot::Mutex;
use url::Url;

use super::answer::Answer;
use super::auth::{Known, best};
use super::challenge::challenges;
use super::dialer::{Outgoing, place};
use super::endpoint::Endpoint;
use super::payload::Payload;
use super::retry::Failure;
use super::scope::Scopes;
use super::{Registry, repeated, token};
use crate::registry::Error;

/// How long a registry's answer to `/v2/` is remembered.
const REMEMBERED: Duration = Duration::from_mins(1);

/// What a client presents to a registry.
#[derive(Debug, Clone)]
pub enum Grant {
    /// Nothing.
    Open,
    /// Its user and password, which were not refused.
    Basic,
    /// A token.
    Bearer(GrantedToken),
}

/// A token that a registry's token server gave.
#[derive(Debug, Clone)]
pub struct GrantedToken {
    /// The value of `Authorization`: `Bearer` and the token.
    pub header: HeaderValue,
    /// How long it lives, if that was stated.
    pub expires_in: Option<Duration>,
    /// Since when, as it was stated.
    pub issued_at: Option<String>,
}

/// What an endpoint asked for at `/v2/`, for a while.
#[derive(Debug, Default)]
pub(super) struct Greeting(Mutex<Option<(Instant, Known)>>);

impl Greeting {
    fn remembered(&self) -> Option<Known> {
        let kept = self.0.lock();
        let (since, known) = kept.as_ref()?;
        (since.elapsed() < REMEMBERED).then(|| known.clone())
    }

    fn remember(&self, known: &Known) {
        let mut kept = self.0.lock();
        *kept = Some((Instant::now(), known.clone()));
    }
}

impl Registry {
    /// As [`Upstream::grant`](crate::registry::Upstream::grant).
    pub(in crate::registry) async fn grant(
        &self,
        scopes: &[String],
        login: Option<&HeaderValue>,
    ) -> Result<Grant, Error> {
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
        let asking = repeated(endpoint, || grant(endpoint, &scopes, login));
        tokio::time::timeout(after, Box::pin(asking))
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

async fn grant(
    endpoint: &Endpoint,
    scopes: &Scopes,
    login: Option<&HeaderValue>,
) -> Result<Grant, Failure> {
    let (known, asked_at) = wanted(endpoint, scopes).await?;
    match (known, login) {
        // A registry may have both, and then says so of each repository.
        (Known::Open, _) | (Known::Basic, None) => Ok(Grant::Open),
        (Known::Basic, Some(login)) => {
            let answer = ask(endpoint, asked_at, Some(login)).await?;
            if answer.status() == StatusCode::UNAUTHORIZED {
                return Err(answer.failure().await);
            }
            settled(answer).await?;
            Ok(Grant::Basic)
        }
        (Known::Bearer { realm, service }, login) => {
            let account = login.and_then(user_of);
            let outgoing = token::get(&realm, service.as_deref(), scopes, account.as_deref());
            let given = token::exchange(&outgoing, login, false, &endpoint.dialer).await?;
            Ok(Grant::Bearer(GrantedToken {
                header: given.header,
                expires_in: given.expires_in,
                issued_at: given.issued_at,
            }))
        }
    }
}

/// What the registry asks for, and where it did. One that lets everyone in at `/v2/` may still
/// guard repositories.
async fn wanted(endpoint: &Endpoint, scopes: &Scopes) -> Result<(Known, Url), Failure> {
    let root = endpoint.url("");
    let greeting = if let Some(known) = endpoint.greeting.remembered() {
        known
    } else {
        let known = challenged(endpoint, root.clone()).await?;
        endpoint.greeting.remember(&known);
        known
    };
    match (greeting, scopes.repo()) {
        (Known::Open, Some(repo)) => {
            let mut tags = endpoint.url(&format!("{repo}/tags/list"));
            tags.query_pairs_mut().append_pair("n", "1");
            Ok((challenged(endpoint, tags.clone()).await?, tags))
        }
        (known, _) => Ok((known, root)),
    }
}

/// What an address of the registry asks for.
async fn challenged(endpoint: &Endpoint, url: Url) -> Result<Known, Failure> {
    let answer = ask(endpoint, url, None).await?;
    if answer.status() != StatusCode::UNAUTHORIZED {
        settled(answer).await?;
        return Ok(Known::Open);
    }
    // A challenge of where a redirect led to is not the registry's.
    if answer.at_home {
        let offered = challenges(answer.response.headers());
        if let Some((known, _)) = best(&answer.place, &offered, &endpoint.dialer)? {
            answer.drain().await;
            return Ok(known);
        }
    }
    Err(answer.failure().await)
}

/// Reads an answer away that is no challenge. What else it says will be said of the client's own
/// request too.
async fn settled(answer: Answer) -> Result<(), Failure> {
    let status = answer.status();
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Err(answer.failure().await);
    }
    answer.drain().await;
    Ok(())
}

async fn ask(
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

/// The user of a `Basic` authorization, which token servers are told besides.
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
    fn the_user_of_a_login_is_what_stands_before_the_colon() {
        let user = |text: &'static str| user_of(&HeaderValue::from_static(text));
        assert_eq!(user("Basic YW5uOmE6Yg==").as_deref(), Some("ann"));
        for none in ["Basic OnA=", "Basic YW5u", "Basic !", "Basic"] {
            assert_eq!(user(none), None, "{none}");
        }
    }
}
