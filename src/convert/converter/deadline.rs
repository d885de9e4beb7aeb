//! When the work on an image is given up: after a time, or when an operator says so.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::super::error::ConvertError;

/// Whether an operator cancelled a conversion.
#[derive(Debug)]
pub(super) struct Cancellation(watch::Sender<bool>);

impl Default for Cancellation {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Cancellation {
    pub(super) fn cancel(&self) {
        self.0.send_replace(true);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once it is cancelled.
    pub(super) async fn cancelled(&self) {
        // The sender is here, so that there is no other end of this.
        let _ = self
            .0
            .subscribe()
            .wait_for(|is_cancelled| *is_cancelled)
            .await;
    }
}

/// The instant at which the conversion of an image times out, unless it is cancelled before.
#[derive(Debug, Clone)]
pub(super) struct Deadline {
    at: Instant,
    timeout: Duration,
    cancellation: Arc<Cancellation>,
}

impl Deadline {
    /// `timeout` from now on.
    pub(super) fn after(timeout: Duration, cancellation: &Arc<Cancellation>) -> Self {
        Self {
            at: Instant::now() + timeout,
            timeout,
            cancellation: Arc::clone(cancellation),
        }
    }

    /// Waits for a future, at most until the deadline.
    ///
    /// # Errors
    /// [`ConvertError::TimedOut`] and [`ConvertError::Cancelled`].
    pub(super) async fn within<T>(&self, wait: impl Future<Output = T>) -> Result<T, ConvertError> {
        tokio::select! {
            biased;
            () = self.cancellation.cancelled() => Err(ConvertError::Cancelled),
            waited = timeout_at(self.at, wait) => {
                waited.map_err(|_| ConvertError::TimedOut(self.timeout))
            }
        }
    }
    /// Waits for a future that may take longer, such as a push, unless the conversion is cancelled.
    ///
    /// # Errors
    /// [`ConvertError::Cancelled`].
    pub(super) async fn unless_cancelled<T>(
        &self,
        wait: impl Future<Output = T>,
    ) -> Result<T, ConvertError> {
        tokio::select! {
            biased;
            () = self.cancellation.cancelled() => Err(ConvertError::Cancelled),
            waited = wait => Ok(waited),
        }
    }
}
