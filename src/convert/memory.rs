//! The memory budget of all conversions together.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of one permit of the semaphore, which has fewer permits than there may be bytes.
const UNIT_BYTES: u64 = 64 << 10;

/// A budget of bytes, given out first come, first served.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    units: Arc<Semaphore>,
    total: u32,
}

/// A part of the budget, returned when dropped.
#[derive(Debug)]
pub struct MemoryPermit {
    _units: Option<OwnedSemaphorePermit>,
}

impl MemoryBudget {
    /// A budget of `bytes`.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let total = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        let total = total.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Self {
            units: Arc::new(Semaphore::new(total as usize)),
            total,
        }
    }

    /// The whole budget in bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        u64::from(self.total) * UNIT_BYTES
    }

    /// The units of so many bytes; at most all of the budget.
    fn units(&self, bytes: u64) -> u32 {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        units.min(self.total)
    }

    /// Waits for a part of the budget. A task that holds one must not wait for another.
    pub async fn acquire(&self, bytes: u64) -> MemoryPermit {
        let units = Arc::clone(&self.units);
        MemoryPermit {
            // The semaphore is never closed.
            _units: units.acquire_many_owned(self.units(bytes)).await.ok(),
        }
    }

    /// A part of the budget, if it is free now and no other task waits.
    #[must_use]
    pub fn try_acquire(&self, bytes: u64) -> Option<MemoryPermit> {
        let units = Arc::clone(&self.units);
        let taken = units.try_acquire_many_owned(self.units(bytes)).ok()?;
        Some(MemoryPermit {
            _units: Some(taken),
        })
    }

    /// All of so many bytes, if they are free now; never less, as [`try_acquire`](Self::try_acquire)
    /// grants of more than the budget.
    #[must_use]
    pub fn try_acquire_all(&self, bytes: u64) -> Option<MemoryPermit> {
        self.try_acquire(bytes).filter(|_| bytes <= self.total())
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        let free = u64::try_from(self.units.available_permits()).unwrap_or(u64::MAX);
        u64::from(self.total).saturating_sub(free) * UNIT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SHORT_WAIT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn permits_never_exceed_the_budget_and_are_returned() {
        let memory = MemoryBudget::new(4 * UNIT_BYTES);
        let first = memory.acquire(3 * UNIT_BYTES).await;
        assert_eq!(memory.used(), 3 * UNIT_BYTES);
        assert!(memory.try_acquire(2 * UNIT_BYTES).is_none());
        assert!(
            timeout(SHORT_WAIT, memory.acquire(2 * UNIT_BYTES))
                .await
                .is_err()
        );
        let second = memory.try_acquire(1);
        assert!(second.is_some());
        assert_eq!(memory.used(), 4 * UNIT_BYTES);
        drop((first, second));
        assert_eq!(memory.used(), 0);
    }

    #[tokio::test]
    async fn a_request_larger_than_the_budget_gets_all_of_it() {
        let memory = MemoryBudget::new(4 * UNIT_BYTES);
        let all = memory.acquire(u64::MAX).await;
        assert_eq!(memory.used(), 4 * UNIT_BYTES);
        drop(all);
        assert!(memory.try_acquire(u64::MAX).is_some());
        assert!(memory.try_acquire_all(memory.total()).is_some());
        assert!(memory.try_acquire_all(memory.total() + 1).is_none());
        assert_eq!(memory.used(), 0);
    }
}
