//! What must stay in the store until those who asked for it have opened it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::layer::LayerBlob;
use crate::store::BlobFile;

/// A blob that is not evicted while this is there.
#[derive(Debug)]
pub(super) enum Pin {
    /// A blob of the store.
    File(#[allow(dead_code)] BlobFile),
    /// A layer; the file under it is pinned if it is one of the store's.
    Layer(#[allow(dead_code)] Arc<LayerBlob>),
}

/// Blobs that stay in the store for as long as a clone of this is there.
#[derive(Clone, Default)]
pub struct Pins(Arc<Mutex<Vec<Pin>>>);

impl Pins {
    pub(super) fn extend(&self, more: impl IntoIterator<Item = Pin>) {
        let mut pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pins.extend(more);
    }
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write!(f, "Pins({})", pins.len())
    }
}
