//! What gives room on the disk back when it is short, before blobs are evicted for it.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

type Reclaim = Arc<dyn Fn() + Send + Sync>;

/// What is called when the disk is short of room.
#[derive(Default)]
pub(super) struct Reclaimers(Mutex<Vec<Reclaim>>);

impl Reclaimers {
    pub(super) fn add(&self, reclaim: impl Fn() + Send + Sync + 'static) {
        self.0.lock().push(Arc::new(reclaim));
    }

    pub(super) fn call(&self) {
        let all = self.0.lock().clone();
        for reclaim in all {
            reclaim();
        }
    }
}

impl fmt::Debug for Reclaimers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reclaimers")
            .field(&self.0.lock().len())
            .finish()
    }
}
