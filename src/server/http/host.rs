//! The `Host` of a request: there is one, and it is a host (RFC 9112 § 3.2).

use std::net::Ipv6Addr;

use http::header::{HOST, HeaderValue};
use http::{Request, Uri, Version, request};

/// What is wrong with a request's `Host`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum BadHost {
    /// There is none.
    Missing,
    /// There are several.
    Several,
    /// It is no host with or without a port.
    Invalid,
    /// There is neither `:authority` nor `Host` (HTTP/2).
    Unnamed,
    /// `:authority` and `Host` are not the same (HTTP/2).
    Different,
}

impl BadHost {
    /// For the client.
    pub fn text(self) -> &'static str {
        match self {
            Self::Missing => "the request has no Host header, which HTTP/1.1 requires",
            Self::Several => "the request has more than one Host header",
            Self::Invalid => "the request's Host header is not HOST or HOST:PORT",
            Self::Unnamed => "the request names no host: neither by :authority nor by Host",
            Self::Different => "the request's :authority and Host name different hosts",
        }
    }
}

/// Whether a request names one host as it must.
///
/// # Errors
/// What is wrong.
pub(in crate::server) fn check<B>(request: &Request<B>) -> Result<(), BadHost> {
    let mut hosts = request.headers().get_all(HOST).iter();
    if request.version() == Version::HTTP_2 {
        return check_http2(request.uri(), hosts.next(), hosts.next());
    }
    match (hosts.next(), hosts.next()) {
        // Before HTTP/1.1 it was optional.
        (None, _) if request.version() != Version::HTTP_11 => Ok(()),
        (None, _) => Err(BadHost::Missing),
        (Some(_), Some(_)) => Err(BadHost::Several),
        (Some(host), None) if is_host(host) => Ok(()),
        (Some(_), None) => Err(BadHost::Invalid),
    }
}

/// `:authority` names the host, or `Host` does; or both, the same (RFC 9113 § 8.3.1).
fn check_http2(
    uri: &Uri,
    host: Option<&HeaderValue>,
    second: Option<&HeaderValue>,
) -> Result<(), BadHost> {
    if second.is_some() {
        return Err(BadHost::Several);
    }
    match (uri.authority(), host) {
        (None, None) => Err(BadHost::Unnamed),
        (None, Some(host)) if is_host(host) => Ok(()),
        (Some(authority), _) if !is_authority(authority.as_str()) => Err(BadHost::Invalid),
        (Some(_), None) => Ok(()),
        (Some(authority), Some(host)) => {
            let is_same = |host: &str| host.eq_ignore_ascii_case(authority.as_str());
            if host.to_str().is_ok_and(is_same) {
                Ok(())
            } else {
                Err(BadHost::Different)
            }
        }
        (None, Some(_)) => Err(BadHost::Invalid),
    }
}

/// Whether this is `uri-host [ ":" port ]` (RFC 9110 § 7.2, RFC 3986 § 3.2.2) with a host in it,
/// which http addresses must have (RFC 9110 § 4.2.1).
fn is_host(value: &HeaderValue) -> bool {
    value.to_str().is_ok_and(is_authority)
}

/// As [`is_host`], of a text.
fn is_authority(text: &str) -> bool {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return false;
        };
        if address.parse::<Ipv6Addr>().is_err() {
            return false;
        }
        match port.strip_prefix(':') {
            Some(port) => (address, port),
            None if port.is_empty() => (address, ""),
            None => return false,
        }
    } else {
        let (host, port) = text.split_once(':').unwrap_or((text, ""));
        if !is_registered_name(host) {
            return false;
        }
        (host, port)
    };
    !host.is_empty() && (port.is_empty() || port.parse::<u16>().is_ok_and(|_| is_digits(port)))
}

