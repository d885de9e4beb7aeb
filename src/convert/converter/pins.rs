//! What must stay in the store until those who asked for it have opened it.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::store::BlobPin;

/// Blobs that stay in the store for as long as a clone of this is there. None of them is open for
/// that.
#[derive(Clone, Default)]
pub struct Pins(Arc<Mutex<Vec<BlobPin>>>);

impl Pins {
    pub(super) fn extend(&self, more: impl IntoIterator<Item = BlobPin>) {
        let mut pins = self.0.lock();
        pins.extend(more);
    }
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pins = self.0.lock();
        write!(f, "Pins({})", pins.len())
    }
}
