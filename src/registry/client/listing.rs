//! Locks for lists of referrers: each list is changed by one request at a time.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::oci::RepoName;

type Lock = tokio::sync::Mutex<()>;

/// A lock for each list that is being changed.
#[derive(Debug, Default)]
pub(super) struct Listings(Mutex<HashMap<(RepoName, String), Weak<Lock>>>);

impl Listings {
    /// The lock of the list under a tag, held while it is read, changed and written.
    pub(super) fn of(&self, repo: &RepoName, tag: String) -> Arc<Lock> {
        let mut known = self.0.lock();
        known.retain(|_, lock| lock.strong_count() > 0);
        let entry = known.entry((repo.clone(), tag)).or_default();
        entry.upgrade().unwrap_or_else(|| {
            let lock = Arc::new(Lock::default());
            *entry = Arc::downgrade(&lock);
            lock
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_list_has_its_lock_while_it_is_held() {
        let listings = Listings::default();
        let of = |repo: &str, tag: &str| listings.of(&repo.parse().unwrap(), tag.to_owned());
        let first = of("a", "x");
        assert!(Arc::ptr_eq(&first, &of("a", "x")));
        assert!(!Arc::ptr_eq(&first, &of("a", "y")));
        assert!(!Arc::ptr_eq(&first, &of("b", "x")));
        drop(first);
        drop(of("c", "x"));
        let _last = of("d", "x");
        assert_eq!(listings.0.lock().len(), 1);
    }
}
