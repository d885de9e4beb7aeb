//! Admits a bounded number of images to be converted at one time; the others wait and hold
//! nothing.

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Compressed bytes from which on an image is big: converting it takes seconds.
pub(super) const BIG_IMAGE_BYTES: u64 = 64 << 20;

/// Slots for images, first come, first served. Half of them are not given to big images, so that
/// a small image never waits for big ones only.
pub(super) struct Admission {
    all: Semaphore,
    big: Semaphore,
}

/// How large an image is known to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Small, or not known yet.
    Unknown,
    /// At least [`BIG_IMAGE_BYTES`].
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
    /// Whether the slot may be used for a big image. If not, it is to be dropped, and another one
    /// entered as [`Class::Big`].
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

    const SHORT_WAIT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn big_images_get_at_most_half_of_the_slots() {
        let admission = Admission::new(4);
        let first = admission.enter(Class::Unknown).await;
        assert!(first.admits_big() && first.admits_big());
        let _second = admission.enter(Class::Big).await;
        let third = admission.enter(Class::Unknown).await;
        assert!(!third.admits_big());
        assert!(
            timeout(SHORT_WAIT, admission.enter(Class::Big))
                .await
                .is_err()
        );
        let small = timeout(SHORT_WAIT, admission.enter(Class::Unknown)).await;
        assert!(small.is_ok());
        drop(first);
        assert!(third.admits_big());
    }
}
