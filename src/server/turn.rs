//! A request's place: among those that are worked on, or among those that wait.
//!
//! What waits for a conversion or an upstream costs next to nothing, and may be much; so it is
//! counted apart, and never keeps those out whose answer is there.

use std::net::IpAddr;

use parking_lot::Mutex;

use super::config::Limits;
use super::places::{Full, Place, Places};

/// The places of all requests.
#[derive(Debug)]
pub(super) struct Waits {
    /// Requests being worked on.
    pub requests: Places,
    /// Waiting for a conversion.
    pub conversions: Places,
    /// Waiting for an upstream's answer that is passed on: of each upstream.
    pub upstreams: Vec<Places>,
    /// Waiting for what tells whether something that is here may be answered. It is not refused:
    /// the number of connections bounds it.
    pub permissions: Places,
}

impl Waits {
    pub fn new(limits: &Limits, upstreams: usize) -> Self {
        let places = |most| Places::new(most, limits.address_share);
        Self {
            requests: places(limits.requests),
            conversions: places(limits.waiting),
            upstreams: (0..upstreams).map(|_| places(limits.waiting)).collect(),
            permissions: Places::unbounded(),
        }
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        let places = self.upstreams.iter();
        let places = places.chain([&self.conversions, &self.permissions]);
        places.map(Places::taken).fold(0, usize::saturating_add)
    }
}

/// The place of one request, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    pub client: IpAddr,
    requests: Places,
    place: Mutex<Option<Place>>,
}

impl Turn {
    /// The turn of a request that begins, and why it has no place if it has none.
    pub fn begin(requests: &Places, client: IpAddr) -> (Self, Option<Full>) {
        let (place, full) = match requests.take(client) {
            Ok(place) => (Some(place), None),
            Err(full) => (None, Some(full)),
        };
        let turn = Self {
            client,
            requests: requests.clone(),
            place: Mutex::new(place),
        };
        (turn, full)
    }

    /// Waits in one of `places`, and does not count as being worked on meanwhile.
    ///
    /// # Errors
    /// When there is no such place; nothing was begun then.
    pub async fn wait<T>(&self, places: &Places, work: impl Future<Output = T>) -> Result<T, Full> {
        let place = places.take(self.client)?;
        let away = Away {
            turn: self,
            place: Some(place),
        };
        self.set(None);
        let done = work.await;
        drop(away);
        Ok(done)
    }

    fn set(&self, place: Option<Place>) {
        let mut own = self.place.lock();
        let before = std::mem::replace(&mut *own, place);
        drop(own);
        drop(before);
    }
}

/// A request that waits; it goes on when this is dropped.
struct Away<'a> {
    turn: &'a Turn,
    place: Option<Place>,
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        drop(self.place.take());
        self.turn
            .set(Some(self.turn.requests.take_again(self.turn.client)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_that_waits_leaves_its_place_to_others() {
        let requests = Places::new(1, 100);
        let waits = Places::new(1, 100);
        let client = IpAddr::from([10, 0, 0, 1]);
        let (turn, full) = Turn::begin(&requests, client);
        assert_eq!(full, None);
        assert_eq!(Turn::begin(&requests, client).1, Some(Full::Everywhere));
        let counted = turn.wait(&waits, async { (requests.taken(), waits.taken()) });
        assert_eq!(counted.await, Ok((0, 1)));
        assert_eq!((requests.taken(), waits.taken()), (1, 0));
        // A wait that is given up ends as well.
        let mut given_up = Box::pin(turn.wait(&waits, std::future::pending::<()>()));
        assert!(futures_util::poll!(&mut given_up).is_pending());
        assert_eq!((requests.taken(), waits.taken()), (0, 1));
        let (second, _) = Turn::begin(&requests, client);
        assert_eq!(second.wait(&waits, async {}).await, Err(Full::Everywhere));
        drop(given_up);
        assert_eq!((requests.taken(), waits.taken()), (2, 0));
        drop((turn, second));
        assert_eq!(requests.taken(), 0);
    }
}
