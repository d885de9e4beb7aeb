//! What clients are asked for that bring credentials of their own, where the path of a request
//! chooses the upstream.
//!
//! Docker, containers/image and go-containerregistry ask for `/v2/` once, and authenticate for
//! all repositories as its challenge says; containerd takes the first challenge of any repository.
//! Upstreams differ in how they authenticate, and their token servers do not know the prefixes. So
//! whatever an upstream wants, the challenge is the proxy's own, and leads to its token endpoint.

use std::borrow::Cow;
use std::fmt::Write as _;

use http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, Response, StatusCode, request};

use crate::registry::{Upstream, challenges, needed_scopes};
use crate::server::access::scope;
use crate::server::access::wrapped_token::{self, Carried, Seal};
use crate::server::error::ApiError;
use crate::server::http::body::ResponseBody;
use crate::server::http::host;
use crate::server::state::AppState;
use crate::server::upstreams::Chosen;

/// Where tokens are had, at the root or below a prefix. No repository begins with `_`.
pub(in crate::server) const TOKEN_PATH: &str = "/v2/_token";

const SERVICE: &str = "overlaybd-proxy";
/// Longest text of an upstream's challenge that is passed on, in bytes.
const MAX_TEXT_BYTES: usize = 4096;

/// How a client is asked for credentials for what it requests.
#[derive(Debug)]
pub(in crate::server) struct Asking {
    /// The token endpoint; `None` where the request does not say what the proxy is called.
    realm: Option<String>,
    prefix: Option<String>,
    /// What the request needs, as the client knows it.
    scope: String,
    /// Whether it came with credentials.
    has_credentials: bool,
}

impl Asking {
    /// Where clients authenticate by themselves and the path chose the upstream.
    pub fn new(state: &AppState, parts: &request::Parts, chosen: &Chosen<'_>) -> Option<Self> {
        if state.is_own() || !chosen.is_by_path || !state.upstreams.are_by_path() {
            return None;
        }
        let prefix = chosen.mount.prefix.as_deref();
        let below = chosen.path.strip_prefix("/v2/").unwrap_or_default();
        let query = chosen.query.as_deref().unwrap_or_default();
        let needed = needed_scopes(&parts.method, below, query);
        let needed: Vec<String> = needed.iter().map(|one| scope::below(prefix, one)).collect();
        let below = chosen.mount.root.unwrap_or_default();
        let root = host::external(parts, state.config.tls.is_some());
        Some(Self {
            realm: root.map(|root| match prefix {
                Some(prefix) => format!("{root}{below}/v2/{prefix}/_token"),
                None => format!("{root}{below}{TOKEN_PATH}"),
            }),
            prefix: prefix.map(ToOwned::to_owned),
            scope: needed.join(" "),
            has_credentials: parts.headers.contains_key(AUTHORIZATION),
        })
    }

