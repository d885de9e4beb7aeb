//! The `Authorization` of requests to one endpoint with the program's own credentials.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use url::Url;

use super::challenge::{Challenge, challenges};
use super::credentials::CredentialProvider;
use super::dialer::Dialer;
use super::login::Login;
use super::scope::Scopes;
use super::token::{TokenKey, Tokens};
use crate::registry::{Error, RetryPolicy};

/// How an endpoint authenticates, as far as that is known, with credentials and tokens.
#[derive(Debug)]
pub(super) struct Auth {
    credentials: CredentialProvider,
    tokens: Tokens,
    scheme: Mutex<Option<AuthScheme>>,
    /// Scopes that were insufficient, with those that the challenge named then.
    extended_scopes: Mutex<HashMap<Scopes, Scopes>>,
}

/// Most entries of `extended_scopes`.
const MAX_EXTENDED_SCOPES: usize = 10_000;
/// How long the scheme that clients have to use is cached.
const SCHEME_LIFETIME: Duration = Duration::from_mins(1);

/// An authentication scheme, by the challenge of a 401.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AuthScheme {
    /// A request without credentials was accepted.
    Anonymous,
    Basic,
    Bearer {
        realm: Url,
        service: Option<String>,
    },
}

/// The scheme of an endpoint for clients with credentials of their own, cached for a while.
#[derive(Debug, Default)]
pub(super) struct CachedScheme(Mutex<Option<(Instant, AuthScheme)>>);

impl CachedScheme {
    pub(super) fn get(&self) -> Option<AuthScheme> {
        let cached = self.0.lock();
        let (since, scheme) = cached.as_ref()?;
        (since.elapsed() < SCHEME_LIFETIME).then(|| scheme.clone())
    }

    pub(super) fn set(&self, scheme: &AuthScheme) {
        *self.0.lock() = Some((Instant::now(), scheme.clone()));
    }
}

/// The value of `Authorization`, with the credentials and the token that it was made of.
#[derive(Debug, Clone)]
pub(super) struct AuthorizationHeader {
    pub(super) value: HeaderValue,
    login: Login,
    token: Option<TokenKey>,
}

impl Auth {
    pub(super) fn new(credentials: CredentialProvider) -> Self {
        Self {
            credentials,
            tokens: Tokens::new(),
            scheme: Mutex::new(None),
            extended_scopes: Mutex::new(HashMap::new()),
        }
    }

    /// Whether there are credentials for the host itself.
    pub(super) async fn has_credentials(&self) -> Result<bool, Error> {
        Ok(self.credentials.login(None).await? != Login::Anonymous)
    }

    fn scheme(&self) -> Option<AuthScheme> {
        self.scheme.lock().clone()
    }

    fn set_scheme(&self, scheme: AuthScheme) {
        *self.scheme.lock() = Some(scheme);
    }

    /// Whether the endpoint's scheme is known.
    pub(super) fn has_scheme(&self) -> bool {
        self.scheme().is_some()
    }

    /// Records that a request without credentials was accepted.
    pub(super) fn set_anonymous(&self) {
        self.scheme.lock().get_or_insert(AuthScheme::Anonymous);
    }

    /// These scopes, with those that the endpoint asked for besides.
    fn extended(&self, scopes: &Scopes) -> Scopes {
        let extended = self.extended_scopes.lock();
        extended.get(scopes).unwrap_or(scopes).clone()
    }

    fn extend(&self, scopes: &Scopes, challenged: Scopes) {
        let union = scopes.clone().union(challenged);
        if union != *scopes {
            let mut extended = self.extended_scopes.lock();
            if extended.len() >= MAX_EXTENDED_SCOPES {
                extended.clear();
            }
            extended.insert(scopes.clone(), union);
        }
    }

