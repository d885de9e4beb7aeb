//! What `NO_PROXY` names, by the rules of Go's `golang.org/x/net/http/httpproxy`, which tools of
//! registries follow.

use std::net::IpAddr;

use ipnet::IpNet;

/// The hosts that are reached without an egress proxy.
#[derive(Debug, Default)]
pub(super) struct NoProxy {
    is_everything: bool,
    rules: Vec<Rule>,
}

#[derive(Debug)]
enum Rule {
    Network(IpNet),
    Address(IpAddr, Option<u16>),
    Domain {
        /// With the dot before it.
        suffix: String,
        /// Whether the domain's own name is meant too, not only what is below it.
        is_itself: bool,
        port: Option<u16>,
    },
}

impl NoProxy {
    /// Reads a list, divided by commas: `*`, networks (`10.0.0.0/8`), addresses and domains, with
    /// or without a port. `example.com` is the domain and all below it, `.example.com` and
    /// `*.example.com` only what is below. What is none of these names nothing, as in Go.
    pub(super) fn parse(text: &str) -> Self {
        let entries = || {
            text.split(',')
                .map(|entry| entry.trim().to_ascii_lowercase())
        };
        Self {
            is_everything: entries().any(|entry| entry == "*"),
            rules: entries().filter_map(|entry| Rule::parse(&entry)).collect(),
        }
    }

    /// Whether it names a host, which is an address (without brackets) or a name in lower case.
    pub(super) fn names(&self, host: &str, port: u16) -> bool {
        let address = host
            .parse()
            .ok()
            .map(|address: IpAddr| address.to_canonical());
        self.is_everything
            || self
                .rules
                .iter()
                .any(|rule| rule.names(host, address, port))
    }
}

impl Rule {
    fn parse(entry: &str) -> Option<Self> {
        if let Ok(network) = entry.parse() {
            return Some(Self::Network(network));
        }
        let (host, port) = split(entry);
        let port = match port {
            None | Some("") => None,
            Some(port) => Some(port.parse().ok()?),
        };
        if let Ok(address) = host.parse::<IpAddr>() {
            return Some(Self::Address(address.to_canonical(), port));
        }
        let below = host.strip_prefix("*.").or_else(|| host.strip_prefix('.'));
        let domain = below.unwrap_or(host);
        // Names of other scripts are asked for in their ASCII form (RFC 5891).
        let domain = match url::Host::parse(domain) {
            Ok(url::Host::Domain(ascii)) => ascii,
            _ => domain.to_owned(),
        };
        (!domain.is_empty()).then(|| Self::Domain {
            suffix: format!(".{domain}"),
            is_itself: below.is_none(),
            port,
        })
    }

    fn names(&self, host: &str, address: Option<IpAddr>, asked: u16) -> bool {
        match self {
            Self::Network(network) => address.is_some_and(|address| network.contains(&address)),
            Self::Address(own, port) => {
                address == Some(*own) && port.is_none_or(|port| port == asked)
            }
            Self::Domain {
                suffix,
                is_itself,
                port,
            } => {
                let is_own = *is_itself && suffix.strip_prefix('.') == Some(host);
                (is_own || host.ends_with(suffix.as_str())) && port.is_none_or(|port| port == asked)
            }
        }
    }
}

/// Host and port, as Go's `net.SplitHostPort` divides them.
fn split(entry: &str) -> (&str, Option<&str>) {
    if let Some((host, rest)) = entry.strip_prefix('[').and_then(|e| e.split_once(']')) {
        return (host, rest.strip_prefix(':'));
    }
    match entry.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => (host, Some(port)),
        _ => (entry, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cases of `httpproxy`'s `UseProxyTests`, and what else its documentation says.
    #[test]
    fn a_list_names_what_it_names_to_go() {
        let list = "foobar.com, .barbaz.net, *.wild.io, 192.168.1.1, 192.168.1.2:81, \
                    192.168.1.3:80, 10.0.0.0/30, 2001:db8::52:0:1, [2001:db8::52:0:2]:443, \
                    [2001:db8::52:0:3]:80, 2002:db8:a::45/64, Ported.org:5000, bücher.example,,:1";
        let rules = NoProxy::parse(list);
        for (host, port, is_named) in [
            ("foobar.com", 443, true),
            ("www.foobar.com", 443, true),
            ("foofoobar.com", 443, false),
            ("baz.com", 443, false),
            ("barbaz.net", 80, false),
            ("x.barbaz.net", 80, true),
            ("wild.io", 80, false),
            ("a.wild.io", 80, true),
            ("192.168.1.1", 80, true),
            ("192.168.1.1", 5000, true),
            ("192.168.1.2", 80, false),
            ("192.168.1.2", 81, true),
            ("192.168.1.3", 80, true),
            ("192.168.1.4", 80, false),
            ("10.0.0.2", 80, true),
            ("10.0.0.4", 80, false),
            ("::ffff:192.168.1.1", 80, true),
            ("2001:db8::52:0:1", 80, true),
            ("2001:db8::52:0:2", 80, false),
            ("2001:db8::52:0:2", 443, true),
            ("2001:db8::52:0:3", 443, false),
            ("2002:db8:a::123", 80, true),
            ("fe80::424b:c8be:1643:a1b6", 80, false),
            ("ported.org", 443, false),
            ("ported.org", 5000, true),
            ("www.ported.org", 5000, true),
            ("xn--bcher-kva.example", 443, true),
            ("", 1, false),
        ] {
            assert_eq!(rules.names(host, port), is_named, "{host}:{port}");
        }
    }

    #[test]
    fn a_star_names_everything_and_nothing_names_nothing() {
        for (list, is_named) in [("*", true), ("a.io, *", true), ("", false), ("*.io", false)] {
            for host in ["foobar.com", "1.1.1.1"] {
                assert_eq!(
                    NoProxy::parse(list).names(host, 443),
                    is_named,
                    "{list} {host}"
                );
            }
        }
    }
}
