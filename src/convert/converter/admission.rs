//! Which images are worked on: so many at one time, the others wait and hold nothing.

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Compressed bytes from which on an image is big: it takes seconds.
pub(super) const BIG: u64 = 64 << 20;

/// Slots for images, in the order of asking. Half of them are kept from big images, so that a
/// small one never waits for big ones only.
pub(super) struct Admission {
    all: Semaphore,
    big: Semaphore,
}

/// How large an image is known to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Small, or nobody has looked yet.
    Unknown,
    /// At least [`BIG`].
    Big,
}

/// A slot that is taken, until dropped.
pub(super) struct Slot<'a> {
    _all: Option<SemaphorePermit<'a>>,
    big: Mutex<Option<SemaphorePermit<'a>>>,
    admission: &'a Admission,
}

impl Admission {
    pub(super) fn new(images: usize) -> Self {
        let images = images.clamp(2, Semaphore::MAX_PERMITS);
        Self {
            all: Semaphore::new(images),
            big: Semaphore::new(images / 2),
        }
    }

    /// Waits for a slot.
    pub(super) async fn enter(&self, class: Class) -> Slot<'_> {
        // Neither is ever closed, so there is always a permit in the end.
        let big = match class {
            Class::Big => self.big.acquire().await.ok(),
            Class::Unknown => None,
        };
        Slot {
            _all: self.all.acquire().await.ok(),
            big: Mutex::new(big),
            admission: self,
        }
    }
}

impl Slot<'_> {
    /// Whether the slot may be used for a big image. If not, it is to be left, and entered
    /// again as one of a big image.
    pub(super) fn admits_big(&self) -> bool {
        let mut big = self.big.lock();
        if big.is_none() {
            *big = self.admission.big.try_acquire().ok();
        }
        big.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const A_MOMENT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn half_of_the_slots_are_kept_from_big_images() {
        let admission = Admission::new(4);
        let first = admission.enter(Class::Unknown).await;
        assert!(first.admits_big() && first.admits_big());
        let _second = admission.enter(Class::Big).await;
        let third = admission.enter(Class::Unknown).await;
        assert!(!third.admits_big());
        assert!(
            timeout(A_MOMENT, admission.enter(Class::Big))
                .await
                .is_err()
        );
        let small = timeout(A_MOMENT, admission.enter(Class::Unknown)).await;
        assert!(small.is_ok());
        drop(first);
        assert!(third.admits_big());
    }
}
