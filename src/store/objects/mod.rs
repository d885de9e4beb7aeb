//! Object storage (S3) that holds the converted blobs of all replicas; each keeps its blob directory
//! as a bounded cache of them.
//!
//! ```text
//! s3://BUCKET/PREFIX/overlaybd-proxy           marks the prefix as one of this program
//! s3://BUCKET/PREFIX/blobs/sha256/ab/<hex>     whole blobs: layers, configs, manifests
//! ```
//!
//! Objects are added, and deleted only where an operator asks for it and their bytes are wrong
//! ([`BucketSurvey`]): how long they stay is the bucket's own matter (a lifecycle rule). One that is
//! there is not replaced, unless its bytes were seen to be wrong.
//!
//! A blob is uploaded before a row of the index names it. Where the storage does not answer, or takes
//! longer than a minute, the blob is kept in the blob directory alone, named, and uploaded later: other
//! replicas that look for it meanwhile make it again, with the same bytes.
//!
//! An object's name is a claim. Its bytes are compared with the digest when they come, before
//! anything else sees them; readers are sent to an object only after this process wrote it or has
//! read all of it, and while the storage says that it is still the same one.

mod bucket;
mod counters;
mod credentials;
mod download;
mod error;
mod health;
mod known;
mod pending;
mod settings;
mod stopping;
mod survey;
mod upload;
mod uploading;
mod write;

use std::sync::Arc;
use std::time::Duration;

use object_store::signer::{SignedUrlOptions, Signer as _};
use tokio::sync::Semaphore;
use url::Url;

pub use counters::ObjectCounters;
pub use error::ObjectError;
pub use settings::{BucketAddress, ObjectsConfig};
pub use survey::{BucketSurvey, DamagedVersion, ObjectInfo, SeenObject};

use bucket::Bucket;
use counters::Counters;
use download::SingleFlight;
use health::Health;
use known::{Known, ObjectVersion};
use pending::Pending;
use stopping::Stopping;
use uploading::Uploading;

use super::blobs::BlobStore;
use crate::oci::Digest;

/// Most uploads at one time: each holds a few parts of a file in memory.
const MAX_UPLOADS: usize = 2;
/// Most downloads at one time.
const MAX_DOWNLOADS: usize = 8;
/// How long the start waits for the storage.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a reader waits for an address: the bytes are at hand, too.
const PRESIGN_TIMEOUT: Duration = Duration::from_secs(2);

/// The objects of all replicas. Cheap to clone; the clones are one.
#[derive(Debug, Clone)]
pub struct Objects(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bucket: Bucket,
    blobs: BlobStore,
    known: Known,
    health: Health,
    counters: Counters,
    pending: Pending,
    /// Whether the storage did all that is asked of it, once.
    checked: tokio::sync::Mutex<bool>,
    flights: SingleFlight,
    uploads: Arc<Semaphore>,
    uploading: Uploading,
    stopping: Stopping,
    downloads: Semaphore,
}

impl Objects {
    /// The objects of a bucket, as the copies of what is in the blob directory. Nothing is asked of
    /// the storage yet; see [`Objects::check`] and [`Objects::start`].
    ///
    /// # Errors
    /// When a setting cannot be used.
    pub fn open(config: &ObjectsConfig, blobs: BlobStore) -> Result<Self, ObjectError> {
        let inner = Arc::new(Inner {
            bucket: Bucket::open(config)?,
            blobs,
            known: Known::new(),
            health: Health::default(),
            counters: Counters::default(),
            pending: Pending::default(),
            checked: tokio::sync::Mutex::new(false),
            flights: SingleFlight::default(),
            uploads: Arc::new(Semaphore::new(MAX_UPLOADS)),
            uploading: Uploading::default(),
            stopping: Stopping::default(),
            downloads: Semaphore::new(MAX_DOWNLOADS),
        });
        Ok(Self(inner))
    }

    /// The bucket and the prefix, as they are configured.
    pub fn place(&self) -> &str {
        self.0.bucket.place()
    }

    /// Asks the storage for all that is going to be asked of it: to list, to write only what is not
    /// there, to read. Waits 10 seconds for that at most. What did not succeed is asked again before
    /// the first upload.
    ///
    /// # Errors
    /// What it refuses, with what to do about it, or that it does not answer.
    pub async fn check(&self) -> Result<(), ObjectError> {
        let inner = &self.0;
        let checked = tokio::time::timeout(CHECK_TIMEOUT, inner.check()).await;
        checked.unwrap_or_else(|_| {
            inner
                .health
                .reads
                .record(Err(inner.bucket.silent("trying", CHECK_TIMEOUT)))
        })
    }

    /// Uploads in the background what is in the blob directory and not in the bucket. To be called
    /// once, in a runtime.
    pub fn start(&self) {
        pending::start(&self.0);
    }

    /// Has uploads end because the process does: those in parts are aborted, so that nothing of them
    /// stays in the bucket. Their blobs are in the blob directory, and uploaded after the next start.
    /// Waits for that as long as it is given.
    pub async fn stop(&self, within: Duration) {
        self.0.stop(within).await;
    }

    /// Why the storage is not used now, if its last answer was none.
    pub fn trouble(&self) -> Option<String> {
        self.0.health.trouble()
    }

