//! Where clients are, and how much one of them may ask for.
// The comments of options are their help texts.
#![allow(clippy::doc_markdown)]

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{list, optional};
use crate::config::{ConfigErrors, Text, number};
use crate::server::{Balancers, ClientRate, ForwardedHeaders};

/// Where clients are, and how much one of them may ask for.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Clients")]
pub struct ClientOptions {
    /// Addresses of load balancers that send the PROXY protocol (version 1 or 2), before TLS: from
    /// these each connection must begin with its header, and those of others have none. Networks or
    /// addresses, such as 10.0.0.0/8; repeatable [default: none]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub proxy_protocol: Vec<Text>,
    /// Addresses of HTTP proxies whose headers about the client are trusted
    /// (--forwarded-headers): the client is the right-most address that is not among these. From
    /// others such headers are ignored. Name only proxies that add the address they were connected
    /// from; repeatable [default: none, and only X-Forwarded-Proto and -Host are heeded]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub trusted_proxy: Vec<Text>,
    /// Which headers --trusted-proxy sets: x-forwarded (X-Forwarded-For, -Proto, -Host) or forwarded
    /// (RFC 7239). The other ones are ignored, because a client could have sent them [default:
    /// x-forwarded]
    #[arg(long, value_name = "x-forwarded|forwarded")]
    pub forwarded_headers: Option<Text>,
    /// How many requests one client address (of IPv6 one /64), or with --htpasswd one user, may make:
    /// N/s, N/m or N/h, and how many at once (N if nothing is said), as in 20/s,burst=100. More are
    /// answered 429 with Retry-After. Bounded ranges of blobs and whatever comes out of the blob cache do
    /// not count: it is for fairness, and --client-requests is the bound [default: any number]
    #[arg(long, value_name = "N/s[,burst=N]")]
    pub client_rate: Option<Text>,
    /// Most requests of one client address at one time that are worked on, and as many that wait for
    /// a conversion or an upstream; more are answered 429. What running containers read counts, too
    /// [default: --address-share]
    #[arg(long, value_name = "N")]
    pub client_requests: Option<Text>,
}

/// A network, or an address alone.
fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    let network = text.parse::<IpNet>().map_err(|_| {
        format!(
            "{text:?} is no network and no address: 10.0.0.0/8, 2001:db8::/32 or 192.0.2.1 is expected"
        )
    })?;
    Ok(network.trunc())
}

/// `N/s`, `N/m` or `N/h`, and `,burst=N`.
fn rate(text: &str) -> Result<ClientRate, String> {
    let wrong = || format!("{text:?} is no rate: 20/s, 600/m or 20/s,burst=100 is expected");
    let (rate, burst) = match text.split_once(',') {
        Some((rate, burst)) => (rate, Some(burst.trim())),
        None => (text, None),
    };
    let (count, unit) = rate.split_once('/').ok_or_else(wrong)?;
    let unit = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let count: u32 = number(count.trim(), 1..=1_000_000)?;
    let burst = match burst {
        Some(burst) => {
            let burst = burst.strip_prefix("burst=").ok_or_else(wrong)?;
            number(burst, 1..=1_000_000)?
        }
        None => count,
    };
    Ok(ClientRate {
        interval: Duration::from_secs(unit) / count,
        burst,
    })
}

impl ClientOptions {
    /// What is believed about where clients are.
    pub fn balancers(&self, errors: &mut ConfigErrors) -> Option<Balancers> {
        let headers = match &self.forwarded_headers {
            None => Some(ForwardedHeaders::default()),
            headers => optional(
                errors,
                "forwarded-headers",
                headers.as_ref(),
                |text| match text {
                    "x-forwarded" => Ok(ForwardedHeaders::XForwarded),
                    "forwarded" => Ok(ForwardedHeaders::Standard),
                    _ => Err(format!("{text:?} is neither x-forwarded nor forwarded")),
                },
            ),
        };
        let trusted = list(errors, "trusted-proxy", &self.trusted_proxy, network);
        if self.forwarded_headers.is_some() && self.trusted_proxy.is_empty() {
            errors.add(
                "forwarded-headers",
                "--trusted-proxy says who sends these headers, and is needed",
            );
        }
        Some(Balancers {
            proxy_protocol: list(errors, "proxy-protocol", &self.proxy_protocol, network),
            trusted,
            headers: headers?,
        })
    }

    /// How many requests one client may make, if that is limited.
    pub fn rate(&self, errors: &mut ConfigErrors) -> Option<ClientRate> {
        optional(errors, "client-rate", self.client_rate.as_ref(), rate)
    }

    /// How many requests of one client there may be at one time, if that is limited.
    pub fn requests(&self, errors: &mut ConfigErrors) -> Option<usize> {
        let requests = self.client_requests.as_ref();
        optional(errors, "client-requests", requests, |text| {
            number(text, 1..=1_000_000)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_has_a_number_a_time_and_perhaps_a_burst() {
        for (text, milliseconds, burst) in [
            ("20/s", 50, 20),
            ("20/s,burst=100", 50, 100),
            ("600/m", 100, 600),
            ("1/h,burst=1", 3_600_000, 1),
            (" 2 / s , burst=3", 500, 3),
        ] {
            let wanted = ClientRate {
                interval: Duration::from_millis(milliseconds),
                burst,
            };
            assert_eq!(rate(text), Ok(wanted), "{text}");
        }
        for text in [
            "",
            "20",
            "0/s",
            "20/d",
            "20/s,100",
            "20/s,burst=0",
            "-1/s",
            "20/s,burst=",
        ] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_network_may_be_one_address() {
        for (text, wanted) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("::ffff:192.0.2.1", "192.0.2.1/32"),
            ("2001:db8::1", "2001:db8::1/128"),
            (" ::/0", "::/0"),
        ] {
            assert_eq!(
                network(text).map(|it| it.to_string()),
                Ok(wanted.to_owned())
            );
        }
        for text in ["", "balancer", "10.0.0.0/33", "10.0.0.0/", "10.0.0"] {
            assert!(network(text).is_err(), "{text}");
        }
    }
}
