//! How long one request may wait.

use std::time::Duration;

use tokio::time::{Instant, error::Elapsed, timeout_at};

use crate::registry;

/// An upstream gets at least so long to say whether a client may have something, however short
/// the hold.
const LEAST: Duration = Duration::from_secs(1);
/// Longer than any request waits.
const FOREVER: Duration = Duration::from_hours(30 * 365 * 24);

/// The hold of one request, from its beginning: all of its waits together.
#[derive(Debug, Clone, Copy)]
pub(in crate::server) struct Hold {
    time: Duration,
    conversion: Instant,
    upstream: Instant,
}

impl Hold {
    /// A request begins that is held for so long at most.
    pub fn begin(time: Duration) -> Self {
        let now = Instant::now();
        let after = |time: Duration| now.checked_add(time).unwrap_or(now + FOREVER);
        Self {
            time,
            conversion: after(time),
            upstream: after(time.max(LEAST)),
        }
    }

    /// How long that is.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// Whether upstreams have had their time.
    pub fn is_over(&self) -> bool {
        self.upstream <= Instant::now()
    }

    /// Waits for a conversion.
    ///
    /// # Errors
    /// When the hold is over.
    pub async fn conversion<T>(&self, work: impl Future<Output = T>) -> Result<T, Elapsed> {
        timeout_at(self.conversion, work).await
    }

    /// Waits for what must be known before anything is answered.
    ///
    /// # Errors
    /// When the hold is over.
    pub async fn question<T>(&self, work: impl Future<Output = T>) -> Result<T, Elapsed> {
        timeout_at(self.upstream, work).await
    }

    /// Waits for an upstream, with all of its attempts.
    ///
    /// # Errors
    /// Its own, or that it was silent until the hold was over.
    pub async fn upstream<T>(
        &self,
        place: impl FnOnce() -> String,
        work: impl Future<Output = Result<T, registry::Error>>,
    ) -> Result<T, registry::Error> {
        self.question(work).await.unwrap_or_else(|_| {
            Err(registry::Error::TimedOut {
                place: place(),
                what: "answer",
                after: self.time.max(LEAST),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_waits_of_a_request_share_one_deadline() {
        let hold = Hold::begin(Duration::from_secs(20));
        let begun = Instant::now();
        let never = || std::future::pending::<Result<(), registry::Error>>();
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert!(!hold.is_over());
        let silent = hold.upstream(|| "x".to_owned(), never()).await;
        assert!(matches!(silent, Err(registry::Error::TimedOut { .. })));
        assert!(hold.is_over());
        assert!(hold.conversion(never()).await.is_err());
        assert_eq!(begun.elapsed().as_secs(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_of_zero_or_maximum_leaves_time_for_an_answer() {
        for time in [Duration::ZERO, Duration::MAX] {
            let hold = Hold::begin(time);
            let answer = async {
                tokio::time::sleep(Duration::from_millis(500)).await;
                Ok(7)
            };
            assert_eq!(hold.upstream(|| "x".to_owned(), answer).await.ok(), Some(7));
        }
    }
}
