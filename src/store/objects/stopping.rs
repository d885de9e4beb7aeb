//! Uploads end with the process, and leave no parts behind.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::{Inner, MAX_UPLOADS};

/// Whether uploads are to end.
#[derive(Debug)]
pub(super) struct Stopping(watch::Sender<bool>);

impl Default for Stopping {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Stopping {
    pub(super) fn is_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until uploads are to end.
    pub(super) async fn begun(&self) {
        let mut begun = self.0.subscribe();
        // The sender is here.
        let _ = begun.wait_for(|begun| *begun).await;
    }
}

impl Inner {
    /// Has uploads in parts aborted, others given up, and begins none any more; waits until all have
    /// ended.
    pub(super) async fn stop(&self, within: Duration) {
        self.stopping.0.send_replace(true);
        let all = u32::try_from(MAX_UPLOADS).unwrap_or(u32::MAX);
        if timeout(within, self.uploads.acquire_many(all))
            .await
            .is_err()
        {
            tracing::warn!(
                bucket = self.bucket.place(),
                ?within,
                "the bucket does not answer: parts of uploads may stay in it until a lifecycle rule \
                 removes them"
            );
        }
    }
}
