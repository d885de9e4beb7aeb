//! Leases: who is making a chain right now, across processes and replicas.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::Index;

/// A lease that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub(super) name: String,
    /// The holder, `/`, and a number that no other acquisition has.
    pub(super) token: String,
}

/// What came of trying to acquire a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquired {
    /// It is the caller's.
    Mine(Lease),
    /// It is another's.
    Held {
        /// Whose.
        holder: String,
        /// How long it lasts without another heartbeat; zero when it ran out just now.
        remaining: Duration,
    },
}

impl Lease {
    /// What the lease is for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Keeps the lease alive in the background: a heartbeat every third of `ttl`.
    pub fn keep(self, index: Index, ttl: Duration) -> LeaseKeeper {
        let (lost, is_lost) = watch::channel(false);
        let lease = self.clone();
        let beats = index.clone();
        let task = tokio::spawn(async move {
            let mut last_good = Instant::now();
            loop {
                sleep(ttl / 3).await;
                let asked_at = Instant::now();
                // Whatever the answer, the lease has run out when it comes later.
                match timeout_at(last_good + ttl, beats.heartbeat(&lease, ttl)).await {
                    Ok(Ok(true)) => last_good = asked_at,
                    Ok(Ok(false)) => {
                        tracing::warn!(lease = lease.name, "a lease was taken over by another");
                        break;
                    }
                    Ok(Err(error)) => {
                        tracing::warn!(lease = lease.name, %error, "a lease's heartbeat failed");
                    }
                    Err(_) => {
                        tracing::warn!(
                            lease = lease.name,
                            "a lease ran out: no heartbeat got through"
                        );
                        break;
                    }
                }
            }
            lost.send_replace(true);
        });
        LeaseKeeper {
            lease: self,
            index,
            is_lost,
            task,
        }
    }
}

/// Keeps a lease alive until released or dropped. Dropped without release, the lease runs out.
#[derive(Debug)]
pub struct LeaseKeeper {
    lease: Lease,
    index: Index,
    is_lost: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl LeaseKeeper {
    /// Whether the lease is, or may be, another's by now. What is being made stays correct (the
    /// bytes are the same whoever makes them); it may be made twice.
    pub fn is_lost(&self) -> bool {
        *self.is_lost.borrow()
    }

    /// Waits until the lease is lost.
    pub async fn lost(&self) {
        let mut is_lost = self.is_lost.clone();
        if is_lost.wait_for(|lost| *lost).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Gives the lease back; a failure to do so is logged, and the lease runs out by itself.
    pub async fn release(self) {
        self.task.abort();
        if let Err(error) = self.index.release(&self.lease).await {
            tracing::warn!(lease = self.lease.name, %error, "a lease could not be given back");
        }
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}