    /// The header for a request, by the scheme that is known.
    pub(super) async fn authorize(
        &self,
        scopes: &Scopes,
        dialer: &Dialer,
        retry: RetryPolicy,
    ) -> Result<Option<AuthorizationHeader>, Error> {
        match self.scheme() {
            None | Some(AuthScheme::Anonymous) => Ok(None),
            Some(AuthScheme::Basic) => {
                let login = self.credentials.login(scopes.repo()).await?;
                Ok(login.basic().map(|value| AuthorizationHeader {
                    value,
                    login,
                    token: None,
                }))
            }
            Some(AuthScheme::Bearer { realm, service }) => {
                let login = self.credentials.login(scopes.repo()).await?;
                let mut key = TokenKey {
                    realm,
                    service,
                    scopes: self.extended(scopes),
                    login,
                };
                let value = match self.tokens.get(&key, dialer, retry).await {
                    // A helper's credentials may have ended before their time.
                    Err(error) if is_refusal(&error) && self.credentials.forget(&key.login) => {
                        let login = self.credentials.login(scopes.repo()).await?;
                        if login == key.login {
                            return Err(error);
                        }
                        key.login = login;
                        self.tokens.get(&key, dialer, retry).await?
                    }
                    found => found?,
                };
                Ok(Some(AuthorizationHeader {
                    value,
                    login: key.login.clone(),
                    token: Some(key),
                }))
            }
        }
    }

    /// The header for another request after a 401; `None` if it would be the refused one.
    pub(super) async fn answer_challenge(
        &self,
        place: &str,
        headers: &HeaderMap,
        refused: Option<&AuthorizationHeader>,
        scopes: &Scopes,
        dialer: &Dialer,
        retry: RetryPolicy,
    ) -> Result<Option<AuthorizationHeader>, Error> {
        let Some((scheme, challenged)) = self.choose(place, &challenges(headers), dialer)? else {
            return Ok(None);
        };
        if let Some(refused) = refused {
            self.credentials.forget(&refused.login);
            if let Some(key) = &refused.token {
                self.tokens.forget(key, &refused.value).await;
            }
        }
        self.set_scheme(scheme);
        self.extend(scopes, challenged);
        let header = self.authorize(scopes, dialer, retry).await?;
        Ok(header.filter(|new| refused.is_none_or(|old| old.value != new.value)))
    }

    /// Records the scheme of a 401, without requesting a token yet.
    pub(super) fn set_scheme_of(
        &self,
        place: &str,
        headers: &HeaderMap,
        dialer: &Dialer,
    ) -> Result<(), Error> {
        if let Some((scheme, _)) = self.choose(place, &challenges(headers), dialer)? {
            self.set_scheme(scheme);
        }
        Ok(())
    }

    /// The preferred scheme for which there are credentials, and the scopes of its challenge.
    fn choose(
        &self,
        place: &str,
        challenges: &[Challenge],
        dialer: &Dialer,
    ) -> Result<Option<(AuthScheme, Scopes)>, Error> {
        let preferred = preferred_scheme(place, challenges, dialer)?;
        Ok(preferred
            .filter(|(scheme, _)| *scheme != AuthScheme::Basic || !self.credentials.is_anonymous()))
    }
}

/// Whether a token server does not take credentials (RFC 6749 § 5.2 has 400 for refresh tokens).
fn is_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::Unauthorized { .. } | Error::Forbidden { .. } | Error::Upstream { status: 400, .. }
    )
}

/// The preferred scheme of some challenges (Bearer before Basic), and the scopes of its challenge.
///
/// # Errors
/// If requests to the realm are not allowed.
pub(super) fn preferred_scheme(
    place: &str,
    challenges: &[Challenge],
    dialer: &Dialer,
) -> Result<Option<(AuthScheme, Scopes)>, Error> {
    if let Some(bearer) = challenges.iter().find(|challenge| challenge.is("bearer"))
        && let Some(realm) = bearer.parameter("realm")
    {
        let realm: Url = realm
            .parse()
            .map_err(|_| Error::invalid(place, "the challenge's realm is no address"))?;
        dialer.check_realm(place, &realm)?;
        let service = bearer.parameter("service").map(str::to_owned);
        let scopes = Scopes::parse(bearer.parameter("scope").unwrap_or_default());
        return Ok(Some((AuthScheme::Bearer { realm, service }, scopes)));
    }
    let is_basic = challenges.iter().any(|challenge| challenge.is("basic"));
    Ok(is_basic.then(|| (AuthScheme::Basic, Scopes::default())))
}
