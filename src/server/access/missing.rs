//! What upstreams do not have, remembered for seconds: a storm of pulls of something that is not
//! there is one question. Only for the credentials that were told so.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::future::Cache;
use parking_lot::Mutex;

use crate::registry::Error;

/// How long it is remembered that there is no such thing.
const MISSING_FOR: Duration = Duration::from_secs(5);
/// Most of what is not there that is remembered.
const MAX_MISSING: u64 = 10_000;

/// What was not there, by the keys of the questions.
pub(in crate::server) struct Missing {
    known: Cache<[u8; 32], Error>,
    /// Counts what was written through this proxy, which may be there now.
    writes: AtomicU64,
    last_write: Mutex<Option<Instant>>,
}

impl Missing {
    pub fn new() -> Self {
        Self {
            known: Cache::builder()
                .max_capacity(MAX_MISSING)
                .time_to_live(MISSING_FOR)
                .build(),
            writes: AtomicU64::new(0),
            last_write: Mutex::new(None),
        }
    }

    /// The answer to a question: the remembered one, or the one that is asked for now.
    ///
    /// # Errors
    /// Those of the question.
    pub async fn or_ask<T>(
        &self,
        key: [u8; 32],
        question: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        if let Some(error) = self.known.get(&key).await {
            return Err(error);
        }
        let before = self.writes.load(Ordering::SeqCst);
        let answer = question.await;
        if let Err(error @ Error::NotFound { .. }) = &answer {
            self.known.insert(key, error.clone()).await;
            // What was written meanwhile may be it.
            if self.writes.load(Ordering::SeqCst) != before {
                self.known.invalidate(&key).await;
            }
        }
        answer
    }

    /// Something was written through this proxy: what was not there may be.
    pub fn written(&self) {
        self.writes.fetch_add(1, Ordering::SeqCst);
        *self.last_write.lock() = Some(Instant::now());
        self.known.invalidate_all();
    }

    /// How long ago something was written through this proxy.
    pub fn since_write(&self) -> Duration {
        let last = *self.last_write.lock();
        last.map_or(Duration::MAX, |last| last.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_found() -> Result<(), Error> {
        Err(Error::NotFound {
            place: String::new(),
            detail: String::new(),
        })
    }

    #[tokio::test]
    async fn only_what_is_not_there_is_remembered_and_until_something_is_written() {
        let missing = Missing::new();
        let key = [1; 32];
        assert!(missing.or_ask(key, async { not_found() }).await.is_err());
        let unasked = async { panic!("asked again") };
        let again: Result<(), Error> = missing.or_ask(key, unasked).await;
        assert!(again.is_err_and(|error| error.is_not_found()));
        assert!(missing.or_ask([2; 32], async { Ok(()) }).await.is_ok());
        missing.written();
        assert!(missing.or_ask(key, async { Ok(()) }).await.is_ok());
        let failing = async { Err::<(), _>(Error::Configuration(String::new())) };
        assert!(missing.or_ask(key, failing).await.is_err());
        assert!(missing.or_ask(key, async { Ok(()) }).await.is_ok());
    }

    #[tokio::test]
    async fn an_answer_from_before_a_write_is_not_remembered() {
        let missing = Missing::new();
        let key = [1; 32];
        let question = async {
            missing.written();
            not_found()
        };
        assert!(missing.or_ask(key, question).await.is_err());
        assert!(missing.or_ask(key, async { Ok(()) }).await.is_ok());
    }
}
