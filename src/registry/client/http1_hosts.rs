//! Hosts that take requests over HTTP/1.1 only, although they offer HTTP/2: each says so once.

use std::time::Duration;

use http::uri::Authority;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Most hosts that are remembered of one registry and of where it leads. Of more, the oldest is
/// forgotten, which costs it a request.
const MAX_HOSTS: usize = 64;
/// How long it holds what a host said: it may be configured anew.
const HOLDS: Duration = Duration::from_mins(10);

/// Hosts that said so lately, and when.
#[derive(Debug, Default)]
pub(super) struct Http1Hosts(Mutex<Vec<(Authority, Instant)>>);

impl Http1Hosts {
    /// A host has said so.
    pub(super) fn remember(&self, host: Authority) {
        let mut hosts = self.0.lock();
        hosts.retain(|(known, since)| *known != host && since.elapsed() < HOLDS);
        if hosts.len() >= MAX_HOSTS {
            hosts.remove(0);
        }
        hosts.push((host, Instant::now()));
    }

    /// Whether a host has said so lately.
    pub(super) fn has(&self, host: &Authority) -> bool {
        let hosts = self.0.lock();
        let mut known = hosts.iter();
        known.any(|(known, since)| known == host && since.elapsed() < HOLDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Authority {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_host_said_holds_for_a_time() {
        let hosts = Http1Hosts::default();
        hosts.remember(host("a.example:443"));
        assert!(hosts.has(&host("A.example:443")));
        assert!(!hosts.has(&host("a.example")) && !hosts.has(&host("b.example:443")));
        tokio::time::advance(HOLDS / 2).await;
        assert!(hosts.has(&host("a.example:443")));
        tokio::time::advance(HOLDS / 2).await;
        assert!(!hosts.has(&host("a.example:443")));
        // Those that hold no longer are not kept either.
        hosts.remember(host("b.example"));
        assert_eq!(hosts.0.lock().len(), 1);
    }

    #[test]
    fn no_more_hosts_are_kept_than_the_bound_and_each_once() {
        let hosts = Http1Hosts::default();
        for number in 0..3 * MAX_HOSTS {
            hosts.remember(host(&format!("h{number}.example")));
            hosts.remember(host(&format!("h{number}.example")));
        }
        assert_eq!(hosts.0.lock().len(), MAX_HOSTS);
        assert!(hosts.has(&host(&format!("h{}.example", 3 * MAX_HOSTS - 1))));
        assert!(!hosts.has(&host("h0.example")));
    }
}
