//! Bounded numbers of places, of which one client address may have a share only.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

/// Places for connections, requests or waits. Cheap to clone; the clones are the same places.
#[derive(Debug, Clone)]
pub(in crate::server) struct Slots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    most: usize,
    /// The most for one client.
    share: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// A place that is taken until it is dropped.
#[derive(Debug)]
pub(in crate::server) struct Slot {
    slots: Slots,
    client: IpAddr,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Full {
    /// All are taken.
    Everywhere,
    /// This client has its share.
    ForClient,
}

/// What counts as one client: an IPv4 address, or the /64 that an IPv6 address is in.
pub(in crate::server) fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address @ IpAddr::V4(_) => address,
    }
}

impl Slots {
    /// So many places, of which one client may have `percent` in a hundred, but at least one.
    pub fn new(most: usize, percent: u8) -> Self {
        Self::with_most_for_one(most, percent, None)
    }

    /// As [`Slots::new`], of which one client may not have more than `most_for_one` either.
    pub fn with_most_for_one(most: usize, percent: u8, most_for_one: Option<usize>) -> Self {
        let part = most as u128 * u128::from(percent.min(100));
        let share = usize::try_from(part.div_ceil(100)).unwrap_or(most);
        Self(Arc::new(Inner {
            most: most.max(1),
            share: share.min(most_for_one.unwrap_or(usize::MAX)).max(1),
            taken: Mutex::default(),
        }))
    }

    /// Places without a bound, which are counted.
    pub fn unbounded() -> Self {
        Self::new(usize::MAX, 100)
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock()
    }

    /// A place for a client.
    ///
    /// # Errors
    /// When there is none.
    pub fn take(&self, client: IpAddr) -> Result<Slot, Full> {
        let mut taken = self.lock();
        if taken.all >= self.0.most {
            return Err(Full::Everywhere);
        }
        if taken.by_client.get(&client).copied().unwrap_or_default() >= self.0.share {
            return Err(Full::ForClient);
        }
        Ok(self.enter(&mut taken, client))
    }

    /// A place for a client that had one before and gave it away for a while: it is let in
    /// whatever the bounds say, so that nothing is refused that was begun.
    pub fn reacquire(&self, client: IpAddr) -> Slot {
        self.enter(&mut self.lock(), client)
    }

    fn enter(&self, taken: &mut Taken, client: IpAddr) -> Slot {
        taken.all = taken.all.saturating_add(1);
        let count = taken.by_client.entry(client).or_default();
        *count = count.saturating_add(1);
        Slot {
            slots: self.clone(),
            client,
        }
    }

    /// How many there are.
    pub fn most(&self) -> usize {
        self.0.most
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.lock().all
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.lock();
        taken.all = taken.all.saturating_sub(1);
        if let Some(count) = taken.by_client.get_mut(&self.client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str) -> IpAddr {
        client_of(text.parse().unwrap())
    }

    #[test]
    fn one_client_gets_its_share_and_others_the_rest() {
        let slots = Slots::new(4, 75);
        let (one, other) = (client("10.0.0.1"), client("10.0.0.2"));
        let mut held: Vec<Slot> = (0..3).map(|_| slots.take(one).unwrap()).collect();
        assert_eq!(slots.take(one).unwrap_err(), Full::ForClient);
        held.push(slots.take(other).unwrap());
        assert_eq!(slots.take(other).unwrap_err(), Full::Everywhere);
        // Who had a place gets one again.
        held.push(slots.reacquire(one));
        assert_eq!(slots.taken(), 5);
        held.clear();
        assert_eq!(slots.taken(), 0);
        assert!(slots.lock().by_client.is_empty());
    }

    #[test]
    fn a_share_is_at_least_one_place() {
        for (most, percent) in [(0, 0), (1, 1), (usize::MAX, 100)] {
            assert!(Slots::new(most, percent).take(client("::1")).is_ok());
        }
    }

    #[test]
    fn a_number_for_one_client_is_less_than_its_share_or_nothing() {
        for (most_for_one, wanted) in [(Some(2), 2), (Some(9), 5), (None, 5), (Some(0), 1)] {
            let slots = Slots::with_most_for_one(10, 50, most_for_one);
            let held: Vec<_> = (0..10).map(|_| slots.take(client("::1"))).collect();
            assert_eq!(held.iter().filter(|place| place.is_ok()).count(), wanted);
        }
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:0:1:2"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_eq!(client("::ffff:10.0.0.1"), client("10.0.0.1"));
        assert_ne!(client("10.0.0.1"), client("10.0.0.2"));
    }
}
