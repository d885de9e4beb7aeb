//! Metrics of the object storage.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::store::ObjectCounters;

type Total = Counter<u64, AtomicU64>;
type Level = Gauge<i64, AtomicI64>;

/// The metrics of [`ObjectCounters`].
#[derive(Default)]
pub(super) struct ObjectMetrics {
    uploads: Total,
    uploaded: Total,
    uploads_failed: Total,
    downloads: Total,
    downloaded: Total,
    downloads_failed: Total,
    damaged: Total,
    redirects: Total,
    waiting: Level,
    up: Level,
}

impl ObjectMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let counted = [
            (
                "blob_store_uploads",
                "Blobs written to the object storage",
                &self.uploads,
            ),
            (
                "blob_store_uploads_failed",
                "Uploads to the object storage that failed; they are tried again",
                &self.uploads_failed,
            ),
            (
                "blob_store_downloads",
                "Objects of the storage that were read to their end and had the right bytes",
                &self.downloads,
            ),
            (
                "blob_store_downloads_failed",
                "Downloads from the object storage that failed",
                &self.downloads_failed,
            ),
            (
                "blob_store_damaged",
                "Objects of the storage that had other bytes than their digests name",
                &self.damaged,
            ),
            (
                "blob_store_redirects",
                "Answers that sent a client to the object storage",
                &self.redirects,
            ),
        ];
        for (name, help, total) in counted {
            registry.register(name, help, total.clone());
        }
        for (name, help, total) in [
            (
                "blob_store_uploaded",
                "Bytes written to the object storage",
                &self.uploaded,
            ),
            (
                "blob_store_downloaded",
                "Bytes read from the object storage",
                &self.downloaded,
            ),
        ] {
            registry.register_with_unit(name, help, Unit::Bytes, total.clone());
        }
        for (name, help, level) in [
            (
                "blob_store_waiting",
                "Blobs that wait to be written to the object storage",
                &self.waiting,
            ),
            (
                "blob_store_up",
                "Whether the object storage answered the last request; -1: none is used",
                &self.up,
            ),
        ] {
            registry.register(name, help, level.clone());
        }
    }

    /// Takes over what is known now; `None`: there is no object storage.
    pub(super) fn set(&self, now: Option<&ObjectCounters>) {
        let Some(now) = now else {
            self.up.set(-1);
            return;
        };
        for (total, value) in [
            (&self.uploads, now.uploaded),
            (&self.uploaded, now.uploaded_bytes),
            (&self.uploads_failed, now.uploads_failed),
            (&self.downloads, now.downloaded),
            (&self.downloaded, now.downloaded_bytes),
            (&self.downloads_failed, now.downloads_failed),
            (&self.damaged, now.damaged),
            (&self.redirects, now.redirected),
        ] {
            total.inner().store(value, Ordering::Relaxed);
        }
        let waiting = i64::try_from(now.waiting).unwrap_or(i64::MAX);
        self.waiting.set(waiting);
        self.up.set(i64::from(now.is_up));
    }
}
