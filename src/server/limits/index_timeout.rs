//! An index that other machines share, as far as requests wait for it.
//!
//! Most requests are about nothing of ours, and must not become slow with the database. So a
//! question has a moment; when the database was silent for so long, only one question in a while
//! tries again, and all others do without.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::timeout;

use crate::store::IndexError;

/// How long a question may take.
const MOMENT: Duration = Duration::from_millis(700);
/// How long a silent database is not asked.
const REST: Duration = Duration::from_secs(2);

/// Whether the index is worth asking.
#[derive(Debug, Default)]
pub(in crate::server) struct IndexTimeout {
    /// When a silent database is asked again; `None` while it answers.
    again: Mutex<Option<Instant>>,
}

impl IndexTimeout {
    /// Asks, unless the database was silent a moment ago.
    ///
    /// # Errors
    /// Those of the question, or [`IndexError::Unavailable`].
    pub async fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, IndexError>>,
    ) -> Result<T, IndexError> {
        if !self.may_ask() {
            return Err(silent("it was silent a moment ago"));
        }
        let Ok(answer) = timeout(MOMENT, question).await else {
            let before = self.set(Some(Instant::now() + REST));
            if before.is_none() {
                tracing::warn!(
                    after = ?MOMENT,
                    "the index is silent: what is not converted passes without it"
                );
            }
            return Err(silent("it gives no answer in time"));
        };
        // Whatever it says, it speaks.
        if self.set(None).is_some() {
            tracing::info!("the index answers again");
        }
        answer
    }

    /// Whether this question is to be asked; of those that come while the database is silent, one
    /// in a while.
    fn may_ask(&self) -> bool {
        let now = Instant::now();
        let mut again = self.again.lock();
        match *again {
            None => true,
            Some(at) if at > now => false,
            Some(_) => {
                *again = Some(now + REST);
                true
            }
        }
    }

    fn set(&self, to: Option<Instant>) -> Option<Instant> {
        let mut again = self.again.lock();
        std::mem::replace(&mut *again, to)
    }
}

fn silent(reason: &str) -> IndexError {
    IndexError::Unavailable {
        index: "the database".to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_silent_index_is_asked_once_in_a_while() {
        let index_timeout = IndexTimeout::default();
        let never = || std::future::pending::<Result<u8, IndexError>>();
        let good = || std::future::ready(Ok::<u8, IndexError>(7));
        assert_eq!(index_timeout.ask(good()).await.unwrap(), 7);
        assert!(
            index_timeout
                .ask(never())
                .await
                .unwrap_err()
                .is_unavailable()
        );
        // At rest, even a good one is not asked.
        assert!(
            index_timeout
                .ask(good())
                .await
                .unwrap_err()
                .is_unavailable()
        );
        index_timeout.set(Some(Instant::now()));
        assert!(index_timeout.may_ask() && !index_timeout.may_ask());
        index_timeout.set(Some(Instant::now()));
        assert_eq!(index_timeout.ask(good()).await.unwrap(), 7);
        assert!(index_timeout.may_ask() && index_timeout.may_ask());
    }
}
