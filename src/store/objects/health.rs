//! Whether the storage answers: what is read of it, and what is written to it, apart, because one may
//! fail while the other goes on.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::error::ObjectError;

/// How long the storage is not asked for what somebody waits for after it gave no answer.
const BACKOFF: Duration = Duration::from_secs(30);

/// Whether reading and writing work.
#[derive(Debug, Default)]
pub(super) struct Health {
    pub(super) reads: Requests,
    pub(super) writes: Requests,
    /// Uploads that somebody waited for too long, although the storage answers.
    pub(super) waits: Requests,
}

/// The last failure of requests of one kind, until one succeeds.
#[derive(Debug, Default)]
pub(super) struct Requests(Mutex<Option<Failure>>);

#[derive(Debug)]
struct Failure {
    at: Instant,
    text: String,
}

impl Health {
    /// Why there is no answer, if the last request of either kind had none.
    pub(super) fn trouble(&self) -> Option<String> {
        self.writes.trouble().or_else(|| self.reads.trouble())
    }

    pub(super) fn is_up(&self) -> bool {
        self.trouble().is_none()
    }

    /// Whether a blob is not uploaded now while somebody waits for it: that reads and writes.
    pub(super) fn in_backoff(&self) -> bool {
        self.reads.in_backoff() || self.writes.in_backoff() || self.waits.in_backoff()
    }
}

impl Requests {
    /// Notes the outcome of a request.
    pub(super) fn record<T>(&self, result: Result<T, ObjectError>) -> Result<T, ObjectError> {
        match &result {
            Ok(_) => *self.0.lock() = None,
            Err(error) if error.is_of_storage() => {
                *self.0.lock() = Some(Failure {
                    at: Instant::now(),
                    text: error.to_string(),
                });
            }
            Err(_) => {}
        }
        result
    }

    fn trouble(&self) -> Option<String> {
        self.0.lock().as_ref().map(|failure| failure.text.clone())
    }

    /// Whether one failed a moment ago: not worth another now that somebody waits for.
    pub(super) fn in_backoff(&self) -> bool {
        let failure = self.0.lock();
        failure
            .as_ref()
            .is_some_and(|failure| failure.at.elapsed() < BACKOFF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_a_read_says_nothing_of_writes() {
        let health = Health::default();
        let failed: Result<(), _> = Err(ObjectError::Unavailable {
            what: "uploading a blob to",
            place: "s3://images".to_owned(),
            cause: "503".to_owned(),
        });
        assert!(health.writes.record(failed).is_err());
        assert!(health.reads.record(Ok(())).is_ok());
        assert!(health.in_backoff() && !health.reads.in_backoff());
        assert!(health.trouble().is_some_and(|text| text.contains("503")));
        assert!(health.writes.record(Ok(())).is_ok());
        assert!(health.is_up() && !health.in_backoff());
    }
}
