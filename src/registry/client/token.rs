//! Bearer tokens: asked of the realm, kept for as long as they live.
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

/// Longest answer of a token server, in bytes.
const MAX_ANSWER: usize = 1 << 20;
/// What a token lives when its server does not say: the least that the specification allows.
const DEFAULT_LIFE: Duration = Duration::from_mins(1);
/// Longer than this no token is kept.
const MAX_LIFE: Duration = Duration::from_hours(1);
/// Most tokens kept.
const MAX_TOKENS: u64 = 10_000;

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    pub(super) realm: Url,
    pub(super) service: Option<String>,
    pub(super) scopes: Scopes,
    pub(super) login: Login,
}

/// A token and how long it is used.
#[derive(Debug, Clone)]
pub(super) struct Token {
    /// The value of `Authorization`.
    pub(super) header: HeaderValue,
    life: Duration,
}

impl From<Document> for Token {
    fn from(document: Document) -> Self {
        let stated = document.expires_in.unwrap_or(DEFAULT_LIFE).min(MAX_LIFE);
        // It must still be good when a request with it arrives.
        let life = stated.saturating_sub((stated / 5).min(Duration::from_secs(30)));
        Self {
            header: document.header,
            life,
        }
    }
}

/// What a token server answers.
#[derive(Debug, Clone)]
pub(super) struct Document {
    /// The value of `Authorization`.
    pub(super) header: HeaderValue,
    /// How long the token lives, if that is stated.
    pub(super) expires_in: Option<Duration>,
    /// Since when, if that is stated.
    pub(super) issued_at: Option<String>,
}

/// The tokens of one registry. Those who need the same one wait for one request.
#[derive(Debug, Clone)]
pub(super) struct Tokens(Cache<TokenKey, Token>);

struct ByLife;

impl Expiry<TokenKey, Token> for ByLife {
    fn expire_after_create(&self, _: &TokenKey, token: &Token, _: Instant) -> Option<Duration> {
        Some(token.life)
    }
}

impl Tokens {
    pub(super) fn new() -> Self {
        Self(
            Cache::builder()
                .max_capacity(MAX_TOKENS)
                .expire_after(ByLife)
                .build(),
        )
    }

    /// The token for this, from memory or from its realm.
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
                match fetch(key, dialer).await {
                    Ok(token) => return Ok(token),
                    Err(failure) => attempts.pause(failure).await?,
                }
            }
        });
        // All attempts together: whatever needs the token has attempts of its own.
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

    /// Forgets a token that was refused; one that came meanwhile is kept.
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
    let document = exchange(&outgoing, authorization.as_ref(), true, dialer).await?;
    Ok(document.into())
}

/// Asks a token server once; `is_own` where the credentials are the program's own.
pub(super) async fn exchange(
    outgoing: &Outgoing,
    authorization: Option<&HeaderValue>,
    is_own: bool,
    dialer: &Dialer,
) -> Result<Document, Failure> {
    let place = place(&outgoing.method, &outgoing.url);
    let mut answer = dialer.follow(outgoing, authorization).await?;
    answer.is_own = is_own;
    let answer = answer.expect(&[StatusCode::OK]).await?;
    let body = answer.document(MAX_ANSWER).await?;
    Ok(read(&body).map_err(|detail| Error::Invalid { place, detail })?)
}

/// The request for a token: a GET, or a POST where we have a refresh token.
fn request(key: &TokenKey) -> (Outgoing, Option<HeaderValue>) {
    if let Login::Identity(token) = &key.login {
        let mut headers = accepting();
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token");
        form.append_pair("client_id", "overlaybd-proxy");
        form.append_pair("service", key.service.as_deref().unwrap_or_default());
        let scopes: Vec<String> = key.scopes.texts().collect();
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
    let outgoing = get(&key.realm, key.service.as_deref(), &key.scopes, account);
    (outgoing, key.login.basic())
}

fn accepting() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers
}

/// The request for a token by GET.
pub(super) fn get(
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
        for scope in scopes.texts() {
            query.append_pair("scope", &scope);
        }
        if let Some(account) = account {
            query.append_pair("account", account);
        }
    }
    Outgoing {
        method: Method::GET,
        url,
        headers: accepting(),
        payload: Payload::Empty,
    }
}

fn read(body: &[u8]) -> Result<Document, String> {
    #[derive(Deserialize)]
    struct Written {
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
    let document: Written =
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
        .filter(|life| !life.is_zero());
    let issued_at = document.issued_at.as_str().map(str::to_owned);
    Ok(Document {
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
    fn a_token_is_asked_for_with_service_scopes_and_account() {
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
    fn a_refresh_token_is_posted() {
        let (outgoing, authorization) = request(&key(Login::Identity(Secret::new("r&t"))));
        let Payload::Bytes(form) = &outgoing.payload else {
            panic!("a form is expected");
        };
        assert!(form.ends_with(b"&refresh_token=r%26t") && authorization.is_none());
        assert_eq!(outgoing.method, Method::POST);
    }

    #[test]
    fn a_token_is_used_a_little_shorter_than_it_lives() {
        let life = |text: &str| Token::from(read(text.as_bytes()).unwrap()).life.as_secs();
        assert_eq!(life(r#"{"token":"x"}"#), 48);
        assert_eq!(life(r#"{"access_token":"x","expires_in":300}"#), 270);
        assert_eq!(life(r#"{"token":"x","expires_in":"300"}"#), 270);
        assert_eq!(life(r#"{"token":"x","expires_in":-1}"#), 48);
        assert_eq!(life(r#"{"token":"x","expires_in":1e9}"#), 3570);
        assert_eq!(life(r#"{"token":"x","expires_in":1e300}"#), 48);
    }

    #[test]
    fn what_is_no_token_is_an_error_that_does_not_repeat_it() {
        for bad in ["", "[]", "{}", r#"{"token":""}"#, r#"{"token":"a\nb"}"#] {
            let error = read(bad.as_bytes()).unwrap_err();
            assert!(!error.contains("a\nb"), "{error}");
        }
    }
}
