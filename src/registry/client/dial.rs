//! Where the upstream may lead us: the guard over redirects, realms and upload locations.
//!
//! Whoever can make a registry answer `Location: http://169.254.169.254/…` must not make
//! us dial it. Literal addresses are checked when the target is known, names when they are
//! resolved: the address that was checked is the one that is dialled. An egress proxy resolves
//! names itself: there, a name that this machine knows is checked before the proxy is asked, and of
//! others the proxy decides.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::dns::Name;
use tokio::sync::Semaphore;
use tower_service::Service;
use url::{Host, Url};

use crate::registry::{BoxError, DialOptions, Error};

/// How long this machine may take to resolve a name that an egress proxy will resolve again:
/// where only the proxy knows names, there may be nobody here who answers.
const LOOKUP_LIMIT: Duration = Duration::from_secs(2);

/// What may be dialled on behalf of one registry.
#[derive(Debug)]
pub(super) struct Guard {
    /// The registry's own host, which may be anywhere.
    own: String,
    /// Whether the registry itself is reached by plain HTTP.
    plain: bool,
    /// Whether the registry is on this machine, and reached without leaving it.
    loopback: bool,
    options: DialOptions,
}

/// A name that leads to where we do not go.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{host} is {address}, which is no public address")]
pub(super) struct NotPublic {
    pub(super) host: String,
    pub(super) address: IpAddr,
}

impl Guard {
    /// The guard of a registry, which is reached through an egress proxy or not.
    pub(super) fn new(own: &Url, options: &DialOptions, is_proxied: bool) -> Self {
        Self {
            own: own.host_str().map(normal).unwrap_or_default(),
            plain: own.scheme() == "http",
            loopback: is_loopback(own) && !is_proxied,
            options: options.clone(),
        }
    }

    /// Whether the registry and `target` are on this machine, so that nothing leaves it.
    pub(super) fn stays_here(&self, target: &Url) -> bool {
        self.loopback && is_loopback(target)
    }

    /// Whether this host may have any address.
    fn trusts(&self, host: &str) -> bool {
        let host = normal(host);
        host == self.own
            || self.options.allow_hosts.iter().any(|allowed| {
                let allowed = normal(allowed);
                match allowed.strip_prefix("*.") {
                    Some(domain) => host
                        .strip_suffix(domain)
                        .is_some_and(|front| front.len() > 1 && front.ends_with('.')),
                    None => host == allowed,
                }
            })
    }

    /// Whether an egress proxy may be asked to connect to a name. It may choose any of a name's
    /// addresses, so none may be private; a name that is not known here is the proxy's to judge.
    pub(super) async fn check_name(&self, host: &str) -> Result<(), NotPublic> {
        // An address was checked when it was known to be the target.
        if self.trusts(host) || host.parse::<IpAddr>().is_ok() {
            return Ok(());
        }
        let addresses = looked_up(host.to_owned()).await;
        match addresses.into_iter().find(|address| !is_public(*address)) {
            Some(address) => Err(NotPublic {
                host: host.to_owned(),
                address,
            }),
            None => Ok(()),
        }
    }

    /// Whether we may go from `place` to `target`.
    pub(super) fn check(&self, place: &str, target: &Url) -> Result<(), Error> {
        let refused = |why: &str| Error::Refused {
            place: place.to_owned(),
            target: shown(target),
            why: why.to_owned(),
        };
        match target.scheme() {
            "https" => {}
            "http" if self.plain || self.options.allow_downgrade => {}
            // It does not leave this machine.
            "http" if self.stays_here(target) => {}
            "http" => return Err(refused("it is plain http, the registry is not")),
            _ => return Err(refused("it is neither https nor http")),
        }
        if !target.username().is_empty() || target.password().is_some() {
            return Err(refused("it has credentials in it"));
        }
        let address = match target.host() {
            None => return Err(refused("it names no host")),
            Some(Host::Domain(_)) => return Ok(()),
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
        };
        if is_public(address) || target.host_str().is_some_and(|host| self.trusts(host)) {
            Ok(())
        } else {
            Err(refused("it is no public address"))
        }
    }
}