/// Scheme and host that the client used, as `https://HOST`; `None` where the request names no
/// host. Whatever stands before the proxy and ends TLS, or calls it by another name, says so
/// (`X-Forwarded-Proto`, `X-Forwarded-Host`). Those of senders that are not believed are gone by now
/// (`client_address`); where none is configured, a client that sends these itself gets the same answer:
/// it is for answers to itself only.
pub(in crate::server) fn external(parts: &request::Parts, is_tls: bool) -> Option<String> {
    let forwarded = |name: &str| {
        let value = parts.headers.get(name)?.to_str().ok()?;
        // Of several proxies in a chain, the first is the client's.
        value.split(',').next().map(str::trim)
    };
    let scheme = match forwarded("x-forwarded-proto") {
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => "https",
        Some(scheme) if scheme.eq_ignore_ascii_case("http") => "http",
        _ if is_tls => "https",
        _ => "http",
    };
    let named = || match parts.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => parts.headers.get(HOST)?.to_str().ok(),
    };
    let host = forwarded("x-forwarded-host").filter(|host| is_authority(host));
    let host = host.or_else(|| named().filter(|host| is_authority(host)))?;
    Some(format!("{scheme}://{host}"))
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_registered_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let is_good = match byte {
            b'%' => {
                let mut is_hex = || bytes.next().is_some_and(|byte| byte.is_ascii_hexdigit());
                is_hex() && is_hex()
            }
            byte => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte),
        };
        if !is_good {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(version: Version, hosts: &[&str]) -> Result<(), BadHost> {
        let mut request = Request::builder().version(version).uri("/v2/");
        for host in hosts {
            request = request.header(HOST, *host);
        }
        check(&request.body(()).unwrap())
    }

    #[test]
    fn one_host_is_needed_from_http_1_1_on() {
        assert_eq!(checked(Version::HTTP_11, &[]), Err(BadHost::Missing));
        assert_eq!(checked(Version::HTTP_10, &[]), Ok(()));
        assert_eq!(checked(Version::HTTP_2, &[]), Err(BadHost::Unnamed));
        assert_eq!(checked(Version::HTTP_2, &["a"]), Ok(()));
        for version in [Version::HTTP_10, Version::HTTP_11] {
            assert_eq!(checked(version, &["a"]), Ok(()));
            assert_eq!(checked(version, &["a", "a"]), Err(BadHost::Several));
        }
    }

    #[test]
    fn http_2_names_one_host_by_one_way_or_both() {
        let checked = |uri: &str, hosts: &[&str]| {
            let mut request = Request::builder().version(Version::HTTP_2).uri(uri);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            check(&request.body(()).unwrap())
        };
        assert_eq!(checked("https://a:1/v2/", &[]), Ok(()));
        assert_eq!(checked("https://a:1/v2/", &["A:1"]), Ok(()));
        assert_eq!(checked("/v2/", &["a b"]), Err(BadHost::Invalid));
        assert_eq!(checked("https://u@a/v2/", &[]), Err(BadHost::Invalid));
        assert_eq!(checked("https://a/v2/", &["b"]), Err(BadHost::Different));
        assert_eq!(checked("https://a/v2/", &["a", "a"]), Err(BadHost::Several));
    }

    #[test]
    fn the_address_of_the_proxy_is_the_one_that_the_client_used() {
        let address = |headers: &[(&str, &str)], is_tls| {
            let mut request = Request::get("/v2/");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            external(&request.body(()).unwrap().into_parts().0, is_tls)
        };
        let own = ("host", "proxy:8480");
        for (headers, is_tls, wanted) in [
            (&[own][..], false, Some("http://proxy:8480")),
            (&[own], true, Some("https://proxy:8480")),
            (
                &[own, ("x-forwarded-proto", "HTTPS")],
                false,
                Some("https://proxy:8480"),
            ),
            (
                &[own, ("x-forwarded-proto", "javascript")],
                false,
                Some("http://proxy:8480"),
            ),
            (
                &[
                    own,
                    ("x-forwarded-proto", "https, http"),
                    ("x-forwarded-host", "r.example, proxy"),
                ],
                false,
                Some("https://r.example"),
            ),
            (
                &[own, ("x-forwarded-host", "a\"b")],
                false,
                Some("http://proxy:8480"),
            ),
            (&[], false, None),
        ] {
            assert_eq!(address(headers, is_tls).as_deref(), wanted, "{headers:?}");
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        let checked = |host| checked(Version::HTTP_11, &[host]);
        for good in [
            "a",
            "mirror.example:8443",
            "10.0.0.1:80",
            "[::1]",
            "[2001:db8::1]:5000",
            "under_score",
            "a%2Db",
            "a:",
        ] {
            assert_eq!(checked(good), Ok(()), "{good}");
        }
        for bad in [
            "", ":80", "a b", "a/b", "u@a", "a:b", "a:1:2", "a:65536", "a:+1", "[::1", "[a]",
            "[::1]x", "a%2", "a%zz", "a\\b", "a?b", "a#b", "a\"b", "http://a",
        ] {
            assert_eq!(checked(bad), Err(BadHost::Invalid), "{bad}");
        }
    }
}
