//! What is counted of objects.

use std::sync::atomic::{AtomicU64, Ordering};

/// What was done with objects since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ObjectCounters {
    /// Objects that were written.
    pub uploaded: u64,
    /// Their bytes.
    pub uploaded_bytes: u64,
    /// Uploads that failed; they are tried again.
    pub uploads_failed: u64,
    /// Objects that were read to their end and had the right bytes.
    pub downloaded: u64,
    /// Bytes that were read of objects.
    pub downloaded_bytes: u64,
    /// Downloads that failed.
    pub downloads_failed: u64,
    /// Objects that had other bytes than their digest names.
    pub damaged: u64,
    /// Addresses that readers were sent to.
    pub redirected: u64,
    /// Blobs that wait to be uploaded.
    pub waiting: u64,
    /// Whether the last request was answered.
    pub is_up: bool,
}

/// The live counters behind [`ObjectCounters`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    uploaded: AtomicU64,
    uploaded_bytes: AtomicU64,
    uploads_failed: AtomicU64,
    downloaded: AtomicU64,
    downloaded_bytes: AtomicU64,
    downloads_failed: AtomicU64,
    damaged: AtomicU64,
    redirected: AtomicU64,
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn uploaded(&self, bytes: u64) {
        add(&self.uploaded, 1);
        add(&self.uploaded_bytes, bytes);
    }

    pub(super) fn upload_failed(&self) {
        add(&self.uploads_failed, 1);
    }

    pub(super) fn downloaded(&self) {
        add(&self.downloaded, 1);
    }

    pub(super) fn downloaded_bytes(&self, bytes: u64) {
        add(&self.downloaded_bytes, bytes);
    }

    pub(super) fn download_failed(&self) {
        add(&self.downloads_failed, 1);
    }

    pub(super) fn damaged(&self) {
        add(&self.damaged, 1);
    }

    pub(super) fn redirected(&self) {
        add(&self.redirected, 1);
    }

    pub(super) fn read(&self, waiting: usize, is_up: bool) -> ObjectCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ObjectCounters {
            uploaded: read(&self.uploaded),
            uploaded_bytes: read(&self.uploaded_bytes),
            uploads_failed: read(&self.uploads_failed),
            downloaded: read(&self.downloaded),
            downloaded_bytes: read(&self.downloaded_bytes),
            downloads_failed: read(&self.downloads_failed),
            damaged: read(&self.damaged),
            redirected: read(&self.redirected),
            waiting: u64::try_from(waiting).unwrap_or(u64::MAX),
            is_up,
        }
    }
}
