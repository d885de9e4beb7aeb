//! Conversions that no client waits for: those of operators and of registries' notifications.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests for such conversions that are worked on at one time.
const MAX_REQUESTS: usize = 64;

/// How many more requests may be worked on.
pub(in crate::server) struct Unattended(Arc<Semaphore>);

impl Unattended {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_REQUESTS)))
    }

    /// The place of a request, until its conversions have ended; `None` if there are too many.
    pub fn begin(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }
}