    /// The challenge for these scopes.
    fn challenge(&self, scope: &str, error: Option<&str>) -> Option<HeaderValue> {
        let realm = self.realm.as_deref()?;
        let mut text = format!("Bearer realm=\"{realm}\",service=\"{SERVICE}\"");
        for (name, value) in [("scope", Some(scope)), ("error", error)] {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                let _ = write!(text, ",{name}=\"{value}\"");
            }
        }
        HeaderValue::from_str(&text).ok()
    }

    /// That credentials are needed, or are not for this.
    fn failure(&self, error: Option<&str>) -> ApiError {
        let text = match error {
            None => "credentials are needed",
            Some(_) => "this token is not for what it is used for here: ask for another",
        };
        let failure = ApiError::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", text);
        match self.challenge(&self.scope, error) {
            Some(challenge) => failure.with(WWW_AUTHENTICATE, challenge),
            None => failure,
        }
    }

    /// Puts the proxy's own challenge into the place of an upstream's that it can answer.
    pub fn rewrite(&self, headers: &mut HeaderMap) {
        if !headers.contains_key(WWW_AUTHENTICATE) {
            return;
        }
        let offered = challenges(headers);
        let bearer = offered
            .iter()
            .find(|one| one.is("bearer") && one.parameter("realm").is_some());
        let (scope, error) = match bearer {
            Some(bearer) => {
                let scope = quotable(bearer.parameter("scope").unwrap_or_default());
                let scopes = scope.split_ascii_whitespace();
                let scopes = scopes.map(|one| scope::below(self.prefix.as_deref(), one));
                let error = bearer.parameter("error").map(quotable);
                (scopes.collect::<Vec<_>>().join(" "), error)
            }
            None if offered.iter().any(|one| one.is("basic")) => {
                // containerd then sees that trying again is of no use.
                let error = self
                    .has_credentials
                    .then_some(Cow::Borrowed("invalid_token"));
                (String::new(), error)
            }
            None => return,
        };
        let scope = if scope.is_empty() {
            &self.scope
        } else {
            &scope
        };
        if let Some(challenge) = self.challenge(scope, error.as_deref()) {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
    }

    /// The answer to `GET /v2/` at the root, which stands for all upstreams.
    ///
    /// # Errors
    /// The challenge.
    pub fn ping(&self, state: &AppState, headers: &HeaderMap) -> Result<(), ApiError> {
        let upstreams = &state.upstreams;
        let is_layout = |place| matches!(upstreams.get(place), Some(Upstream::Layout(_)));
        if upstreams.by_path().all(is_layout) {
            return Ok(());
        }
        match headers.get(AUTHORIZATION) {
            None => Err(self.failure(None)),
            // Any token of the proxy's own: which upstream it is for is seen there.
            Some(given) if wrapped_token::unwrap(given, &Seal::of("")) != Carried::Other => Ok(()),
            Some(given) => {
                let error = wrapped_token::is_bearer(given).then_some("invalid_token");
                Err(self.failure(error))
            }
        }
    }
}

/// As much of an upstream's text as may stand in a quoted string.
fn quotable(text: &str) -> Cow<'_, str> {
    let is_good = |c: char| (c == ' ' || c.is_ascii_graphic()) && c != '"' && c != '\\';
    if text.len() <= MAX_TEXT_BYTES && text.chars().all(is_good) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(
        text.chars()
            .filter(|c| is_good(*c))
            .take(MAX_TEXT_BYTES)
            .collect(),
    )
}

/// Puts into a request's head what the upstream takes, in the place of a token of the proxy's.
/// What is for another upstream does not go to this one: bearer tokens of unknown origin neither,
/// where the client was to ask for one here.
///
/// # Errors
/// The challenge, where the token is not for this upstream.
pub(in crate::server) fn admit(
    headers: &mut HeaderMap,
    seal: &Seal,
    asking: Option<&Asking>,
) -> Result<(), ApiError> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let Some(first) = given.next() else {
        return Ok(());
    };
    // There can be one (RFC 9110 § 11.6.2); which of several an upstream reads is not known.
    let is_one = given.next().is_none();
    let carried = match wrapped_token::unwrap(first, seal) {
        Carried::Other if is_one => match asking {
            Some(asking) if wrapped_token::is_bearer(first) => {
                return Err(asking.failure(Some("invalid_token")));
            }
            _ => return Ok(()),
        },
        Carried::For(value) if is_one => Some(value),
        _ if is_one => None,
        // Without a token of ours among them they are the upstream's business.
        _ if asking.is_none() && !has_own(headers, seal) => return Ok(()),
        _ => None,
    };
    match (carried, asking) {
        (Some(Some(value)), _) => {
            headers.insert(AUTHORIZATION, value);
        }
        // Where the proxy's challenge is not shown, the upstream's own is.
        (Some(None), _) | (None, None) => {
            headers.remove(AUTHORIZATION);
        }
        (None, Some(asking)) => return Err(asking.failure(Some("insufficient_scope"))),
    }
    Ok(())
}

fn has_own(headers: &HeaderMap, seal: &Seal) -> bool {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    given.any(|one| wrapped_token::unwrap(one, seal) != Carried::Other)
}

/// A response, or the error instead, with challenges that the client can answer.
pub(in crate::server) fn finish(
    answer: Result<Response<ResponseBody>, ApiError>,
    asking: Option<&Asking>,
) -> Result<Response<ResponseBody>, ApiError> {
    let Some(asking) = asking else {
        return answer;
    };
    match answer {
        Ok(mut response) => {
            asking.rewrite(response.headers_mut());
            Ok(response)
        }
        Err(mut failure) => {
            asking.rewrite(failure.headers_mut());
            Err(failure)
        }
    }
}
