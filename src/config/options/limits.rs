//! Bounds that keep one client from starving the others.
// The comments of options are their help texts.
#![allow(clippy::doc_markdown)]

use serde::{Deserialize, Serialize};

use super::required;
use crate::config::{ConfigErrors, Text, bytes, duration, number};
use crate::server::Limits;

/// Bounds that keep one client from starving the others.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Limits")]
pub struct LimitOptions {
    /// Most connections at one time
    #[arg(long, value_name = "N")]
    pub max_connections: Option<Text>,
    /// Most requests that are worked on at one time; more are answered 503
    #[arg(long, value_name = "N")]
    pub max_requests: Option<Text>,
    /// Most requests that wait for a conversion at one time, and as many for each upstream; more
    /// are answered 503
    #[arg(long, value_name = "N")]
    pub max_waiting: Option<Text>,
    /// How much of connections, requests, waiting places and logins one client address may have
    /// (of IPv6 one /64); more of it is answered 429. 100% behind a load balancer that hides its
    /// clients' addresses (--proxy-protocol and --trusted-proxy are for those that tell)
    #[arg(long, value_name = "PERCENT")]
    pub address_share: Option<Text>,
    /// Most passwords (--htpasswd) that wait to be checked; more are answered 429. A right one is
    /// checked once
    #[arg(long, value_name = "N")]
    pub max_logins: Option<Text>,
    /// Most bytes of a request's head
    #[arg(long, value_name = "SIZE")]
    pub max_head_size: Option<Text>,
    /// How long a connection may take over a request's head
    #[arg(long, value_name = "TIME")]
    pub head_timeout: Option<Text>,
    /// How long a connection may be idle between requests
    #[arg(long, value_name = "TIME", alias = "idle")]
    pub idle_timeout: Option<Text>,
    /// How long a body may stand still, on either side
    #[arg(long, value_name = "TIME")]
    pub stall_timeout: Option<Text>,
    /// How long connections are still accepted after the signal to stop, while /readyz says 503:
    /// as long as load balancers take to see it
    #[arg(long, value_name = "TIME")]
    pub drain_delay: Option<Text>,
    /// How long open requests may take after the signal to stop, and after --drain-delay
    #[arg(long, value_name = "TIME")]
    pub drain: Option<Text>,
}

/// A part of a whole, with or without its sign.
fn percent(text: &str) -> Result<u8, String> {
    match text.trim().trim_end_matches('%').trim_end().parse() {
        Ok(percent @ 1..=100) => Ok(percent),
        _ => Err(format!(
            "{text:?} is no part of a whole: 1% to 100% is expected"
        )),
    }
}

impl LimitOptions {
    /// The server's limits.
    pub fn config(&self, errors: &mut ConfigErrors) -> Option<Limits> {
        let mut count = |name, value: &Option<Text>| {
            required(errors, name, value.as_ref(), |text| {
                number(text, 1..=1_000_000_usize)
            })
        };
        let connections = count("max-connections", &self.max_connections);
        let requests = count("max-requests", &self.max_requests);
        let waiting = count("max-waiting", &self.max_waiting);
        let logins = count("max-logins", &self.max_logins);
        let share = self.address_share.as_ref();
        let address_share = required(errors, "address-share", share, percent);
        let head_bytes = required(
            errors,
            "max-head-size",
            self.max_head_size.as_ref(),
            |text| match bytes(text)? {
                size @ 8192..=16_777_216 => usize::try_from(size).map_err(|e| e.to_string()),
                _ => Err("8KiB to 16MiB is expected".to_owned()),
            },
        );
        let mut time = |name, value: &Option<Text>| {
            required(errors, name, value.as_ref(), |text| match duration(text)? {
                time if time.is_zero() => Err("a time over 0 is needed".to_owned()),
                time => Ok(time),
            })
        };
        let head_timeout = time("head-timeout", &self.head_timeout);
        let idle = time("idle-timeout", &self.idle_timeout);
        let stall = time("stall-timeout", &self.stall_timeout);
        let delay = self.drain_delay.as_ref();
        let drain_delay = required(errors, "drain-delay", delay, duration);
        let drain = required(errors, "drain", self.drain.as_ref(), duration);
        Some(Limits {
            connections: connections?,
            requests: requests?,
            waiting: waiting?,
            address_share: address_share?,
            // Options of their own.
            client_requests: None,
            client_rate: None,
            logins: logins?,
            head_bytes: head_bytes?,
            head_timeout: head_timeout?,
            idle: idle?,
            stall: stall?,
            drain_delay: drain_delay?,
            drain: drain?,
        })
    }
}
