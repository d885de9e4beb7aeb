//! Which egress proxy a request goes through, and what went wrong there.

use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use http::{HeaderValue, StatusCode, Uri};
use rustls::InvalidMessage;

use super::cause::cause;
use super::dial::is_loopback_host;
use super::no_proxy::NoProxy;
use super::retry::{Again, Failure};
use crate::registry::{BoxError, Egress, EgressProxy, Error};

/// An egress proxy, and the setting that names it.
#[derive(Debug)]
pub(super) struct Hop {
    proxy: EgressProxy,
    setting: &'static str,
}

/// The egress proxies of one registry.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// For `https://`.
    secure: Option<Arc<Hop>>,
    /// For `http://`.
    plain: Option<Arc<Hop>>,
    no_proxy: NoProxy,
    /// Whether this machine's own addresses are reached directly.
    spares_loopback: bool,
}

impl Routes {
    /// The routes of a setting and this process's environment.
    ///
    /// # Errors
    /// If the environment names a proxy that cannot be used: that it is not used must be said.
    pub(super) fn new(egress: &Egress) -> Result<Self, Error> {
        Self::read(egress, |name| std::env::var(name).ok())
    }

    fn read(egress: &Egress, variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let first = |names: [&'static str; 2]| {
            names.into_iter().find_map(|name| {
                let value = variable(name).filter(|value| !value.trim().is_empty())?;
                Some((name, value))
            })
        };
        let no_proxy = first(["NO_PROXY", "no_proxy"]);
        let no_proxy = no_proxy.map_or_else(NoProxy::default, |(_, text)| NoProxy::parse(&text));
        match egress {
            Egress::Direct => Ok(Self::default()),
            Egress::Proxy(proxy) => {
                let hop = Arc::new(Hop {
                    proxy: proxy.clone(),
                    setting: "egress-proxy",
                });
                Ok(Self {
                    secure: Some(Arc::clone(&hop)),
                    plain: Some(hop),
                    no_proxy,
                    spares_loopback: false,
                })
            }
            Egress::Environment => {
                let hop = |names| {
                    let Some((setting, value)) = first(names) else {
                        return Ok::<_, Error>(None);
                    };
                    let proxy = value.parse().map_err(|error| {
                        Error::Configuration(format!(
                            "{setting} names no proxy that can be used: {error}; --egress-proxy \
                             names another, or none"
                        ))
                    })?;
                    Ok(Some(Arc::new(Hop { proxy, setting })))
                };
                // A CGI client's header `Proxy` becomes HTTP_PROXY (CVE-2016-5385).
                let is_cgi = variable("REQUEST_METHOD").is_some_and(|value| !value.is_empty());
                Ok(Self {
                    secure: hop(["HTTPS_PROXY", "https_proxy"])?,
                    plain: if is_cgi {
                        None
                    } else {
                        hop(["HTTP_PROXY", "http_proxy"])?
                    },
                    no_proxy,
                    spares_loopback: true,
                })
            }
        }
    }

    /// Whether addresses of this machine may be reached through an egress proxy.
    pub(super) fn lead_loopback_away(&self) -> bool {
        !self.spares_loopback && (self.secure.is_some() || self.plain.is_some())
    }

    /// The egress proxy for an address; `None` if it is reached directly.
    pub(super) fn of(&self, address: &Uri) -> Option<&Arc<Hop>> {
        let is_secure = address.scheme() == Some(&Scheme::HTTPS);
        let hop = if is_secure { &self.secure } else { &self.plain };
        let hop = hop.as_ref()?;
        let host = bare_host(address);
        let port = port(address);
        let is_direct =
            (self.spares_loopback && is_loopback_host(&host)) || self.no_proxy.names(&host, port);
        (!is_direct).then_some(hop)
    }
}

/// The host of an address in lower case, without brackets and without the root's dot.
pub(super) fn bare_host(address: &Uri) -> String {
    address
        .host()
        .unwrap_or_default()
        .trim_start_matches('[')
        .trim_end_matches(']')
        .trim_end_matches('.')
        .to_ascii_lowercase()
}

fn port(address: &Uri) -> u16 {
    let is_secure = address.scheme() == Some(&Scheme::HTTPS);
    let default = if is_secure { 443 } else { 80 };
    address.port_u16().unwrap_or(default)
}

/// `HOST:PORT` of an address.
pub(super) fn authority(address: &Uri) -> String {
    format!("{}:{}", address.host().unwrap_or_default(), port(address))
}

/// A connection that the egress proxy did not make, or a request that it did not take.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct EgressError {
    text: String,
    again: Again,
    source: Option<BoxError>,
}

impl EgressError {
    /// The failure of a request.
    pub(super) fn failure(&self, place: &str) -> Failure {
        Failure {
            error: Error::unreachable(place, self),
            again: self.again,
        }
    }
}

impl Hop {
    pub(super) fn address(&self) -> &Uri {
        self.proxy.address()
    }

    pub(super) fn authorization(&self) -> Option<&HeaderValue> {
        self.proxy.authorization()
    }

    /// The proxy and the setting that names it, without credentials.
    pub(super) fn shown(&self) -> String {
        format!("the egress proxy {} ({})", self.proxy, self.setting)
    }

    fn error(&self, what: &str, again: Again) -> EgressError {
        EgressError {
            text: format!("{} {what}", self.shown()),
            again,
            source: None,
        }
    }