/// Whether an address is written as one of this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    url.host_str()
        .is_some_and(|host| is_loopback_host(&normal(host)))
}

/// Whether a host, in lower case and without brackets, is this machine (RFC 6761 § 6.3 for names).
pub(super) fn is_loopback_host(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// Longest address that is shown, in characters.
const SHOWN: usize = 500;

/// An address without query, fragment and credentials: what may be shown.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // These fail only for addresses that cannot have credentials.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.as_str().chars().take(SHOWN).collect()
}

fn normal(host: &str) -> String {
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .trim_end_matches('.')
        .to_ascii_lowercase()
}

/// The addresses of a name; none if it is not known, or not within the limit. A lookup has a thread
/// until it ends, also when nobody waits for it any more, so there are few at one time; waiting for
/// one's turn is no part of the limit, so that nobody decides by slow names that others are unknown.
async fn looked_up(host: String) -> Vec<IpAddr> {
    static LOOKUPS: Semaphore = Semaphore::const_new(32);
    let Ok(permit) = LOOKUPS.acquire().await else {
        return Vec::new();
    };
    let lookup = tokio::spawn(async move {
        let found = tokio::net::lookup_host((host.as_str(), 0)).await;
        drop(permit);
        found.map(|found| found.map(|address| address.ip()).collect())
    });
    match tokio::time::timeout(LOOKUP_LIMIT, lookup).await {
        Ok(Ok(Ok(addresses))) => addresses,
        _ => Vec::new(),
    }
}

/// Whether this address is one of the Internet's, by IANA's special-purpose registries
/// (RFC 6890 and its updates).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = a == 0
        || a >= 224
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_documentation()
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b));
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let embedded = |high: u16, low: u16| {
        is_public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
    };
    match address.segments() {
        // IPv4-mapped addresses and NAT64 lead to an IPv4 address, as does 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            embedded(high, low)
        }
        [0x2002, high, low, ..] => embedded(high, low),
        // 2001::/23: Teredo, ORCHID and other protocols; two ranges for documentation.
        [0x2001, second, ..] => second > 0x1ff && second != 0xdb8,
        [0x3fff, second, ..] => second > 0xfff,
        // ::, ::1 and IPv4-compatible addresses; local NAT64; discard-only; unique local;
        // link-local and site-local; multicast.
        [
            0 | 0x64 | 0x100 | 0xfc00..=0xfdff | 0xfe80..=0xfeff | 0xff00..=0xffff,
            ..,
        ] => false,
        _ => true,
    }
}

