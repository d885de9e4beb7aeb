//! The exclusive right to convert one layer: a lock within this process, and a lease of the index
//! among all processes.

use crate::convert::lock::KeyGuard;
use crate::store::LeaseKeeper;

/// The right to convert a layer, until released.
pub(super) struct LayerLock {
    pub(super) guard: KeyGuard<String>,
    pub(super) lease: LeaseKeeper,
}

impl LayerLock {
    pub(super) async fn release(self) {
        if self.lease.is_lost() {
            tracing::warn!("a layer took longer than its lease; another may have made it too");
        }
        self.lease.release().await;
        drop(self.guard);
    }
}