    /// There is no connection to the proxy itself.
    pub(super) fn unreachable(&self, source: BoxError) -> EgressError {
        let (what, again) = match cause::<rustls::Error>(&*source) {
            Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => (
                "does not speak TLS: write http:// before its host",
                Again::Never,
            ),
            Some(_) => (
                "has no certificate that is trusted here: --upstream-ca names its CA",
                Again::Never,
            ),
            None => (
                "cannot be reached: see that it runs, and that its address is right",
                Again::Later,
            ),
        };
        EgressError {
            source: Some(source),
            ..self.error(what, again)
        }
    }

    /// It has not made a connection within the time for that.
    pub(super) fn late(&self, target: &Uri, limit: Duration) -> EgressError {
        let target = authority(target);
        let what = format!("makes no connection to {target} within {limit:?}: see its log");
        self.error(&what, Again::Later)
    }

    /// It wants credentials, or other ones (407).
    pub(super) fn unauthorized(&self) -> EgressError {
        let what = if self.authorization().is_some() {
            "does not take the credentials in its address (407): USER:PASSWORD@ before its host \
             must be what it knows"
        } else {
            "wants credentials (407): write USER:PASSWORD@ before its host"
        };
        self.error(what, Again::Never)
    }

    /// It answers CONNECT with a status that makes no connection.
    pub(super) fn refused(&self, target: &Uri, status: StatusCode) -> EgressError {
        let target = authority(target);
        match status {
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => self.unauthorized(),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                let what = format!(
                    "makes no connection to {target} ({status}): see its log for whether it \
                     can resolve and reach it"
                );
                self.error(&what, Again::Later)
            }
            status => {
                let what = format!(
                    "does not allow a connection to {target} ({status}): allow it there, or \
                     name the host in NO_PROXY if it is to be reached directly"
                );
                self.error(&what, Again::Never)
            }
        }
    }

    /// Its answer to CONNECT is none.
    pub(super) fn broken(&self, target: &Uri, source: BoxError) -> EgressError {
        let target = authority(target);
        let what = format!("gives no right answer to CONNECT {target}: is it an HTTP proxy?");
        EgressError {
            source: Some(source),
            ..self.error(&what, Again::Later)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(egress: &Egress, variables: &[(&str, &str)]) -> Result<Routes, Error> {
        Routes::read(egress, |name| {
            let found = variables.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn way(routes: &Routes, address: &str) -> String {
        let hop = routes.of(&address.parse().unwrap());
        hop.map_or_else(|| "direct".to_owned(), |hop| hop.proxy.to_string())
    }

    #[test]
    fn the_environment_chooses_by_scheme_and_spares_this_machine() {
        let found = routes(
            &Egress::Environment,
            &[
                ("HTTPS_PROXY", ""),
                ("https_proxy", "s.io:1"),
                ("HTTP_PROXY", "http://p.io:2"),
                ("http_proxy", "http://not.io"),
                ("no_proxy", "in.corp:443,10.0.0.0/8"),
            ],
        )
        .unwrap();
        for (address, wanted) in [
            ("https://r.io/v2/", "http://s.io:1"),
            ("http://r.io/v2/", "http://p.io:2"),
            ("https://in.corp/", "direct"),
            ("https://IN.corp./", "direct"),
            ("https://in.corp:5000/", "http://s.io:1"),
            ("https://10.9.8.7:5000/", "direct"),
            ("https://localhost:5000/", "direct"),
            ("http://127.8.9.1:5000/", "direct"),
            ("https://[::1]:5000/", "direct"),
            ("https://[fd00::1]:5000/", "http://s.io:1"),
        ] {
            assert_eq!(way(&found, address), wanted, "{address}");
        }
        let none = routes(&Egress::Environment, &[]).unwrap();
        assert_eq!(way(&none, "https://r.io/"), "direct");
    }

    #[test]
    fn http_proxy_does_not_count_where_a_client_could_have_set_it() {
        let variables = [
            ("HTTPS_PROXY", "s.io"),
            ("HTTP_PROXY", "p.io"),
            ("REQUEST_METHOD", "GET"),
        ];
        let found = routes(&Egress::Environment, &variables).unwrap();
        assert_eq!(way(&found, "http://r.io/"), "direct");
        assert_eq!(way(&found, "https://r.io/"), "http://s.io");
    }

    #[test]
    fn a_setting_replaces_the_environments_proxies_but_not_no_proxy() {
        let variables = [
            ("HTTPS_PROXY", "socks5://s3cret@p.io"),
            ("NO_PROXY", "in.corp"),
        ];
        let proxy = Egress::Proxy("https://mine.io".parse().unwrap());
        let found = routes(&proxy, &variables).unwrap();
        for (address, wanted) in [
            ("https://r.io/", "https://mine.io"),
            ("http://r.io/", "https://mine.io"),
            ("http://localhost/", "https://mine.io"),
            ("https://x.in.corp/", "direct"),
        ] {
            assert_eq!(way(&found, address), wanted, "{address}");
        }
        let direct = routes(&Egress::Direct, &variables).unwrap();
        assert_eq!(way(&direct, "https://r.io/"), "direct");
        let error = routes(&Egress::Environment, &variables)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("HTTPS_PROXY") && error.contains("SOCKS"),
            "{error}"
        );
        assert!(!error.contains("s3cret"), "{error}");
    }
}