/// Resolves names, and leaves out what may not be dialled.
#[derive(Clone)]
pub(super) struct Resolver(pub(super) Arc<Guard>);

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let guard = Arc::clone(&self.0);
        Box::pin(async move {
            let host = name.as_str();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
            if guard.trusts(host) {
                return Ok(found.into_iter());
            }
            let private = found.iter().map(SocketAddr::ip).find(|ip| !is_public(*ip));
            let public: Vec<SocketAddr> = found
                .into_iter()
                .filter(|address| is_public(address.ip()))
                .collect();
            match private {
                Some(address) if public.is_empty() => Err(NotPublic {
                    host: host.to_owned(),
                    address,
                }
                .into()),
                _ => Ok(public.into_iter()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(own: &str, allow: &[&str]) -> Guard {
        let options = DialOptions {
            allow_hosts: allow.iter().map(|&host| host.to_owned()).collect(),
            allow_downgrade: false,
        };
        Guard::new(&own.parse().unwrap(), &options, false)
    }

    fn goes(guard: &Guard, target: &str) -> bool {
        guard.check("GET x", &target.parse().unwrap()).is_ok()
    }

    #[test]
    fn private_addresses_are_refused() {
        let guard = guard("https://r.io", &[]);
        for inside in [
            "https://127.0.0.1/",
            "https://0x7f.1/",
            "https://2130706433/",
            "https://10.1.2.3/",
            "https://172.31.0.1/",
            "https://192.168.0.1/",
            "https://169.254.169.254/latest/meta-data",
            "https://100.64.0.1/",
            "https://0.0.0.0/",
            "https://255.255.255.255/",
            "https://[::1]/",
            "https://[::]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::7f00:1]/",
            "https://[64:ff9b::a00:1]/",
            "https://[64:ff9b:1::1]/",
            "https://[2002:a00:1::]/",
            "https://[2001::1]/",
            "https://[fd00::1]/",
            "https://[fe80::1]/",
            "https://[ff02::1]/",
        ] {
            assert!(!goes(&guard, inside), "{inside}");
        }
        for outside in [
            "https://1.1.1.1/",
            "https://[2606:4700::1111]/",
            "https://[64:ff9b::101:101]/",
            "https://cdn.example/x",
        ] {
            assert!(goes(&guard, outside), "{outside}");
        }
    }

    #[test]
    fn the_registrys_own_host_and_allowed_hosts_may_have_private_addresses() {
        let guard = guard("https://10.0.0.1:5000", &["10.0.0.2", "*.corp.example"]);
        assert!(goes(&guard, "https://10.0.0.1:9000/"));
        assert!(goes(&guard, "https://10.0.0.2/"));
        assert!(!goes(&guard, "https://10.0.0.3/"));
        assert!(guard.trusts("s3.corp.example") && guard.trusts("S3.Corp.Example."));
        for other in ["corp.example", "xcorp.example", ".corp.example"] {
            assert!(!guard.trusts(other), "{other}");
        }
    }

    #[test]
    fn a_redirect_from_https_to_http_is_refused() {
        assert!(!goes(&guard("https://r.io", &[]), "http://cdn.example/"));
        assert!(goes(&guard("http://r.io", &[]), "http://cdn.example/"));
        assert!(goes(
            &guard("https://localhost", &[]),
            "http://localhost:1/"
        ));
        assert!(!goes(
            &guard("https://localhost", &[]),
            "http://cdn.example/"
        ));
        assert!(!goes(&guard("https://r.io", &[]), "ftp://cdn.example/"));
        assert!(!goes(
            &guard("https://r.io", &[]),
            "https://u:p@cdn.example/"
        ));
    }

    #[test]
    fn nothing_stays_on_this_machine_that_goes_through_a_proxy() {
        let own = "https://localhost".parse().unwrap();
        let guard = Guard::new(&own, &DialOptions::default(), true);
        assert!(!goes(&guard, "http://localhost:1/"));
    }

    #[test]
    fn an_address_is_shown_without_secrets() {
        let url = "https://u:p@h/x?X-Amz-Signature=s#f".parse().unwrap();
        assert_eq!(shown(&url), "https://h/x");
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_a_private_address_is_refused() {
        let name = || "localhost".parse::<Name>().unwrap();
        let mut foreign = Resolver(Arc::new(guard("https://r.io", &[])));
        assert!(foreign.call(name()).await.unwrap_err().is::<NotPublic>());
        let mut own = Resolver(Arc::new(guard("https://localhost", &[])));
        assert!(own.call(name()).await.unwrap().next().is_some());
    }

    #[tokio::test]
    async fn a_private_name_that_is_known_here_is_refused_before_a_proxy_is_asked() {
        let foreign = guard("https://r.io", &["allowed.localhost"]);
        let error = foreign.check_name("localhost").await.unwrap_err();
        assert!(error.address.is_loopback(), "{error}");
        for unknown in [
            "r.io",
            "allowed.localhost",
            "no-such-name.invalid",
            "1.1.1.1",
        ] {
            assert!(foreign.check_name(unknown).await.is_ok(), "{unknown}");
        }
    }
}
