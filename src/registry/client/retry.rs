//! Which failures are retried, and when.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};

use crate::registry::{Error, RetryPolicy};

/// So many bytes between two failures count as progress: attempts are counted anew.
pub(super) const MIN_PROGRESS_BYTES: u64 = 64 << 10;

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) again: Again,
}

/// Whether another attempt is worth it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    Never,
    /// After a wait of our own choice.
    Later,
    /// After the wait that the upstream wishes.
    After(Duration),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            again: Again::Never,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl Failure {
    /// A failure that may pass.
    pub(super) fn passing(error: Error) -> Self {
        Self {
            error,
            again: Again::Later,
        }
    }
}

/// Whether a status may be another the next time.
pub(super) fn again(status: StatusCode, headers: &HeaderMap) -> Again {
    if !matches!(status.as_u16(), 408 | 429 | 500 | 502..=504) {
        return Again::Never;
    }
    retry_after(headers).map_or(Again::Later, Again::After)
}

/// `Retry-After`, which is a number of seconds or a date (RFC 9110 § 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// The attempts at one thing.
#[derive(Debug)]
pub(super) struct Attempts {
    policy: RetryPolicy,
    failed: u32,
}

impl Attempts {
    pub(super) fn new(policy: RetryPolicy) -> Self {
        Self { policy, failed: 0 }
    }

    /// One attempt only: another endpoint is next.
    pub(super) fn once(policy: RetryPolicy) -> Self {
        Self::new(RetryPolicy {
            attempts: 1,
            ..policy
        })
    }

    pub(super) fn policy(&self) -> RetryPolicy {
        self.policy
    }

    /// How many have failed.
    pub(super) fn failed(&self) -> u32 {
        self.failed
    }

    /// Begins to count anew: there was progress.
    pub(super) fn reset(&mut self) {
        self.failed = 0;
    }

    /// Waits before the next attempt, or gives up with the error.
    pub(super) async fn pause(&mut self, failure: Failure) -> Result<(), Error> {
        self.failed = self.failed.saturating_add(1);
        if self.failed >= self.policy.attempts {
            return Err(failure.error);
        }
        let wait = match failure.again {
            Again::Never => return Err(failure.error),
            Again::After(wait) if wait > self.policy.max_retry_after => return Err(failure.error),
            Again::After(wait) => wait.max(self.own_wait()),
            Again::Later => self.own_wait(),
        };
        tracing::debug!(error = %failure.error, ?wait, "trying again");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    // Random in the upper half, so that many that failed together do not retry together.
    fn own_wait(&self) -> Duration {
        let doublings = self.failed.saturating_sub(1).min(16);
        let full = self
            .policy
            .base
            .saturating_mul(1 << doublings)
            .min(self.policy.max);
        full.mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, text.parse().unwrap());
        headers
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_date() {
        assert_eq!(retry_after(&headers("7")), Some(Duration::from_secs(7)));
        let past = "Wed, 21 Oct 2015 07:28:00 GMT";
        assert_eq!(retry_after(&headers(past)), Some(Duration::ZERO));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_mins(1));
        let wait = retry_after(&headers(&soon)).unwrap();
        assert!(wait > Duration::from_secs(50) && wait <= Duration::from_mins(1));
        assert_eq!(retry_after(&headers("-1")), None);
        assert_eq!(retry_after(&headers("soon")), None);
    }

    #[test]
    fn waits_double_up_to_the_maximum() {
        let mut attempts = Attempts::new(RetryPolicy::default());
        for (failed, most) in [(1, 200), (2, 400), (3, 800), (9, 8000), (u32::MAX, 8000)] {
            attempts.failed = failed;
            let wait = attempts.own_wait();
            let most = Duration::from_millis(most);
            assert!(wait <= most && wait >= most / 2, "{failed}: {wait:?}");
        }
    }

    #[tokio::test]
    async fn permanent_failures_are_not_retried() {
        let mut attempts = Attempts::new(RetryPolicy::default());
        let failure = Failure::from(Error::Configuration("no".to_owned()));
        assert!(attempts.pause(failure).await.is_err());
        let mut attempts = Attempts::new(RetryPolicy::default());
        let failure = Failure {
            again: Again::After(Duration::from_hours(1)),
            error: Error::Configuration("busy".to_owned()),
        };
        assert!(attempts.pause(failure).await.is_err());
    }
}
