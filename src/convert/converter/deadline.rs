//! When the work on an image is given up.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::super::error::ConvertError;

/// The instant at which the conversion of an image times out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    timeout: Duration,
}

impl Deadline {
    /// `timeout` from now on.
    pub(super) fn after(timeout: Duration) -> Self {
        Self {
            at: Instant::now() + timeout,
            timeout,
        }
    }

    /// Waits for a future, at most until the deadline.
    ///
    /// # Errors
    /// [`ConvertError::TimedOut`].
    pub(super) async fn within<T>(self, wait: impl Future<Output = T>) -> Result<T, ConvertError> {
        let waited = timeout_at(self.at, wait).await;
        waited.map_err(|_| ConvertError::TimedOut(self.timeout))
    }
}
