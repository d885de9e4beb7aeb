//! A client's `Authorization`, replaced by that of another client when it expires.

use std::fmt;
use std::sync::Arc;

use http::HeaderValue;
use parking_lot::Mutex;

/// Credentials of several clients that may have the same content, for work that is done for all
/// of them and outlives a token. Cheap to clone; the clones are the same credentials.
#[derive(Clone)]
pub struct Renewal(Arc<Mutex<State>>);

struct State {
    /// What requests carry.
    current: Option<HeaderValue>,
    /// What came last, for when `current` is refused.
    newest: Option<HeaderValue>,
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Renewal(***)")
    }
}

impl Renewal {
    /// Begins with these credentials; `None` for none at all.
    #[must_use]
    pub fn new(first: Option<HeaderValue>) -> Self {
        Self(Arc::new(Mutex::new(State {
            current: first,
            newest: None,
        })))
    }

    fn state(&self) -> parking_lot::MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Keeps credentials that the upstream has accepted for the same content, for when those in
    /// use are refused.
    pub fn offer(&self, newest: HeaderValue) {
        let mut state = self.state();
        state.newest = (state.current.as_ref() != Some(&newest)).then_some(newest);
    }

    /// What a request carries now.
    #[must_use]
    pub fn current(&self) -> Option<HeaderValue> {
        self.state().current.clone()
    }

    /// What to go on with after `refused`; `None` if there is nothing else.
    #[must_use]
    pub fn after(&self, refused: Option<&HeaderValue>) -> Option<HeaderValue> {
        let mut state = self.state();
        if state.current.as_ref() == refused {
            state.current = Some(state.newest.take()?);
        }
        state.current.clone()
    }

    /// Whether this is the last clone of these credentials.
    pub(crate) fn is_last(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_credentials_are_replaced_by_the_newest_once() {
        let value = |text| HeaderValue::from_static(text);
        let renewal = Renewal::new(Some(value("a")));
        assert_eq!(renewal.after(Some(&value("a"))), None);
        renewal.offer(value("b"));
        renewal.offer(value("c"));
        // What works is not replaced.
        assert_eq!(renewal.current(), Some(value("a")));
        assert_eq!(renewal.after(Some(&value("a"))), Some(value("c")));
        // Another request that carried the first one.
        assert_eq!(renewal.after(Some(&value("a"))), Some(value("c")));
        assert_eq!(renewal.after(Some(&value("c"))), None);
        renewal.offer(value("c"));
        assert_eq!(renewal.after(Some(&value("c"))), None);
    }
}
