//! Leases: one process among all replicas converts a chain at a time.

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

/// The outcome of an attempt to acquire a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquired {
    /// The caller has it.
    Mine(Lease),
    /// Another holder has it.
    Held {
        /// The holder.
        holder: String,
        /// How long it lasts without another heartbeat; zero if it just expired.
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
                // If the answer comes later, the lease has expired.
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

/// Keeps a lease alive until released or dropped. If dropped without release, the lease expires.
#[derive(Debug)]
pub struct LeaseKeeper {
    lease: Lease,
    index: Index,
    is_lost: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl LeaseKeeper {
    /// Whether another holder has the lease by now, or may have it. The work stays correct, since
    /// the bytes are the same; it may be done twice.
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

    /// Releases the lease; a failure is logged, and the lease expires.
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
