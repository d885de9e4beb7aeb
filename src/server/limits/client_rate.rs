//! How many requests that cost something one client may make.
//!
//! The generic cell rate algorithm (ITU-T I.371, § A): of each client one instant is kept, that at
//! which all of its requests up to now would have come had they come evenly. Refused requests do
//! not count, so a client that goes on asking is let in again when it would be without.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::sync::Cache;
use parking_lot::{Mutex, RwLock};

use crate::server::config::ClientRate;

/// Most clients of which it is known when they asked; about 100 bytes each. Of more, those that
/// ask seldom are forgotten first.
const MAX_CLIENTS: u64 = 50_000;
/// How often it is logged that requests are refused.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Whose requests count together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Client {
    /// One of the proxy's own users, as a hash of the name.
    User(u64),
    Address(IpAddr),
}

/// The rates of all clients.
#[derive(Debug)]
pub(in crate::server) struct ClientRates {
    clients: RwLock<Option<Arc<Clients>>>,
    names: RandomState,
    logged: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Clients {
    rate: ClientRate,
    /// When all of a client's requests would have come.
    theoretical: Cache<Client, Arc<Mutex<Instant>>>,
}

impl ClientRates {
    pub fn new(rate: Option<ClientRate>) -> Self {
        let rates = Self {
            clients: RwLock::default(),
            names: RandomState::new(),
            logged: Mutex::default(),
        };
        rates.set(rate);
        rates
    }

    /// Limits clients to another rate from now on. The same one changes nothing.
    pub fn set(&self, rate: Option<ClientRate>) {
        let mut clients = self.clients.write();
        if clients.as_ref().map(|clients| clients.rate) != rate {
            *clients = rate.map(|rate| Arc::new(Clients::new(rate)));
        }
    }

    /// Counts a request of a client: of `user`, where the proxy knows them, or else of an address.
    ///
    /// # Errors
    /// How long it is until the client may ask again.
    pub fn count(&self, user: Option<&str>, address: IpAddr) -> Result<(), Duration> {
        let Some(clients) = self.clients.read().clone() else {
            return Ok(());
        };
        let client = match user {
            Some(user) => Client::User(self.names.hash_one(user)),
            None => Client::Address(address),
        };
        let wait = match clients.count(client, Instant::now()) {
            Ok(()) => return Ok(()),
            Err(wait) => wait,
        };
        let mut logged = self.logged.lock();
        if logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            *logged = Some(Instant::now());
            tracing::warn!(
                client = %address,
                user,
                "requests are refused: the client made more than --client-rate allows"
            );
        }
        Err(wait)
    }
}

impl Clients {
    fn new(rate: ClientRate) -> Self {
        Self {
            rate,
            theoretical: Cache::builder()
                .max_capacity(MAX_CLIENTS)
                // Then it may make as many at once as one that never came.
                .time_to_idle(rate.interval.saturating_mul(rate.burst) + Duration::from_secs(1))
                .build(),
        }
    }

    fn count(&self, client: Client, now: Instant) -> Result<(), Duration> {
        let entry = self
            .theoretical
            .get_with(client, || Arc::new(Mutex::new(now)));
        let mut theoretical = entry.lock();
        let ahead = theoretical.saturating_duration_since(now);
        let allowed = self
            .rate
            .interval
            .saturating_mul(self.rate.burst.saturating_sub(1));
        let wait = ahead.checked_sub(allowed);
        if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
            return Err(wait);
        }
        *theoretical = (*theoretical).max(now) + self.rate.interval;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Client = Client::User(1);
    const OTHER: Client = Client::User(2);

    fn rate(interval: u64, burst: u32) -> ClientRate {
        ClientRate {
            interval: Duration::from_millis(interval),
            burst,
        }
    }

    #[test]
    fn a_burst_is_let_in_and_then_one_an_interval() {
        let clients = Clients::new(rate(100, 3));
        let begun = Instant::now();
        let at = |time| begun + Duration::from_millis(time);
        for _ in 0..3 {
            assert_eq!(clients.count(ONE, at(0)), Ok(()));
        }
        for _ in 0..5 {
            assert_eq!(clients.count(ONE, at(0)), Err(Duration::from_millis(100)));
        }
        // Another client has its own.
        assert_eq!(clients.count(OTHER, at(0)), Ok(()));
        assert_eq!(clients.count(ONE, at(60)), Err(Duration::from_millis(40)));
        assert_eq!(clients.count(ONE, at(100)), Ok(()));
        assert_eq!(clients.count(ONE, at(199)), Err(Duration::from_millis(1)));
        // After a pause it is as at first.
        let allowed = (0..10).filter(|_| clients.count(ONE, at(9000)).is_ok());
        assert_eq!(allowed.count(), 3);
    }

    #[test]
    fn over_time_no_client_gets_more_than_its_rate() {
        let clients = Clients::new(rate(100, 5));
        let begun = Instant::now();
        let asked = (0..20_000).map(|time| begun + Duration::from_millis(time));
        let allowed = asked.filter(|at| clients.count(ONE, *at).is_ok()).count();
        assert_eq!(allowed, 5 + 199);
    }

    #[test]
    fn the_clients_that_are_known_are_bounded() {
        let clients = Clients::new(rate(1000, 1));
        let now = Instant::now();
        for number in 0..3 * MAX_CLIENTS {
            let _ = clients.count(Client::User(number), now);
        }
        clients.theoretical.run_pending_tasks();
        assert!(clients.theoretical.entry_count() <= MAX_CLIENTS);
    }

    #[test]
    fn another_rate_holds_at_once_and_the_same_forgets_nothing() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let rates = ClientRates::new(None);
        assert!((0..100).all(|_| rates.count(None, address).is_ok()));
        rates.set(Some(rate(60_000, 1)));
        assert_eq!(rates.count(None, address), Ok(()));
        rates.set(Some(rate(60_000, 1)));
        assert!(rates.count(None, address).is_err());
        assert_eq!(rates.count(Some("ann"), address), Ok(()));
        rates.set(Some(rate(60_000, 2)));
        assert_eq!(rates.count(None, address), Ok(()));
    }
}
