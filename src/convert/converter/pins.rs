//! Blobs that must stay in the store until the requests for them have opened them.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::super::types::ConvertedImage;
use crate::store::BlobPin;

/// A converted image with its blobs pinned in the store.
#[derive(Debug, Clone)]
pub struct PinnedImage {
    /// The image.
    pub image: Arc<ConvertedImage>,
    /// The pins of its blobs.
    pub pins: PinnedBlobs,
}

/// Blobs that stay in the store until the last clone of this is dropped. Their files need not be
/// open for that.
#[derive(Clone, Default)]
pub struct PinnedBlobs(Arc<Mutex<Vec<BlobPin>>>);

impl PinnedBlobs {
    pub(super) fn extend(&self, more: impl IntoIterator<Item = BlobPin>) {
        self.0.lock().extend(more);
    }
}

impl fmt::Debug for PinnedBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinnedBlobs({})", self.0.lock().len())
    }
}
