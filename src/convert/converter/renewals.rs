//! Credentials of running conversions: one that was started with a client's token continues with
//! the tokens of the clients that joined it.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::key::ImageKey;
use crate::registry::{Authorization, Renewal};

/// From this many entries on, those that are not used any more are removed.
const CLEANUP_THRESHOLD: usize = 64;

/// The credentials of the running conversions.
#[derive(Debug, Default)]
pub(super) struct Renewals(Mutex<HashMap<ImageKey, Renewal>>);

impl Renewals {
    /// The credentials for the conversion of `key`, which continue with `authorization` when those
    /// that it was started with are refused. The upstream must have accepted `authorization` for
    /// the source.
    pub(super) fn join(&self, key: &ImageKey, authorization: &Authorization) -> Authorization {
        let Authorization::Client(given) = authorization else {
            return authorization.clone();
        };
        let mut renewals = self.0.lock();
        if let Some(renewal) = renewals.get(key).filter(|renewal| !renewal.is_last()) {
            if let Some(given) = given {
                renewal.offer(given.clone());
            }
            return Authorization::Renewed(renewal.clone());
        }
        if renewals.len() >= CLEANUP_THRESHOLD {
            renewals.retain(|_, renewal| !renewal.is_last());
        }
        let renewal = Renewal::new(given.clone());
        renewals.insert(key.clone(), renewal.clone());
        Authorization::Renewed(renewal)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::oci::Digest;

    fn key(number: usize) -> ImageKey {
        ImageKey {
            host: "up.example".to_owned(),
            repo: "a".parse().unwrap(),
            source: Digest::of(number.to_string().as_bytes()),
            variant: "v1".into(),
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
    fn renewals_are_shared_for_one_image_while_they_are_used() {
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
    fn entries_that_are_not_used_are_removed() {
        let renewals = Renewals::default();
        for number in 0..10 * CLEANUP_THRESHOLD {
            drop(renewals.join(&key(number), &client("a")));
        }
        assert!(renewals.0.lock().len() <= CLEANUP_THRESHOLD);
    }
}
