//! Locks by key: what is named by different keys is done at the same time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

/// Asynchronous mutexes by key.
#[derive(Debug)]
pub struct KeyedLock<K> {
    locks: Arc<Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>>,
}

impl<K> Default for KeyedLock<K> {
    fn default() -> Self {
        Self {
            locks: Arc::default(),
        }
    }
}

/// A key that is locked, until dropped.
#[derive(Debug)]
pub struct KeyGuard<K: Eq + Hash> {
    guard: Option<OwnedMutexGuard<()>>,
    locks: Arc<Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>>,
    key: K,
}

impl<K: Clone + Eq + Hash> KeyedLock<K> {
    /// Locks `key`; waits while it is locked.
    pub async fn lock(&self, key: K) -> KeyGuard<K> {
        // Made before the wait, so that dropping this future removes the entry.
        let mut guard = KeyGuard {
            guard: None,
            locks: Arc::clone(&self.locks),
            key: key.clone(),
        };
        let lock = {
            let mut locks = self.locks.lock();
            Arc::clone(locks.entry(key).or_default())
        };
        guard.guard = Some(lock.lock_owned().await);
        guard
    }

    /// Locks `key` if it is neither locked nor waited for.
    pub fn try_lock(&self, key: K) -> Option<KeyGuard<K>> {
        let mut locks = self.locks.lock();
        if locks.contains_key(&key) {
            return None;
        }
        let lock = Arc::clone(locks.entry(key.clone()).or_default());
        let guard = lock.try_lock_owned().ok()?;
        Some(KeyGuard {
            guard: Some(guard),
            locks: Arc::clone(&self.locks),
            key,
        })
    }
}

impl<K: Eq + Hash> Drop for KeyGuard<K> {
    fn drop(&mut self) {
        self.guard = None;
        let mut locks = self.locks.lock();
        if locks
            .get(&self.key)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            locks.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_locked_key_blocks_only_itself_and_leaves_no_entry() {
        let keys: KeyedLock<u8> = KeyedLock::default();
        let first = keys.lock(1).await;
        let other = keys.lock(2).await;
        let second = tokio::time::timeout(Duration::from_millis(5), keys.lock(1));
        assert!(second.await.is_err());
        drop((first, other));
        let again = keys.try_lock(1);
        assert!(again.is_some() && keys.try_lock(1).is_none());
        drop(again);
        drop(keys.lock(1).await);
        assert!(keys.locks.lock().is_empty());
    }
}
