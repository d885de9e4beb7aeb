//! Bearer tokens: requested from the realm, cached until they expire.
//! Source: distribution's `docs/spec/auth/token.md` and `oauth.md`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use moka::Expiry;
use moka::future::Cache;
use serde::Deserialize;
use url::Url;

use super::dialer::{Dialer, Outgoing, place};
use super::login::Login;
use super::payload::Payload;
use super::retry::{Attempts, Failure};
use super::scope::Scopes;
use crate::registry::{Error, RetryPolicy};
use crate::telemetry;

/// Most bytes of a token response.
const MAX_RESPONSE: usize = 1 << 20;
/// The lifetime without `expires_in`, by the specification.
const DEFAULT_LIFETIME: Duration = Duration::from_mins(1);
/// The longest time that a token is cached.
const MAX_LIFETIME: Duration = Duration::from_hours(1);
/// Most tokens cached.
const MAX_TOKENS: u64 = 10_000;

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    pub(super) realm: Url,
    pub(super) service: Option<String>,
    pub(super) scopes: Scopes,
    pub(super) login: Login,
}

/// A token and how long it is cached.
#[derive(Debug, Clone)]
pub(super) struct Token {
    /// The value of `Authorization`.
    pub(super) header: HeaderValue,
    lifetime: Duration,
}

impl From<TokenResponse> for Token {
    fn from(response: TokenResponse) -> Self {
        let stated = response
            .expires_in
            .unwrap_or(DEFAULT_LIFETIME)
            .min(MAX_LIFETIME);
        // It must still be valid when a request with it arrives.
        let lifetime = stated.saturating_sub((stated / 5).min(Duration::from_secs(30)));
        Self {
            header: response.header,
            lifetime,
        }
    }
}

/// The response of a token server.
#[derive(Debug, Clone)]
pub(super) struct TokenResponse {
    /// The value of `Authorization`.
    pub(super) header: HeaderValue,
    /// The lifetime of the token, if there is one.
    pub(super) expires_in: Option<Duration>,
    /// When it begins, as written.
    pub(super) issued_at: Option<String>,
}

/// The tokens of one registry. There is one request at a time for each.
#[derive(Debug, Clone)]
pub(super) struct Tokens(Cache<TokenKey, Token>);

struct ByLifetime;

impl Expiry<TokenKey, Token> for ByLifetime {
    fn expire_after_create(&self, _: &TokenKey, token: &Token, _: Instant) -> Option<Duration> {
        Some(token.lifetime)
    }
}

impl Tokens {
    pub(super) fn new() -> Self {
        Self(
            Cache::builder()
                .max_capacity(MAX_TOKENS)
                .expire_after(ByLifetime)
                .build(),
        )
    }

    /// A token, from the cache or from its realm.
    pub(super) async fn get(
        &self,
        key: &TokenKey,
        dialer: &Dialer,
        retry: RetryPolicy,
    ) -> Result<HeaderValue, Error> {
        let timeouts = &dialer.timeouts;
        let after = timeouts.connect.saturating_add(timeouts.response);
        // On the heap, because it is large, and every request's future would be.
        let fetching = Box::pin(async {
            let mut attempts = Attempts::new(retry);
            loop {
                match telemetry::resent(attempts.failed(), fetch(key, dialer)).await {
                    Ok(token) => return Ok(token),
                    Err(failure) => attempts.pause(failure).await?,
                }
            }
        });
        // For all attempts together: the request that needs the token has attempts of its own.
        let fetching = async {
            tokio::time::timeout(after, fetching)
                .await
                .unwrap_or_else(|_| {
                    Err(Error::TimedOut {
                        place: place(&Method::GET, &key.realm),
                        what: "token",
                        after,
                    })
                })
        };
        match self.0.try_get_with_by_ref(key, fetching).await {
            Ok(token) => Ok(token.header),
            Err(error) => Err(Arc::<Error>::unwrap_or_clone(error)),
        }
    }

    /// Removes a token that was refused, unless another has replaced it.
    pub(super) async fn forget(&self, key: &TokenKey, refused: &HeaderValue) {
        if self
            .0
            .get(key)
            .await
            .is_some_and(|token| token.header == *refused)
        {
            self.0.invalidate(key).await;
        }
    }
}

async fn fetch(key: &TokenKey, dialer: &Dialer) -> Result<Token, Failure> {
    let (outgoing, authorization) = request(key);
    let response = send(&outgoing, authorization.as_ref(), true, dialer).await?;
    Ok(response.into())
}

/// Sends a token request once; `is_own` where the credentials are the program's own.
pub(super) async fn send(
    outgoing: &Outgoing,
    authorization: Option<&HeaderValue>,
    is_own: bool,
    dialer: &Dialer,
) -> Result<TokenResponse, Failure> {
    let place = place(&outgoing.method, &outgoing.url);
    let mut answer = dialer.follow(outgoing, authorization).await?;
    answer.is_own = is_own;
    let answer = answer.expect(&[StatusCode::OK]).await?;
    let body = answer.document(MAX_RESPONSE).await?;
    Ok(parse(&body).map_err(|detail| Error::Invalid { place, detail })?)
}

