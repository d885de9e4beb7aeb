//! Permits for a bounded number of layers to be converted at one time.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Compressed bytes from which on a layer is big: converting it takes seconds.
const BIG_LAYER_BYTES: u64 = 64 << 20;

/// Permits to convert a layer, first come, first served within a size class. If there is more
/// than one permit, one is not given to big layers, so that a small layer never waits for big
/// ones only.
pub(super) struct LayerPermits {
    all: Semaphore,
    big: Semaphore,
}

/// A permit, until dropped.
pub(super) struct LayerPermit<'a> {
    _all: Option<SemaphorePermit<'a>>,
    _big: Option<SemaphorePermit<'a>>,
}

impl LayerPermits {
    pub(super) fn new(layers: usize) -> Self {
        let layers = layers.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            all: Semaphore::new(layers),
            big: Semaphore::new((layers - 1).max(1)),
        }
    }

    /// Waits for a permit for a layer of so many compressed bytes.
    pub(super) async fn acquire(&self, compressed: u64) -> LayerPermit<'_> {
        // Neither is ever closed, so there is always a permit in the end.
        let big = match compressed {
            BIG_LAYER_BYTES.. => self.big.acquire().await.ok(),
            _ => None,
        };
        LayerPermit {
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

    const SHORT_WAIT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_small_layer_does_not_wait_for_big_ones() {
        let permits = LayerPermits::new(2);
        let _big = permits.acquire(BIG_LAYER_BYTES).await;
        assert!(
            timeout(SHORT_WAIT, permits.acquire(BIG_LAYER_BYTES))
                .await
                .is_err()
        );
        let small = timeout(SHORT_WAIT, permits.acquire(BIG_LAYER_BYTES - 1)).await;
        assert!(small.is_ok());
        assert!(timeout(SHORT_WAIT, permits.acquire(0)).await.is_err());
    }

    #[tokio::test]
    async fn a_single_permit_is_for_layers_of_any_size() {
        let permits = LayerPermits::new(1);
        drop(permits.acquire(BIG_LAYER_BYTES).await);
        drop(permits.acquire(1).await);
        let _big = permits.acquire(BIG_LAYER_BYTES).await;
        assert!(timeout(SHORT_WAIT, permits.acquire(1)).await.is_err());
    }
}
