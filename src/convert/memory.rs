//! The memory that conversions may take: one budget that all of their buffers draw on.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is counted in, in bytes: a semaphore's permits are fewer than bytes are.
const UNIT: u64 = 64 << 10;

/// A budget of bytes. Shares are given out in the order of asking.
#[derive(Debug, Clone)]
pub struct Memory {
    units: Arc<Semaphore>,
    total: u32,
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub struct Share {
    _units: Option<OwnedSemaphorePermit>,
}

impl Memory {
    /// A budget of `bytes`.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let total = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).max(1);
        let total = total.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Self {
            units: Arc::new(Semaphore::new(total as usize)),
            total,
        }
    }

    /// The whole budget in bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        u64::from(self.total) * UNIT
    }

    /// The units of so many bytes. What is more than there is gets all of it.
    fn units(&self, bytes: u64) -> u32 {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        units.min(self.total)
    }

    /// Waits for a share. Whoever holds one must not wait for another.
    pub async fn take(&self, bytes: u64) -> Share {
        let units = Arc::clone(&self.units);
        Share {
            // The semaphore is never closed.
            _units: units.acquire_many_owned(self.units(bytes)).await.ok(),
        }
    }

    /// A share, if there is one now and nobody waits for one.
    #[must_use]
    pub fn try_take(&self, bytes: u64) -> Option<Share> {
        let units = Arc::clone(&self.units);
        let taken = units.try_acquire_many_owned(self.units(bytes)).ok()?;
        Some(Share {
            _units: Some(taken),
        })
    }

    /// A share of no less than so many bytes, if there is one now.
    #[must_use]
    pub fn try_take_all(&self, bytes: u64) -> Option<Share> {
        self.try_take(bytes).filter(|_| bytes <= self.total())
    }

    /// Bytes that are given out.
    #[must_use]
    pub fn used(&self) -> u64 {
        let free = u64::try_from(self.units.available_permits()).unwrap_or(u64::MAX);
        u64::from(self.total).saturating_sub(free) * UNIT
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const A_MOMENT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn shares_never_exceed_the_budget_and_come_back() {
        let memory = Memory::new(4 * UNIT);
        let first = memory.take(3 * UNIT).await;
        assert_eq!(memory.used(), 3 * UNIT);
        assert!(memory.try_take(2 * UNIT).is_none());
        assert!(timeout(A_MOMENT, memory.take(2 * UNIT)).await.is_err());
        let second = memory.try_take(1);
        assert!(second.is_some());
        assert_eq!(memory.used(), 4 * UNIT);
        drop((first, second));
        assert_eq!(memory.used(), 0);
    }

    #[tokio::test]
    async fn what_is_larger_than_the_budget_gets_all_of_it() {
        let memory = Memory::new(4 * UNIT);
        let all = memory.take(u64::MAX).await;
        assert_eq!(memory.used(), 4 * UNIT);
        drop(all);
        assert!(memory.try_take(u64::MAX).is_some());
        assert!(memory.try_take_all(memory.total()).is_some());
        assert!(memory.try_take_all(memory.total() + 1).is_none());
        assert_eq!(memory.used(), 0);
    }
}
