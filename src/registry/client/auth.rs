//! The `Authorization` of our own requests to one endpoint.

use std::collections::HashMap;

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

/// What is known of how an endpoint authenticates, and what for.
#[derive(Debug)]
pub(super) struct Auth {
    credentials: CredentialProvider,
    tokens: Tokens,
    known: Mutex<Option<Known>>,
    /// Scopes that were not enough, and those that the endpoint asked for then.
    wider: Mutex<HashMap<Scopes, Scopes>>,
}

/// Most scopes remembered.
const MAX_WIDER: usize = 10_000;

/// What the endpoint asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// It has let a request without credentials pass.
    Open,
    Basic,
    Bearer {
        realm: Url,
        service: Option<String>,
    },
}

/// A header, and what it was made of.
#[derive(Debug, Clone)]
pub(super) struct Presented {
    pub(super) header: HeaderValue,
    login: Login,
    token: Option<TokenKey>,
}

impl Auth {
    pub(super) fn new(credentials: CredentialProvider) -> Self {
        Self {
            credentials,
            tokens: Tokens::new(),
            known: Mutex::new(None),
            wider: Mutex::new(HashMap::new()),
        }
    }

    fn known(&self) -> Option<Known> {
        self.known.lock().clone()
    }

    fn learn(&self, known: Known) {
        *self.known.lock() = Some(known);
    }

    /// Whether it is not known yet what the endpoint asks for.
    pub(super) fn is_unknown(&self) -> bool {
        self.known().is_none()
    }

    /// Remembers that a request without credentials passed.
    pub(super) fn learn_open(&self) {
        let mut known = self.known.lock();
        if known.is_none() {
            *known = Some(Known::Open);
        }
    }

    /// These scopes, and what the endpoint is known to want besides.
    fn widened(&self, scopes: &Scopes) -> Scopes {
        let wider = self.wider.lock();
        wider.get(scopes).unwrap_or(scopes).clone()
    }

    fn widen(&self, scopes: &Scopes, asked: Scopes) {
        let joined = scopes.clone().and(asked);
        if joined != *scopes {
            let mut wider = self.wider.lock();
            if wider.len() >= MAX_WIDER {
                wider.clear();
            }
            wider.insert(scopes.clone(), joined);
        }
    }

    /// What to present, by what is known.
    pub(super) async fn present(
        &self,
        scopes: &Scopes,
        dialer: &Dialer,
        retry: RetryPolicy,
    ) -> Result<Option<Presented>, Error> {
        match self.known() {
            None | Some(Known::Open) => Ok(None),
            Some(Known::Basic) => {
                let login = self.credentials.login(scopes.repo()).await?;
                Ok(login.basic().map(|header| Presented {
                    header,
                    login,
                    token: None,
                }))
            }
            Some(Known::Bearer { realm, service }) => {
                let login = self.credentials.login(scopes.repo()).await?;
                let key = TokenKey {
                    realm,
                    service,
                    scopes: self.widened(scopes),
                    login: login.clone(),
                };
                let header = self.tokens.get(&key, dialer, retry).await?;
                Ok(Some(Presented {
                    header,
                    login,
                    token: Some(key),
                }))
            }
        }
    }

    /// What to present after a 401: `None` if there is nothing else than what was refused.
    pub(super) async fn answer(
        &self,
        place: &str,
        headers: &HeaderMap,
        refused: Option<&Presented>,
        scopes: &Scopes,
        dialer: &Dialer,
        retry: RetryPolicy,
    ) -> Result<Option<Presented>, Error> {
        let Some((known, asked)) = self.choose(place, &challenges(headers), dialer)? else {
            return Ok(None);
        };
        if let Some(refused) = refused {
            self.credentials.forget(&refused.login);
            if let Some(key) = &refused.token {
                self.tokens.forget(key, &refused.header).await;
            }
        }
        self.learn(known);
        self.widen(scopes, asked);
        let presented = self.present(scopes, dialer, retry).await?;
        Ok(presented.filter(|new| refused.is_none_or(|old| old.header != new.header)))
    }

    /// Remembers what a 401 asks for, without asking for a token yet.
    pub(super) fn learn_challenge(
        &self,
        place: &str,
        headers: &HeaderMap,
        dialer: &Dialer,
    ) -> Result<(), Error> {
        if let Some((known, _)) = self.choose(place, &challenges(headers), dialer)? {
            self.learn(known);
        }
        Ok(())
    }

    /// The best challenge that we can meet, and the scopes that it names.
    fn choose(
        &self,
        place: &str,
        offered: &[Challenge],
        dialer: &Dialer,
    ) -> Result<Option<(Known, Scopes)>, Error> {
        let best = best(place, offered, dialer)?;
        // Without a password there is nothing to answer it with.
        Ok(best.filter(|(known, _)| *known != Known::Basic || !self.credentials.is_anonymous()))
    }
}

/// The best of some challenges, and the scopes that it names. A realm is one that may be asked.
pub(super) fn best(
    place: &str,
    offered: &[Challenge],
    dialer: &Dialer,
) -> Result<Option<(Known, Scopes)>, Error> {
    if let Some(bearer) = offered.iter().find(|challenge| challenge.is("bearer"))
        && let Some(realm) = bearer.parameter("realm")
    {
        let realm: Url = realm
            .parse()
            .map_err(|_| Error::invalid(place, "the challenge's realm is no address"))?;
        dialer.check_realm(place, &realm)?;
        let service = bearer.parameter("service").map(str::to_owned);
        let scopes = Scopes::parse(bearer.parameter("scope").unwrap_or_default());
        return Ok(Some((Known::Bearer { realm, service }, scopes)));
    }
    let is_basic = offered.iter().any(|challenge| challenge.is("basic"));
    Ok(is_basic.then(|| (Known::Basic, Scopes::default())))
}
