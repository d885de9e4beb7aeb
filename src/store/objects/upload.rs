//! Uploads the blobs of the blob directory that the bucket lacks.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::Inner;
use super::error::ObjectError;
use super::pending;
use crate::oci::Digest;
use crate::store::error::BlobError;

/// Most blobs that one caller has uploaded or looked for at one time.
const AT_A_TIME: usize = 8;
/// How long a conversion waits for the uploads of what it made; it goes on without them then.
const PUBLISH_WAIT: Duration = Duration::from_mins(1);

/// Whether somebody waits for an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Waiting,
    Pending,
}

/// What became of a blob that was to be uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Uploaded {
    /// The bucket has it now.
    Done,
    /// It is not in the blob directory.
    Gone,
    /// The storage failed while it waited, or others upload it: it was not tried.
    Later,
}

/// Blobs that somebody waits for, as far as nothing else sees to them.
type Left = Mutex<HashSet<Digest>>;

impl Inner {
    /// Uploads these blobs as far as the bucket lacks them, and waits for that at most
    /// [`PUBLISH_WAIT`]; what fails or takes longer is logged, and done later.
    pub(super) async fn publish(self: &Arc<Self>, digests: &[Digest]) {
        let wanted = digests
            .iter()
            .filter(|digest| !self.known.is_present(digest));
        let wanted: HashSet<Digest> = wanted.cloned().collect();
        if wanted.is_empty() {
            return;
        }
        let left = Mutex::new(wanted.clone());
        let all = futures_util::stream::iter(wanted)
            .for_each_concurrent(AT_A_TIME, |digest| self.publish_one(digest, &left));
        let is_late = timeout(PUBLISH_WAIT, all).await.is_err();
        let left = left.into_inner();
        let late = || self.bucket.silent("uploading to", PUBLISH_WAIT);
        if is_late && let Err(error) = self.health.waits.record::<()>(Err(late())) {
            tracing::warn!(%error, blobs = left.len(),
                "uploads take long: they go on in the background");
        }
        for digest in &left {
            pending::later(self, digest);
        }
    }

    /// Leaves the blob in `left` unless it is uploaded, cannot be, or is being uploaded.
    async fn publish_one(self: &Arc<Self>, digest: Digest, left: &Left) {
        if self.health.in_backoff() {
            return;
        }
        let uploaded = match self.ensure_checked().await {
            Ok(()) => {
                let begun = || {
                    left.lock().remove(&digest);
                };
                self.upload(&digest, Whose::Waiting, begun).await
            }
            Err(error) => Err(error),
        };
        match uploaded {
            Ok(Uploaded::Done | Uploaded::Gone) => {
                left.lock().remove(&digest);
            }
            Ok(Uploaded::Later) => {}
            Err(error) if error.is_of_storage() => tracing::warn!(%error, %digest,
                "a blob is not in the bucket yet: it is uploaded later"),
            Err(error) => {
                if left.lock().remove(&digest) {
                    pending::failed(self, &digest, &error);
                }
            }
        }
    }

    /// Uploads a blob that nobody waits for, unless the bucket has it.
    pub(super) async fn upload_pending(
        self: &Arc<Self>,
        digest: &Digest,
    ) -> Result<Uploaded, ObjectError> {
        let mut is_begun = false;
        let uploaded = self
            .upload(digest, Whose::Pending, || is_begun = true)
            .await;
        if !is_begun && let Err(error) = &uploaded {
            pending::failed(self, digest, error);
        }
        uploaded
    }

    /// Uploads a blob unless the bucket has it. From when `begun` is called, the upload goes on
    /// however this ends, and is made again by itself where the storage fails.
    async fn upload(
        self: &Arc<Self>,
        digest: &Digest,
        whose: Whose,
        begun: impl FnOnce(),
    ) -> Result<Uploaded, ObjectError> {
        let blobs = self.blobs.clone();
        // Not opened for one that the bucket has: the first to open it reads all of it.
        let path = blobs.path(digest);
        let Some(size) = on_disk(move || Ok(size_of(&path))).await? else {
            return Ok(Uploaded::Gone);
        };
        let lock = self.uploading.lock_of(digest);
        let lock = match whose {
            Whose::Waiting => lock.lock_owned().await,
            // Who has it sees to the blob; the others that are pending do not wait for that.
            Whose::Pending => match lock.try_lock_owned() {
                Ok(lock) => lock,
                Err(_) => return Ok(Uploaded::Later),
            },
        };
        if self.known.is_present(digest) && !self.known.is_damaged(digest) {
            return Ok(Uploaded::Done);
        }
        let found = self.health.reads.record(self.bucket.head(digest).await)?;
        if let Some(found) = &found
            && found.size == size
            && !self.known.is_damaged(digest)
        {
            self.known.present(digest);
            return Ok(Uploaded::Done);
        }
        let permit = Arc::clone(&self.uploads).acquire_owned().await;
        // Others may have found out meanwhile.
        if whose == Whose::Waiting && self.health.in_backoff() {
            return Ok(Uploaded::Later);
        }
        let Some(file) = blobs.open_async(digest).await? else {
            return Ok(Uploaded::Gone);
        };
        if let Some(found) = &found {
            tracing::warn!(%digest, bucket = self.bucket.place(), bytes = size, found = found.size,
                "an object that is damaged is replaced with the blob's bytes");
            if !self.known.is_damaged(digest) {
                self.counters.damaged();
            }
        }
        let (inner, file) = (Arc::clone(self), Arc::new(file));
        // It belongs to none of those who wait for it: cut off, it would leave parts behind.
        let transfer = tokio::spawn(async move {
            let digest = file.digest().clone();
            let written = inner.write(file, found).await;
            let written = inner.health.writes.record(written);
            match &written {
                Ok(()) => {}
                Err(error @ ObjectError::Stopped { .. }) => {
                    tracing::info!(%error, "a blob is uploaded after the next start");
                }
                Err(error) => {
                    inner.counters.upload_failed();
                    pending::failed(&inner, &digest, error);
                }
            }
            drop((permit, lock));
            written
        });
        begun();
        match transfer.await {
            Ok(written) => written.map(|()| Uploaded::Done),
            Err(panic) => Err(interrupted(panic).into()),
        }
    }
}

/// The bytes of what is at a path; `None` for nothing.
fn size_of(path: &std::path::Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|found| found.len())
}

/// Work that waits for the disk.
pub(super) async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(interrupted(panic)))
}

fn interrupted(panic: tokio::task::JoinError) -> BlobError {
    BlobError::Io {
        what: "working in",
        path: "the data directory".into(),
        source: std::io::Error::other(panic),
    }
}
