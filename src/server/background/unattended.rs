//! Conversions that no client waits for: those of operators and of registries' notifications.
//!
//! Each kind has places of its own, so that no flood of notifications keeps operators out.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Conversions of operators that are worked on at one time.
const MAX_OPERATORS: usize = 64;
/// Notifications that are worked on at one time.
const MAX_NOTIFICATIONS: usize = 64;
/// Tags that are waited for at one time: a name and a timer each.
const MAX_TAGS: usize = 1024;

/// How much more may be worked on.
pub(in crate::server) struct Unattended {
    operators: Arc<Semaphore>,
    notifications: Arc<Semaphore>,
    tags: Arc<Semaphore>,
}

/// A place, until it is dropped.
type Place = OwnedSemaphorePermit;

fn try_one(places: &Arc<Semaphore>) -> Option<Place> {
    Arc::clone(places).try_acquire_owned().ok()
}

impl Unattended {
    pub fn new() -> Self {
        let places = |most| Arc::new(Semaphore::new(most));
        Self {
            operators: places(MAX_OPERATORS),
            notifications: places(MAX_NOTIFICATIONS),
            tags: places(MAX_TAGS),
        }
    }

    /// The place of an operator's conversion, until it has ended; `None` if there are too many.
    pub fn operator(&self) -> Option<Place> {
        try_one(&self.operators)
    }

    /// The place of a notification, until its conversions have ended; `None` if there are too many.
    pub fn notification(&self) -> Option<Place> {
        try_one(&self.notifications)
    }

    /// As [`notification`](Self::notification), of a tag that was waited for: waits until there is one.
    pub async fn notified_tag(&self) -> Option<Place> {
        // They are never closed.
        Arc::clone(&self.notifications).acquire_owned().await.ok()
    }

    /// The place of a tag that is waited for; `None` if there are too many.
    pub fn awaited_tag(&self) -> Option<Place> {
        try_one(&self.tags)
    }
}
