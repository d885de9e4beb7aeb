//! When the work on an image is given up.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::ConvertError;

/// The end of an image's time.
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

    /// Waits for something, but not beyond the image's time.
    ///
    /// # Errors
    /// [`ConvertError::TimedOut`].
    pub(super) async fn within<T>(self, wait: impl Future<Output = T>) -> Result<T, ConvertError> {
        let waited = timeout_at(self.at, wait).await;
        waited.map_err(|_| ConvertError::TimedOut(self.timeout))
    }
}
