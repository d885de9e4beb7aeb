//! Whose turn it is: so many layers at one time, and the small ones never behind only big ones.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Compressed bytes from which on a layer is big: it takes seconds.
const BIG: u64 = 64 << 20;

/// Turns to convert a layer, in the order of asking within a size class. One turn is kept
/// from big layers, if there is more than one.
pub(super) struct Turns {
    all: Semaphore,
    big: Semaphore,
}

/// A turn that is taken, until dropped.
pub(super) struct Turn<'a> {
    _all: Option<SemaphorePermit<'a>>,
    _big: Option<SemaphorePermit<'a>>,
}

impl Turns {
    pub(super) fn new(layers: usize) -> Self {
        let layers = layers.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            all: Semaphore::new(layers),
            big: Semaphore::new((layers - 1).max(1)),
        }
    }

    /// Waits for the turn of a layer of so many compressed bytes.
    pub(super) async fn take(&self, compressed: u64) -> Turn<'_> {
        // Neither is ever closed, so there is always a permit in the end.
        let big = match compressed {
            BIG.. => self.big.acquire().await.ok(),
            _ => None,
        };
        Turn {
            _big: big,
            _all: self.all.acquire().await.ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_small_layer_does_not_wait_for_big_ones() {
        let turns = Turns::new(2);
        let _big = turns.take(BIG).await;
        assert!(timeout(SOON, turns.take(BIG)).await.is_err());
        let small = timeout(SOON, turns.take(BIG - 1)).await;
        assert!(small.is_ok());
        assert!(timeout(SOON, turns.take(0)).await.is_err());
    }

    #[tokio::test]
    async fn a_single_turn_is_for_everyone() {
        let turns = Turns::new(1);
        drop(turns.take(BIG).await);
        drop(turns.take(1).await);
        let _big = turns.take(BIG).await;
        assert!(timeout(SOON, turns.take(1)).await.is_err());
    }
}
