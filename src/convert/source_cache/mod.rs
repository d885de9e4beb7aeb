//! A pull-through cache of what upstreams have: manifests and blobs as they are, in the store.
//!
//! ```text
//! upstream → [download: SHA-256, temporary file] → store
//!                     └→ readers, while it comes in
//! ```
//!
//! A download is a task that belongs to no request. All that want the blob read its growing file;
//! the last part of it is given out once the digest is verified. **Nothing here is a permission**:
//! callers ask the upstream first whether these credentials may read this, in this repository.

mod counters;
mod download;
mod incoming;
mod layer;
mod manifest;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use moka::future::Cache;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::convert::types::Source;
use crate::oci::Digest;
use crate::registry::Upstream;
use crate::store::{BlobError, BlobStore};
use crate::telemetry::CapturedContext;

pub use counters::{CacheCount, CacheOutcome};
pub use incoming::{Incoming, Reader};

use counters::Counters;

/// Most downloads at one time: each has a connection, a file and up to 2 MiB of memory.
const MAX_DOWNLOADS: usize = 64;
/// Most bytes of manifests in memory.
const MAX_MANIFEST_BYTES: u64 = 32 << 20;

/// The cache. Cheap to clone; the clones are one.
#[derive(Clone)]
pub struct SourceCache(Arc<Inner>);

struct Inner {
    blobs: BlobStore,
    /// The blobs that are being downloaded, by the hosts that they come from: what one upstream sends
    /// is nothing to clients of another before it is verified.
    coming: Mutex<HashMap<(String, Digest), Incoming>>,
    downloads: Arc<Semaphore>,
    manifests: Cache<Digest, Bytes>,
    counters: Counters,
}

/// Where a blob's bytes are to be had.
#[derive(Debug, Clone)]
pub enum Joined {
    /// In the store.
    There,
    /// From a download that this call began.
    Begun(Incoming),
    /// From a download that was under way.
    Coming(Incoming),
    /// From the upstream only: too much is being downloaded.
    Busy,
}

impl SourceCache {
    /// A cache in a store.
    pub(in crate::convert) fn new(blobs: BlobStore) -> Self {
        let weight = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        Self(Arc::new(Inner {
            blobs,
            coming: Mutex::default(),
            downloads: Arc::new(Semaphore::new(MAX_DOWNLOADS)),
            manifests: Cache::builder()
                .max_capacity(MAX_MANIFEST_BYTES)
                .weigher(move |_, bytes: &Bytes| weight(bytes.len().saturating_add(512)))
                .build(),
            counters: Counters::default(),
        }))
    }

    /// Whether what this upstream has is cached: not that of a layout, which is on this machine.
    #[must_use]
    pub fn is_for(&self, upstream: &Upstream) -> bool {
        matches!(upstream, Upstream::Registry(_))
    }

    /// Whether a blob of so many bytes is kept.
    #[must_use]
    pub fn has_room_for(&self, size: u64) -> bool {
        self.0.blobs.has_room_for(size)
    }

    /// The blob's download, if it is under way.
    #[must_use]
    pub fn coming(&self, upstream: &Upstream, digest: &Digest) -> Option<Incoming> {
        let key = (upstream.host().to_owned(), digest.clone());
        self.0.coming.lock().get(&key).cloned()
    }

    /// Joins a blob's download, or begins one with the credentials of `source`.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn join(&self, source: &Source, digest: &Digest) -> Result<Joined, BlobError> {
        if let Some(incoming) = self.coming(&source.upstream, digest) {
            return Ok(Joined::Coming(incoming));
        }
        let (cache, source, digest) = (self.clone(), source.clone(), digest.clone());
        let runtime = tokio::runtime::Handle::current();
        let cause = CapturedContext::current();
        // It asks the disk.
        let joined = runtime.clone().spawn_blocking(move || {
            // Not under the lock, which is taken where no disk may be waited for: a blob that comes
            // in between is downloaded once more.
            if cache.0.blobs.contains(&digest)? {
                return Ok(Joined::There);
            }
            let key = (source.upstream.host().to_owned(), digest.clone());
            let mut coming = cache.0.coming.lock();
            if let Some(incoming) = coming.get(&key) {
                return Ok(Joined::Coming(incoming.clone()));
            }
            let Ok(place) = Arc::clone(&cache.0.downloads).try_acquire_owned() else {
                return Ok(Joined::Busy);
            };
            let (incoming, download) =
                download::Download::begin(Arc::clone(&cache.0), source, digest, place);
            coming.insert(key, incoming.clone());
            drop(coming);
            runtime.spawn(cause.around(download.run()));
            Ok(Joined::Begun(incoming))
        });
        // It did not come to an end: the process does.
        joined.await.unwrap_or(Ok(Joined::Busy))
    }

    /// Counts what became of a request or of a layer of a conversion, and the bytes of it.
    pub fn count(&self, outcome: CacheOutcome, bytes: u64) {
        self.0.counters.count(outcome, bytes);
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> [CacheCount; 4] {
        self.0.counters.read()
    }
}