    /// What was done since the start.
    pub fn counters(&self) -> ObjectCounters {
        let waiting = self.0.pending.len();
        self.0.counters.read(waiting, self.0.health.is_up())
    }

    /// Has these blobs of the blob directory in the bucket before it returns. Where that fails or
    /// takes longer than a minute, it is logged, and done later; what is not in the directory is left
    /// out. An upload that has begun goes on when this is dropped.
    pub async fn publish(&self, digests: &[Digest]) {
        self.0.publish(digests).await;
    }

    /// Brings a blob into the blob directory, if the bucket has it: whether it is there now. Many
    /// that wait for a blob wait for one download, which goes on when they leave once it has begun.
    /// At most 256 downloads run or wait: beyond that, it is not brought.
    pub async fn fetch(&self, digest: &Digest) -> bool {
        download::fetch(&self.0, digest).await
    }

    /// Those of these blobs that the bucket does not have, by what it says now. Ends with the first
    /// for which it does not answer.
    pub async fn absent(&self, digests: Vec<Digest>) -> Vec<Digest> {
        let mut absent = Vec::new();
        for digest in digests {
            match self.0.is_absent(&digest).await {
                Some(true) => absent.push(digest),
                Some(false) => {}
                None => break,
            }
        }
        absent
    }

    /// Whether the bucket has an object of this name, and it was not seen to be damaged. `false`
    /// also where the storage does not answer.
    pub async fn has(&self, digest: &Digest) -> bool {
        self.0.has(digest).await
    }

    /// An address where the object of a blob can be read for so long, by whoever has it: only if
    /// this process has seen all of its bytes, and it was not replaced since. Otherwise that is
    /// looked into for the next time, and an object that is gone is uploaded again from the blob
    /// directory. A storage that does not answer for two seconds counts as one
    /// that fails.
    pub async fn presigned_url(&self, digest: &Digest, lifetime: Duration) -> Option<Url> {
        let inner = &self.0;
        let Some(seen) = inner.known.verified(digest) else {
            pending::verify_later(inner, digest);
            return None;
        };
        if inner.health.reads.in_backoff() {
            return None;
        }
        let presigned = self.presigned(digest, &seen, lifetime);
        let Ok(presigned) = tokio::time::timeout(PRESIGN_TIMEOUT, presigned).await else {
            let silent = inner
                .bucket
                .silent("looking for a blob in", PRESIGN_TIMEOUT);
            if let Err(error) = inner.health.reads.record::<()>(Err(silent)) {
                tracing::warn!(%error, "readers are not sent to objects");
            }
            return None;
        };
        presigned
    }

    async fn presigned(
        &self,
        digest: &Digest,
        seen: &ObjectVersion,
        lifetime: Duration,
    ) -> Option<Url> {
        let inner = &self.0;
        let found = inner.health.reads.record(inner.bucket.head(digest).await);
        match found {
            Ok(Some(now)) if seen.is_same(&now) => {}
            Ok(now) => {
                tracing::warn!(%digest, bucket = inner.bucket.place(), is_there = now.is_some(),
                    "an object was replaced or deleted since it was verified: it is not used");
                if now.is_none() {
                    pending::gone(inner, digest).await;
                } else {
                    inner.known.forget(digest);
                }
                return None;
            }
            Err(error) => {
                tracing::debug!(%error, %digest, "no address of an object");
                return None;
            }
        }
        // The address is the permission: what it brings is for nobody else's cache.
        let options =
            SignedUrlOptions::new().with_query([("response-cache-control", "private, no-store")]);
        let key = inner.bucket.key(digest);
        let signed = inner
            .bucket
            .s3()
            .signed_url_opts(http::Method::GET, &key, lifetime, &options);
        match signed.await {
            Ok(address) => {
                inner.counters.redirected();
                Some(address)
            }
            Err(error) => {
                let error = inner
                    .bucket
                    .error("signing the address of an object in", &error);
                tracing::warn!(%error, "readers are not sent to objects");
                None
            }
        }
    }
}

impl Inner {
    /// Tries all that is going to be asked of the storage.
    async fn check(&self) -> Result<(), ObjectError> {
        let mut checked = self.checked.lock().await;
        self.health.reads.record(self.bucket.check_reads().await)?;
        self.health
            .writes
            .record(self.bucket.check_writes().await)?;
        *checked = true;
        Ok(())
    }

    /// Tries that unless it succeeded before.
    async fn ensure_checked(&self) -> Result<(), ObjectError> {
        if *self.checked.lock().await {
            return Ok(());
        }
        self.check().await
    }

    /// Whether the bucket has no object of a blob; `None` if that is not known.
    async fn is_absent(&self, digest: &Digest) -> Option<bool> {
        let found = self.health.reads.record(self.bucket.head(digest).await);
        found.ok().map(|found| found.is_none())
    }

    async fn has(&self, digest: &Digest) -> bool {
        if self.known.is_damaged(digest) {
            return false;
        }
        if self.known.is_present(digest) {
            return true;
        }
        if self.health.reads.in_backoff() {
            return false;
        }
        match self.health.reads.record(self.bucket.head(digest).await) {
            Ok(found) => {
                if found.is_some() {
                    self.known.present(digest);
                }
                found.is_some()
            }
            Err(error) => {
                tracing::warn!(%error, %digest, "whether the bucket has a blob is not known now");
                false
            }
        }
    }
}
