//! Jobs by key: each runs once in a task of its own, and any number of requests wait for it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// Jobs by key. A job that is under way is joined, not started again.
#[derive(Debug)]
pub struct Jobs<K, T> {
    running: Arc<Mutex<HashMap<K, watch::Receiver<Option<T>>>>>,
}

impl<K, T> Clone for Jobs<K, T> {
    fn clone(&self) -> Self {
        Self {
            running: Arc::clone(&self.running),
        }
    }
}

impl<K, T> Default for Jobs<K, T> {
    fn default() -> Self {
        Self {
            running: Arc::default(),
        }
    }
}

/// What a waiter gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined<T> {
    /// The job's result; `None` if it ended without one (it panicked or the program stops).
    pub result: Option<T>,
    /// Whether this waiter started the job.
    pub started: bool,
}

impl<K, T> Jobs<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Waits for the job of `key`, which `start` makes if there is none; `None` if that would
    /// be more than `max` jobs.
    ///
    /// Dropping the returned future leaves the job running.
    pub async fn join<F>(&self, key: K, max: usize, start: impl FnOnce() -> F) -> Option<Joined<T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (mut receiver, started) = self.receiver(key, max, start)?;
        let result = match receiver.wait_for(Option::is_some).await {
            Ok(value) => value.clone(),
            Err(_) => None,
        };
        Some(Joined { result, started })
    }

    fn receiver<F>(
        &self,
        key: K,
        max: usize,
        start: impl FnOnce() -> F,
    ) -> Option<(watch::Receiver<Option<T>>, bool)>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut running = self.running.lock();
        if let Some(receiver) = running.get(&key) {
            return Some((receiver.clone(), false));
        }
        if running.len() >= max {
            return None;
        }
        let (sender, receiver) = watch::channel(None);
        running.insert(key.clone(), receiver.clone());
        let entry = Entry {
            jobs: Arc::clone(&self.running),
            key,
        };
        let job = start();
        tokio::spawn(async move {
            let result = job.await;
            // Removed first: a request after the result must not join a finished job.
            drop(entry);
            let _ = sender.send(Some(result));
        });
        Some((receiver, true))
    }

    /// How many jobs are under way.
    pub fn count(&self) -> usize {
        self.running.lock().len()
    }
}

/// Removes the job from the map, also when it panics.
struct Entry<K: Eq + Hash, T> {
    jobs: Arc<Mutex<HashMap<K, watch::Receiver<Option<T>>>>>,
    key: K,
}

impl<K: Eq + Hash, T> Drop for Entry<K, T> {
    fn drop(&mut self) {
        self.jobs.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[tokio::test]
    async fn two_hundred_concurrent_joins_run_one_job() {
        let jobs: Jobs<&str, usize> = Jobs::default();
        let runs = Arc::new(AtomicUsize::new(0));
        let waiters: Vec<_> = (0..200)
            .map(|_| {
                let (jobs, runs) = (jobs.clone(), Arc::clone(&runs));
                tokio::spawn(async move {
                    jobs.join("a", 1, || async move {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        runs.fetch_add(1, Ordering::SeqCst)
                    })
                    .await
                })
            })
            .collect();
        let mut started = 0;
        for waiter in waiters {
            let joined = waiter.await.unwrap().unwrap();
            assert_eq!(joined.result, Some(0));
            started += usize::from(joined.started);
        }
        assert_eq!(
            (started, runs.load(Ordering::SeqCst), jobs.count()),
            (1, 1, 0)
        );
    }

    #[tokio::test]
    async fn a_job_continues_when_its_only_waiter_is_dropped() {
        let jobs: Jobs<u8, ()> = Jobs::default();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let job = || async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let _ = sender.send(());
        };
        let waiting = jobs.join(1, 1, job);
        assert!(
            tokio::time::timeout(Duration::from_millis(1), waiting)
                .await
                .is_err()
        );
        receiver.await.unwrap();
    }

    #[tokio::test]
    async fn a_job_that_panics_gives_no_result_and_can_be_started_again() {
        let jobs: Jobs<u8, u8> = Jobs::default();
        let joined = jobs.join(1, 1, || async { panic!("for the test") }).await;
        assert_eq!(
            joined.unwrap(),
            Joined {
                result: None,
                started: true
            }
        );
        assert_eq!(
            jobs.join(1, 1, || async { 7 }).await.unwrap().result,
            Some(7)
        );
    }

    #[tokio::test]
    async fn at_the_limit_no_job_starts_but_running_ones_can_be_joined() {
        let jobs: Jobs<u8, u8> = Jobs::default();
        let (sender, receiver) = tokio::sync::oneshot::channel::<u8>();
        let running = tokio::spawn({
            let jobs = jobs.clone();
            async move { jobs.join(1, 1, || async { receiver.await.unwrap() }).await }
        });
        while jobs.count() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(jobs.join(2, 1, || async { 2 }).await, None);
        let joined = jobs.join(1, 1, || async { 3 });
        sender.send(7).unwrap();
        assert_eq!(joined.await.unwrap().result, Some(7));
        assert_eq!(running.await.unwrap().unwrap().result, Some(7));
        assert_eq!(
            jobs.join(2, 1, || async { 2 }).await.unwrap().result,
            Some(2)
        );
    }
}
