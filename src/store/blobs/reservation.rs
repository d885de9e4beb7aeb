//! Reserves room on the disk for what is going to be written.

use std::sync::Arc;

use super::directory::BlobDirectory;
use super::evict::Spared;
use crate::store::error::BlobError;

/// Bytes of the disk that are reserved, until dropped.
#[derive(Debug)]
pub struct Reservation {
    directory: Arc<BlobDirectory>,
    bytes: u64,
}

impl BlobDirectory {
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, BlobError> {
        let mut reserved = self.reserved.lock();
        let needed = reserved.saturating_add(bytes);
        let mut free = self.bytes_free()?;
        if free < needed {
            // A file that is open is not evicted: what nobody reads is closed first.
            self.reclaimers.call();
            free = self.bytes_free()?;
        }
        if free < needed {
            let mut locked = self.lock()?;
            locked.purge_damaged();
            free = self.bytes_free()?;
            // Nothing is evicted for a reservation that all blobs together could not make room for.
            let missing = needed.saturating_sub(free);
            if missing > 0 && locked.unpinned_bytes()? >= missing {
                let why = "the disk lacks room for a conversion";
                locked.evict_bytes(missing, why, Spared::UsedLately)?;
                free = self.bytes_free()?;
            }
        }
        if free < needed {
            return Err(BlobError::TooLittleSpace {
                path: self.data_dir.clone(),
                needed: bytes,
                available: free.saturating_sub(*reserved),
            });
        }
        *reserved = needed;
        Ok(Reservation {
            directory: Arc::clone(self),
            bytes,
        })
    }
}

impl Reservation {
    /// Bytes that are still reserved.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Lowers the reservation by what was written: the free space is less by that now.
    pub fn spent(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        let mut reserved = self.directory.reserved.lock();
        *reserved = reserved.saturating_sub(bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.spent(self.bytes);
    }
}
