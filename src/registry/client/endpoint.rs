//! One host that answers for the registry: the registry itself, or a mirror of it.

use http::{HeaderMap, Method, StatusCode};
use url::Url;

use super::answer::Answer;
use super::auth::{Auth, AuthorizationHeader, CachedScheme};
use super::credentials::CredentialProvider;
use super::dial::is_loopback;
use super::dialer::{Dialer, Outgoing, same_origin};
use super::egress::Routes;
use super::hosts_dir::{self, Capabilities, HostEntry};
use super::payload::Payload;
use super::retry::{Attempts, Failure};
use super::scope::Scopes;
use crate::oci::reference::{self, Scheme};
use crate::registry::{
    Authorization, Credentials, Error, RegistryConfig, Renewal, RetryPolicy, TlsOptions,
};
use crate::telemetry;

/// Most attempts of one request, each with newer credentials of clients.
const MAX_RENEWALS: u32 = 4;

/// A host with its connections, credentials and capabilities.
pub(super) struct Endpoint {
    /// Address of the API: up to and with `/v2`, without a slash at its end.
    base: Url,
    pub(super) dialer: Dialer,
    pub(super) auth: Auth,
    /// The scheme for clients with credentials of their own.
    pub(super) client_scheme: CachedScheme,
    pub(super) can: Capabilities,
    /// Whether it is the registry itself. Clients' credentials are sent to no mirror.
    pub(super) is_registry: bool,
    /// The registry that a mirror stands for: the parameter `ns`, as containerd sends it.
    namespace: Option<String>,
    pub(super) retry: RetryPolicy,
}

/// A request to an endpoint.
pub(super) struct Call<'a> {
    pub(super) outgoing: Outgoing,
    pub(super) scopes: Scopes,
    pub(super) authorization: &'a Authorization,
}

/// The endpoints for a registry, in the order in which they are asked.
pub(super) fn endpoints(host: &str, config: &RegistryConfig) -> Result<Vec<Endpoint>, Error> {
    let directory = hosts_dir::find(&config.hosts_dirs, host)?;
    let has_directory = directory.is_some();
    let entries = directory.unwrap_or_else(|| vec![HostEntry::registry()]);
    entries
        .iter()
        .map(|entry| Endpoint::new(host, entry, has_directory, config))
        .collect()
}

/// The address of a registry that is known by its host only.
fn default_base(host: &str, has_directory: bool, config: &RegistryConfig) -> Result<Url, Error> {
    let parse = |scheme: Scheme| -> Result<Url, Error> {
        format!("{}://{}/v2", scheme.as_str(), reference::api_host(host))
            .parse()
            .map_err(|error| Error::Configuration(format!("registry {host:?}: {error}")))
    };
    if let Some(scheme) = config.scheme {
        return parse(scheme);
    }
    let url = parse(Scheme::Https)?;
    let plain_unasked = is_loopback(&url)
        && !Routes::new(&config.egress)?.lead_loopback_away()
        && url.port_or_known_default() != Some(443)
        && config.tls == TlsOptions::default()
        && !has_directory;
    // A port written as 443 is gone from an https address, and would be again.
    if plain_unasked {
        parse(Scheme::Http)
    } else {
        Ok(url)
    }
}

impl Endpoint {
    fn new(
        host: &str,
        entry: &HostEntry,
        has_directory: bool,
        config: &RegistryConfig,
    ) -> Result<Self, Error> {
        let base = match &entry.base {
            Some(base) => base.clone(),
            None => default_base(host, has_directory, config)?,
        };
        let tls = TlsOptions {
            extra_roots: [config.tls.extra_roots.as_slice(), &entry.roots].concat(),
            client: entry.client.clone().or_else(|| config.tls.client.clone()),
            skip_verify: entry.skip_verify.unwrap_or(config.tls.skip_verify),
            system_roots: config.tls.system_roots,
        };
        let mut timeouts = config.timeouts;
        timeouts.connect = entry.dial_timeout.unwrap_or(timeouts.connect);
        let credentials = match &config.credentials {
            // A password or token for the registry is not sent to mirrors.
            Credentials::Basic { .. } | Credentials::RefreshToken(_) if !entry.is_registry => {
                Credentials::Anonymous
            }
            credentials => credentials.clone(),
        };
        let known_as = if entry.is_registry {
            host.to_owned()
        } else {
            let name = base.host_str().unwrap_or_default();
            base.port()
                .map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"))
        };
        let provider = CredentialProvider::new(credentials, &known_as, timeouts.helper);
        let headers = entry.headers.clone();
        Ok(Self {
            dialer: Dialer::new(
                base.clone(),
                &tls,
                &config.dial,
                &config.egress,
                timeouts,
                (headers, config.http2),
            )?,
            base,
            auth: Auth::new(provider),
            client_scheme: CachedScheme::default(),
            can: entry.can,
            is_registry: entry.is_registry,
            namespace: (!entry.is_registry).then(|| reference::index_host(host).to_owned()),
            retry: config.retry,
        })
    }