/// The token request: a GET, or a POST with a refresh token.
fn request(key: &TokenKey) -> (Outgoing, Option<HeaderValue>) {
    if let Login::Identity(token) = &key.login {
        let mut headers = json_headers();
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token");
        form.append_pair("client_id", "overlaybd-proxy");
        form.append_pair("service", key.service.as_deref().unwrap_or_default());
        let scopes: Vec<String> = key.scopes.to_strings().collect();
        form.append_pair("scope", &scopes.join(" "));
        form.append_pair("refresh_token", token.expose());
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        let outgoing = Outgoing {
            method: Method::POST,
            url: key.realm.clone(),
            headers,
            payload: Payload::Bytes(form.finish().into()),
        };
        return (outgoing, None);
    }
    let account = match &key.login {
        Login::Basic { username, .. } => Some(username.as_str()),
        _ => None,
    };
    let outgoing = get_request(&key.realm, key.service.as_deref(), &key.scopes, account);
    (outgoing, key.login.basic())
}

fn json_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers
}

/// The token request by GET.
pub(super) fn get_request(
    realm: &Url,
    service: Option<&str>,
    scopes: &Scopes,
    account: Option<&str>,
) -> Outgoing {
    let mut url = realm.clone();
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        for scope in scopes.to_strings() {
            query.append_pair("scope", &scope);
        }
        if let Some(account) = account {
            query.append_pair("account", account);
        }
    }
    Outgoing {
        method: Method::GET,
        url,
        headers: json_headers(),
        payload: Payload::Empty,
    }
}

fn parse(body: &[u8]) -> Result<TokenResponse, String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        token: Option<String>,
        #[serde(default)]
        access_token: Option<String>,
        #[serde(default)]
        expires_in: serde_json::Value,
        #[serde(default)]
        issued_at: serde_json::Value,
    }
    // The parser's message could repeat a part of the token.
    let document: Document =
        serde_json::from_slice(body).map_err(|_| "it is no token document".to_owned())?;
    let token = [document.token, document.access_token]
        .into_iter()
        .flatten()
        .find(|token| !token.is_empty())
        .ok_or("there is no token in it")?;
    let mut header = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| "its token has characters that no header may have".to_owned())?;
    header.set_sensitive(true);
    let seconds = match &document.expires_in {
        serde_json::Value::String(text) => text.parse().ok(),
        value => value.as_f64(),
    };
    let expires_in = seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|lifetime| !lifetime.is_zero());
    let issued_at = document.issued_at.as_str().map(str::to_owned);
    Ok(TokenResponse {
        header,
        expires_in,
        issued_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Secret;

    fn key(login: Login) -> TokenKey {
        TokenKey {
            realm: "https://auth.example/token?x=1".parse().unwrap(),
            service: Some("a service".to_owned()),
            scopes: Scopes::parse("repository:a:pull repository:b:push"),
            login,
        }
    }

    #[test]
    fn a_token_request_has_service_scopes_and_account() {
        let login = Login::Basic {
            username: "me".to_owned(),
            password: Secret::new("pass"),
        };
        let (outgoing, authorization) = request(&key(login));
        assert_eq!(
            outgoing.url.query().unwrap(),
            "x=1&service=a+service&scope=repository%3Aa%3Apull&scope=repository%3Ab%3Apush&account=me"
        );
        assert_eq!(authorization.unwrap(), "Basic bWU6cGFzcw==");
    }

    #[test]
    fn a_refresh_token_is_sent_by_post() {
        let (outgoing, authorization) = request(&key(Login::Identity(Secret::new("r&t"))));
        let Payload::Bytes(form) = &outgoing.payload else {
            panic!("a form is expected");
        };
        assert!(form.ends_with(b"&refresh_token=r%26t") && authorization.is_none());
        assert_eq!(outgoing.method, Method::POST);
    }

    #[test]
    fn a_token_is_cached_for_less_than_its_lifetime() {
        let lifetime = |text: &str| {
            Token::from(parse(text.as_bytes()).unwrap())
                .lifetime
                .as_secs()
        };
        assert_eq!(lifetime(r#"{"token":"x"}"#), 48);
        assert_eq!(lifetime(r#"{"access_token":"x","expires_in":300}"#), 270);
        assert_eq!(lifetime(r#"{"token":"x","expires_in":"300"}"#), 270);
        assert_eq!(lifetime(r#"{"token":"x","expires_in":-1}"#), 48);
        assert_eq!(lifetime(r#"{"token":"x","expires_in":1e9}"#), 3570);
        assert_eq!(lifetime(r#"{"token":"x","expires_in":1e300}"#), 48);
    }

    #[test]
    fn an_invalid_token_response_is_an_error_that_does_not_quote_it() {
        for bad in ["", "[]", "{}", r#"{"token":""}"#, r#"{"token":"a\nb"}"#] {
            let error = parse(bad.as_bytes()).unwrap_err();
            assert!(!error.contains("a\nb"), "{error}");
        }
    }
}
