//! The HTTP proxy through which registries are reached: the egress proxy.

use std::fmt;

use base64::Engine as _;
use http::{HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::oci::reference::is_host;

/// How registries, their token servers, and what they redirect to are reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Egress {
    /// As the environment's `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say, by the rules of Go's
    /// `golang.org/x/net/http/httpproxy`.
    #[default]
    Environment,
    /// Directly, whatever the environment says.
    Direct,
    /// Through this proxy, but for what the environment's `NO_PROXY` names.
    Proxy(EgressProxy),
}

/// An HTTP proxy: its address, and the credentials that it is shown.
///
/// ```
/// use overlaybd_proxy::registry::EgressProxy;
///
/// let proxy: EgressProxy = "http://me:secret@proxy.example:3128".parse()?;
/// assert_eq!(proxy.to_string(), "http://proxy.example:3128");
/// assert!(!format!("{proxy:?}").contains("secret"));
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct EgressProxy {
    /// Without credentials.
    address: Uri,
    /// The value of `Proxy-Authorization` (RFC 9110 § 11.7.2), which is marked as sensitive.
    authorization: Option<HeaderValue>,
}

impl EgressProxy {
    /// Its address, without credentials.
    pub(crate) fn address(&self) -> &Uri {
        &self.address
    }

    /// The value of `Proxy-Authorization`, if it is shown credentials.
    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }
}

/// Without credentials.
impl fmt::Display for EgressProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.address.to_string().trim_end_matches('/'))
    }
}

/// Without credentials, but whether there are some.
impl fmt::Debug for EgressProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let credentials = self.authorization.as_ref().map(|_| "***");
        f.debug_tuple("EgressProxy")
            .field(&format_args!("{self}"))
            .field(&credentials)
            .finish()
    }
}

/// Errors do not repeat the text, which may hold a password.
impl std::str::FromStr for EgressProxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "http://HOST:PORT or https://HOST:PORT is expected, with \
                                USER:PASSWORD@ before the host if the proxy asks for them \
                                (percent-encoded: %40 for @, %2C for a comma)";
        let wrong = || EXPECTED.to_owned();
        let text = text.trim();
        let url: Url = match text.split_once("://") {
            None => format!("http://{text}").parse(),
            Some(("http" | "https", _)) => text.parse(),
            Some(("socks4" | "socks4a" | "socks5" | "socks5h", _)) => {
                return Err(format!("SOCKS proxies cannot be used: {EXPECTED}"));
            }
            Some(_) => return Err(wrong()),
        }
        .map_err(|_| wrong())?;
        let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let host = url.host_str().filter(|_| is_bare).ok_or_else(wrong)?;
        let port = url
            .port()
            .map_or_else(String::new, |port| format!(":{port}"));
        // What no host has in it may be a password in its place.
        if !is_host(&format!("{host}{port}")) {
            return Err(wrong());
        }
        let address = format!("{}://{host}{port}/", url.scheme())
            .parse()
            .map_err(|_| wrong())?;
        let has_credentials = !url.username().is_empty() || url.password().is_some();
        let authorization = has_credentials
            .then(|| basic(url.username(), url.password().unwrap_or_default()))
            .transpose()
            .map_err(|_| wrong())?;
        Ok(Self {
            address,
            authorization,
        })
    }
}

/// `Basic`, of what a URL has (RFC 7617).
fn basic(user: &str, password: &str) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let mut text: Vec<u8> = percent_decode_str(user).collect();
    text.push(b':');
    text.extend(percent_decode_str(password));
    let text = base64::engine::general_purpose::STANDARD.encode(text);
    let mut value = HeaderValue::from_str(&format!("Basic {text}"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<EgressProxy, String> {
        text.parse()
    }

    #[test]
    fn an_address_is_read_with_its_credentials() {
        for (text, shown, authorization) in [
            ("http://p.io:3128", "http://p.io:3128", None),
            ("p.io:3128", "http://p.io:3128", None),
            ("https://p.io/", "https://p.io", None),
            ("http://[fd00::1]:8", "http://[fd00::1]:8", None),
            ("http://me:pass@p.io", "http://p.io", Some("me:pass")),
            ("me:pass@p.io:1", "http://p.io:1", Some("me:pass")),
            ("http://me:p%40s%2Cs@p.io", "http://p.io", Some("me:p@s,s")),
            ("http://me@p.io", "http://p.io", Some("me:")),
        ] {
            let proxy = parse(text).unwrap();
            assert_eq!(proxy.to_string(), shown, "{text}");
            let expected = authorization.map(|login| {
                let login = base64::engine::general_purpose::STANDARD.encode(login);
                format!("Basic {login}")
            });
            let found = proxy.authorization().map(|value| value.to_str().unwrap());
            assert_eq!(found, expected.as_deref(), "{text}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_refused_and_not_repeated() {
        for text in [
            "",
            "http://",
            "ftp://s3cret@p.io",
            "socks5://me:s3cret@p.io:1080",
            "http://me:s3cret",
            "http://me:1/s3cret@p.io",
            "http://me:1?s3cret@p.io",
            "http://p.io/s3cret",
            "http://me:s3cret@",
            "s3cret!",
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("http://HOST:PORT"), "{text}: {error}");
            assert!(!error.contains("s3cret"), "{text}: {error}");
        }
    }
}
