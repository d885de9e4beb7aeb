//! A piece that is on its way, and those who wait for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::registry;

/// Why a piece could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum PieceError {
    /// The upstream.
    #[error(transparent)]
    Upstream(#[from] registry::Error),
    /// It sent something else.
    #[error("{found} bytes came where {wanted} were requested")]
    Short {
        /// What was asked for.
        wanted: u64,
        /// What came.
        found: u64,
    },
    /// It took too long.
    #[error("no answer within {0:?}")]
    Slow(Duration),
    /// The program ends.
    #[error("the program is ending")]
    Ended,
}

impl PieceError {
    /// Whether another request may succeed.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Upstream(error) => error.is_failing() || error.is_too_many_files(),
            Self::Short { .. } | Self::Slow(_) => true,
            Self::Ended => false,
        }
    }
}

/// What became of a piece.
pub(super) type Outcome = Result<Bytes, Arc<PieceError>>;

/// A piece on its way.
#[derive(Debug, Default)]
pub(super) struct Flight {
    outcome: Mutex<Option<Outcome>>,
    landed: Condvar,
}

impl Flight {
    /// Tells all who wait. Only the first outcome counts.
    pub(super) fn land(&self, outcome: Outcome) {
        self.outcome.lock().get_or_insert(outcome);
        self.landed.notify_all();
    }

    /// Blocks until it has landed, or for `limit`, which is longer than it can take if anybody
    /// works on it.
    pub(super) fn wait(&self, limit: Duration) -> Outcome {
        let mut outcome = self.outcome.lock();
        self.landed
            .wait_while_for(&mut outcome, |outcome| outcome.is_none(), limit);
        let slow = || Err(Arc::new(PieceError::Slow(limit)));
        outcome.clone().unwrap_or_else(slow)
    }
}
