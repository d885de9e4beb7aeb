//! Conversions that were begun with a client's token go on with those of the clients that wait.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::Key;
use crate::registry::{Authorization, Renewal};

/// So many are kept before those that nobody uses any more are looked for.
const FEW: usize = 64;

/// The credentials of the conversions that are under way.
#[derive(Debug, Default)]
pub(super) struct Renewals(Mutex<HashMap<Key, Renewal>>);

impl Renewals {
    /// The credentials for the conversion of `key`, which go on with `authorization` when those
    /// that it was begun with are refused. The upstream must have accepted `authorization` for
    /// the source.
    pub(super) fn join(&self, key: &Key, authorization: &Authorization) -> Authorization {
        let Authorization::Client(given) = authorization else {
            return authorization.clone();
        };
        let mut known = self.0.lock();
        if let Some(renewal) = known.get(key).filter(|renewal| !renewal.is_last()) {
            if let Some(given) = given {
                renewal.offer(given.clone());
            }
            return Authorization::Renewed(renewal.clone());
        }
        if known.len() >= FEW {
            known.retain(|_, renewal| !renewal.is_last());
        }
        let renewal = Renewal::new(given.clone());
        known.insert(key.clone(), renewal.clone());
        Authorization::Renewed(renewal)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::oci::Digest;

    fn key(number: usize) -> Key {
        Key {
            host: "up.example".to_owned(),
            repo: "a".parse().unwrap(),
            source: Digest::of(number.to_string().as_bytes()),
        }
    }

    fn client(text: &'static str) -> Authorization {
        Authorization::Client(Some(HeaderValue::from_static(text)))
    }

    fn renewal(authorization: Authorization) -> Renewal {
        match authorization {
            Authorization::Renewed(renewal) => renewal,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_those_of_the_same_image_are_shared_and_only_while_they_are_used() {
        let renewals = Renewals::default();
        let first = renewal(renewals.join(&key(1), &client("a")));
        let second = renewal(renewals.join(&key(1), &client("b")));
        let other = renewal(renewals.join(&key(2), &client("c")));
        let refused = first.current();
        assert_eq!(first.after(refused.as_ref()).unwrap(), "b");
        assert_eq!(second.current().unwrap(), "b");
        assert_eq!(other.current().unwrap(), "c");
        drop((first, second));
        let fresh = renewal(renewals.join(&key(1), &client("d")));
        assert_eq!(fresh.current().unwrap(), "d");
        assert!(matches!(
            renewals.join(&key(1), &Authorization::Own),
            Authorization::Own
        ));
    }

    #[test]
    fn what_nobody_uses_is_forgotten() {
        let renewals = Renewals::default();
        for number in 0..10 * FEW {
            drop(renewals.join(&key(number), &client("a")));
        }
        assert!(renewals.0.lock().len() <= FEW);
    }
}
