//! A pin on one blob.

use std::sync::Arc;
use std::time::SystemTime;

use super::directory::BlobDirectory;
use crate::oci::Digest;
use crate::store::error::BlobError;

/// A blob that no process evicts until the last clone of this is dropped.
#[derive(Debug, Clone)]
pub struct BlobPin(#[allow(dead_code)] Arc<PinnedBlob>);

#[derive(Debug)]
struct PinnedBlob {
    directory: Arc<BlobDirectory>,
    digest: Digest,
}

impl BlobPin {
    /// Pins a blob whose file is open and locked.
    pub(super) fn new(directory: &Arc<BlobDirectory>, digest: &Digest) -> Result<Self, BlobError> {
        directory.pins.pin(digest)?;
        Ok(Self(Arc::new(PinnedBlob {
            directory: Arc::clone(directory),
            digest: digest.clone(),
        })))
    }
}

impl Drop for PinnedBlob {
    fn drop(&mut self) {
        // `keep` counts from here.
        self.directory
            .uses
            .lock()
            .insert(self.digest.clone(), SystemTime::now());
        self.directory.pins.unpin(&self.digest);
    }
}
