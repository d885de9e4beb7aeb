//! A request's place: among those that are worked on, or among those that wait.
//!
//! What waits for a conversion or an upstream costs next to nothing, and may be much; so it is
//! counted apart, and never keeps those out whose answer is there.

use std::net::IpAddr;

use parking_lot::Mutex;

use crate::server::config::Limits;
use crate::server::limits::slots::{Full, Slot, Slots};

/// The places of all requests.
#[derive(Debug)]
pub(in crate::server) struct RequestLimits {
    /// Requests being worked on.
    pub requests: Slots,
    /// Waiting for a conversion.
    pub conversions: Slots,
    /// Waiting for an upstream's answer that is passed on: of each upstream.
    pub upstreams: Vec<Slots>,
    /// Waiting for what tells whether something that is here may be answered. It is not refused:
    /// the number of connections bounds it.
    pub permissions: Slots,
}

impl RequestLimits {
    pub fn new(limits: &Limits, upstreams: usize) -> Self {
        let (share, most_for_one) = (limits.address_share, limits.client_requests);
        let slots = |most| Slots::with_most_for_one(most, share, most_for_one);
        Self {
            requests: slots(limits.requests),
            conversions: slots(limits.waiting),
            upstreams: (0..upstreams).map(|_| slots(limits.waiting)).collect(),
            permissions: Slots::unbounded(),
        }
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        let [conversion, upstream, permission] = self.waiting_by_cause();
        conversion
            .saturating_add(upstream)
            .saturating_add(permission)
    }

    /// How many requests wait: for a conversion, for an upstream's answer, and for what tells
    /// whether something may be answered.
    pub fn waiting_by_cause(&self) -> [usize; 3] {
        let upstreams = self.upstreams.iter().map(Slots::taken);
        [
            self.conversions.taken(),
            upstreams.fold(0, usize::saturating_add),
            self.permissions.taken(),
        ]
    }
}

/// The place of one request, until it is dropped.
#[derive(Debug)]
pub(in crate::server) struct RequestSlot {
    pub client: IpAddr,
    requests: Slots,
    place: Mutex<Option<Slot>>,
}

impl RequestSlot {
    /// The turn of a request that begins, and why it has no place if it has none.
    pub fn begin(requests: &Slots, client: IpAddr) -> (Self, Option<Full>) {
        let (place, full) = match requests.take(client) {
            Ok(place) => (Some(place), None),
            Err(full) => (None, Some(full)),
        };
        let slot = Self {
            client,
            requests: requests.clone(),
            place: Mutex::new(place),
        };
        (slot, full)
    }

    /// Waits in one of `places`, and does not count as being worked on meanwhile.
    ///
    /// # Errors
    /// When there is no such place; nothing was begun then.
    pub async fn wait<T>(&self, slots: &Slots, work: impl Future<Output = T>) -> Result<T, Full> {
        let place = slots.take(self.client)?;
        let away = Away {
            slot: self,
            place: Some(place),
        };
        self.set(None);
        let done = work.await;
        drop(away);
        Ok(done)
    }

    fn set(&self, place: Option<Slot>) {
        let mut own = self.place.lock();
        let before = std::mem::replace(&mut *own, place);
        drop(own);
        drop(before);
    }
}

/// A request that waits; it goes on when this is dropped.
struct Away<'a> {
    slot: &'a RequestSlot,
    place: Option<Slot>,
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        drop(self.place.take());
        self.slot
            .set(Some(self.slot.requests.reacquire(self.slot.client)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_waiting_request_releases_its_slot() {
        let requests = Slots::new(1, 100);
        let limits = Slots::new(1, 100);
        let client = IpAddr::from([10, 0, 0, 1]);
        let (slot, full) = RequestSlot::begin(&requests, client);
        assert_eq!(full, None);
        assert_eq!(
            RequestSlot::begin(&requests, client).1,
            Some(Full::Everywhere)
        );
        let counted = slot.wait(&limits, async { (requests.taken(), limits.taken()) });
        assert_eq!(counted.await, Ok((0, 1)));
        assert_eq!((requests.taken(), limits.taken()), (1, 0));
        // A wait that is given up ends as well.
        let mut given_up = Box::pin(slot.wait(&limits, std::future::pending::<()>()));
        assert!(futures_util::poll!(&mut given_up).is_pending());
        assert_eq!((requests.taken(), limits.taken()), (0, 1));
        let (second, _) = RequestSlot::begin(&requests, client);
        assert_eq!(second.wait(&limits, async {}).await, Err(Full::Everywhere));
        drop(given_up);
        assert_eq!((requests.taken(), limits.taken()), (2, 0));
        drop((slot, second));
        assert_eq!(requests.taken(), 0);
    }
}