    /// Address of the API, with its scheme, and its port if that is not the scheme's.
    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// The address of something behind `/v2/`.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!(
            "{}/{path}",
            self.base.path().trim_end_matches('/')
        ));
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }

    /// A path and query that begin with `/v2` as they are on this endpoint.
    pub(super) fn path_and_query(&self, below: &str, query: Option<&str>) -> String {
        let mut text = format!("{}{below}", self.base.path().trim_end_matches('/'));
        let mut separator = '?';
        if let Some(query) = query {
            text.push('?');
            text.push_str(query);
            separator = '&';
        }
        let asked = |query: &str| query.split('&').any(|pair| pair.starts_with("ns="));
        if let Some(namespace) = &self.namespace
            && !query.is_some_and(asked)
        {
            let namespace: String =
                url::form_urlencoded::byte_serialize(namespace.as_bytes()).collect();
            text.push(separator);
            text.push_str("ns=");
            text.push_str(&namespace);
        }
        text
    }

    /// The attempts at one thing here: several at the registry, one at a mirror.
    pub(super) fn attempts(&self) -> Attempts {
        if self.is_registry {
            Attempts::new(self.retry)
        } else {
            Attempts::once(self.retry)
        }
    }

    /// Sends a request once, with its credentials; a challenge is answered.
    pub(super) async fn call(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let at_home = same_origin(&call.outgoing.url, &self.base);
        if let Authorization::Client(header) = call.authorization {
            let header = header.as_ref().filter(|_| at_home && self.is_registry);
            let mut answer = self.dialer.follow(&call.outgoing, header).await?;
            answer.is_own = false;
            return Ok(answer);
        }
        if let Authorization::Renewed(renewal) = call.authorization {
            return self.call_renewed(call, renewal).await;
        }
        if !at_home {
            // An upload's location elsewhere: it is signed, or it is not for us.
            return self.dialer.follow(&call.outgoing, None).await;
        }
        let sent = self.authorize(&call.scopes).await?;
        let header = sent.as_ref().map(|header| &header.value);
        let answer = self.dialer.follow(&call.outgoing, header).await?;
        // The challenge of a redirect's target is not the registry's.
        if answer.status() != StatusCode::UNAUTHORIZED || !answer.at_home {
            return Ok(answer);
        }
        match self
            .answer_challenge(&answer, sent.as_ref(), &call.scopes)
            .await?
        {
            None => Ok(answer),
            Some(header) => {
                answer.drain().await;
                let again = self.dialer.follow(&call.outgoing, Some(&header.value));
                telemetry::resent(1, again).await
            }
        }
    }

    /// Sends a request with a client's credentials, and again with newer ones as long as these are
    /// refused.
    async fn call_renewed(&self, call: &Call<'_>, renewal: &Renewal) -> Result<Answer, Failure> {
        let at_home = same_origin(&call.outgoing.url, &self.base) && self.is_registry;
        let mut header = renewal.current();
        for left in (0..MAX_RENEWALS).rev() {
            let sent = header.as_ref().filter(|_| at_home);
            let sending = self.dialer.follow(&call.outgoing, sent);
            let mut answer = telemetry::resent(MAX_RENEWALS - 1 - left, sending).await?;
            answer.is_own = false;
            // Some registries answer 403 to an expired token.
            let is_refused = matches!(
                answer.status(),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
            );
            if !is_refused || !at_home || !answer.at_home || left == 0 {
                return Ok(answer);
            }
            let Some(next) = renewal.after(header.as_ref()) else {
                return Ok(answer);
            };
            tracing::debug!(place = %answer.place, "refused: another client's credentials are used");
            answer.drain().await;
            header = Some(next);
        }
        Err(Error::Configuration("there are no credentials".to_owned()).into())
    }

    /// The `Authorization` for these scopes, by the scheme that is known.
    pub(super) async fn authorize(
        &self,
        scopes: &Scopes,
    ) -> Result<Option<AuthorizationHeader>, Error> {
        self.auth.authorize(scopes, &self.dialer, self.retry).await
    }

    /// The `Authorization` for another request after a 401; `None` if it would be the same.
    pub(super) async fn answer_challenge(
        &self,
        answer: &Answer,
        refused: Option<&AuthorizationHeader>,
        scopes: &Scopes,
    ) -> Result<Option<AuthorizationHeader>, Error> {
        self.auth
            .answer_challenge(
                &answer.place,
                answer.response.headers(),
                refused,
                scopes,
                &self.dialer,
                self.retry,
            )
            .await
    }

    /// Determines the endpoint's scheme, before a body is sent that cannot be sent again.
    pub(super) async fn detect_scheme(&self) -> Result<(), Failure> {
        if self.auth.has_scheme() {
            return Ok(());
        }
        let outgoing = Outgoing {
            method: Method::GET,
            url: self.url(""),
            headers: HeaderMap::new(),
            payload: Payload::Empty,
        };
        let answer = self.dialer.follow(&outgoing, None).await?;
        if answer.status() == StatusCode::UNAUTHORIZED && answer.at_home {
            let headers = answer.response.headers();
            self.auth
                .set_scheme_of(&answer.place, headers, &self.dialer)?;
        } else if answer.status().is_success() {
            self.auth.set_anonymous();
        }
        answer.drain().await;
        Ok(())
    }
}
