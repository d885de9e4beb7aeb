//! Reads objects: into the blob directory, or only to see their bytes.

use std::collections::HashMap;
use std::io::Write as _;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::{GetOptions, ObjectStore as _};
use parking_lot::Mutex;
use tokio::sync::{SemaphorePermit, mpsc, watch};

use super::Inner;
use super::bucket::{Bucket, version};
use super::error::ObjectError;
use super::known::ObjectVersion;
use super::pending;
use crate::oci::{Digest, Hasher};
use crate::store::blobs::{Reservation, TempBlob};
use crate::store::error::BlobError;

/// Pieces that are on their way from the network to the disk.
const MAX_PIECES: usize = 8;
/// How often an object is read whose transfer breaks off.
const ATTEMPTS: usize = 2;

/// Most downloads that run or wait; beyond that, a blob is not brought now.
const MAX_FLIGHTS: usize = 256;

/// What those who wait for a download learn: whether the blob is there.
type Outcome = Arc<watch::Sender<Option<bool>>>;

/// Downloads that run or wait, one of each blob.
#[derive(Debug, Default)]
pub(super) struct SingleFlight(Mutex<HashMap<Digest, Outcome>>);

/// What became of an object that was read.
enum Read {
    /// It had the right bytes, which are in this file if there is one.
    Sound(Option<TempBlob>, ObjectVersion),
    /// There is none.
    Absent,
    /// It had other bytes.
    Damaged(ObjectVersion),
}

/// Brings a blob into the blob directory, if the bucket has it: whether it is there now.
pub(super) async fn fetch(inner: &Arc<Inner>, digest: &Digest) -> bool {
    if inner.known.is_damaged(digest) || inner.health.reads.in_backoff() {
        return false;
    }
    let mut outcome = {
        let mut running = inner.flights.0.lock();
        if let Some(outcome) = running.get(digest) {
            outcome.subscribe()
        } else if running.len() >= MAX_FLIGHTS {
            tracing::warn!(%digest, downloads = MAX_FLIGHTS,
                "a blob is not fetched from the bucket: too many are");
            return false;
        } else {
            let (tell, outcome) = watch::channel(None);
            let tell = Arc::new(tell);
            running.insert(digest.clone(), Arc::clone(&tell));
            let download = Download {
                inner: Arc::clone(inner),
                digest: digest.clone(),
                tell,
            };
            // Once begun, it belongs to none of those who wait for it.
            tokio::spawn(download.run());
            outcome
        }
    };
    let done = outcome.wait_for(Option::is_some).await;
    done.is_ok_and(|done| *done == Some(true))
}

/// A download that runs or waits, until dropped.
struct Download {
    inner: Arc<Inner>,
    digest: Digest,
    tell: Outcome,
}

impl Download {
    async fn run(self) {
        let Some(_permit) = self.permit().await else {
            return;
        };
        let is_there = bring(&self.inner, &self.digest).await;
        self.tell.send_replace(Some(is_there));
    }

    /// The place among those that run; none if nobody waits for the blob any more.
    async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        let mut permit = pin!(self.inner.downloads.acquire());
        loop {
            let permit = tokio::select! {
                permit = &mut permit => Some(permit),
                () = self.tell.closed() => None,
            };
            // Nobody can come to wait meanwhile.
            let mut running = self.inner.flights.0.lock();
            if self.tell.receiver_count() == 0 {
                running.remove(&self.digest);
                return None;
            }
            if let Some(permit) = permit {
                // The semaphore is never closed.
                return permit.ok();
            }
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let mut running = self.inner.flights.0.lock();
        // There may be another one by now.
        if running
            .get(&self.digest)
            .is_some_and(|tell| Arc::ptr_eq(tell, &self.tell))
        {
            running.remove(&self.digest);
        }
    }
}

async fn bring(inner: &Arc<Inner>, digest: &Digest) -> bool {
    // That may have been found out while it waited.
    if inner.health.reads.in_backoff() {
        return false;
    }
    let begun = std::time::Instant::now();
    let mut result = read(inner, digest, true).await;
    for _ in 1..ATTEMPTS {
        if result.as_ref().is_err_and(ObjectError::is_unavailable) {
            result = read(inner, digest, true).await;
        }
    }
    let committed = match note(inner, digest, result) {
        Some((Some(temp), version)) => {
            let (blobs, wanted) = (inner.blobs.clone(), digest.clone());
            let commit = move || {
                blobs
                    .commit(temp, &wanted, version.size)
                    .map(|_| version.size)
            };
            super::upload::on_disk(commit).await
        }
        _ => return false,
    };
    match committed {
        Ok(bytes) => {
            tracing::info!(%digest, bytes, bucket = inner.bucket.place(),
                seconds = begun.elapsed().as_secs_f64(), "a blob was fetched from the bucket");
            true
        }
        Err(error) => {
            inner.counters.download_failed();
            tracing::warn!(%error, %digest, "a blob from the bucket cannot be kept");
            false
        }
    }
}

/// Reads an object through, and keeps nothing but that it is sound.
pub(super) async fn verify(inner: &Arc<Inner>, digest: &Digest) {
    if inner.known.verified(digest).is_some() || inner.health.reads.in_backoff() {
        return;
    }
    let _permit = inner.downloads.acquire().await;
    let result = read(inner, digest, false).await;
    let is_gone = matches!(result, Ok(Read::Absent));
    note(inner, digest, result);
    if is_gone {
        pending::gone(inner, digest).await;
    }
}

/// Notes what was seen of an object; one that is sound is returned.
fn note(
    inner: &Inner,
    digest: &Digest,
    result: Result<Read, ObjectError>,
) -> Option<(Option<TempBlob>, ObjectVersion)> {
    match inner.health.reads.record(result) {
        Ok(Read::Sound(temp, version)) => {
            inner.counters.downloaded();
            inner.known.is_sound(digest, version.clone());
            Some((temp, version))
        }
        Ok(Read::Absent) => {
            inner.known.forget(digest);
            None
        }
        Ok(Read::Damaged(version)) => {
            inner.counters.damaged();
            inner.known.set_damaged(digest);
            tracing::error!(%digest, bytes = version.size, bucket = inner.bucket.place(),
                "an object has other bytes than its digest names: it is not used; the blob is made \
                 again when it is requested, and the object replaced then");
            None
        }
        Err(error) => {
            inner.counters.download_failed();
            tracing::warn!(%error, %digest, "a blob cannot be read from the bucket");
            None
        }
    }
}

/// The pieces of an object, and which one it is; `None` if there is none.
pub(super) async fn open(
    bucket: &Bucket,
    digest: &Digest,
) -> Result<Option<(ObjectVersion, Pieces)>, ObjectError> {
    let key = bucket.key(digest);
    match bucket.s3().get_opts(&key, GetOptions::default()).await {
        Ok(found) => Ok(Some((version(found.meta.clone()), found.into_stream()))),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(bucket.error("reading a blob in", &error)),
    }
}

/// The pieces of an object as they come.
pub(super) type Pieces = BoxStream<'static, object_store::Result<Bytes>>;

/// Compares an object with its digest as it comes.
pub(super) struct Hashing<'a> {
    digest: &'a Digest,
    hasher: Hasher,
    expected: u64,
    size: u64,
}

/// What an object was that came to its end.
pub(super) enum Hashed {
    /// It has the bytes that its digest names.
    Sound,
    /// It has those of another.
    Other(Digest),
    /// It has more than the storage said.
    TooLong,
}

impl<'a> Hashing<'a> {
    pub(super) fn new(digest: &'a Digest, version: &ObjectVersion) -> Self {
        Self {
            digest,
            hasher: Hasher::like(digest),
            expected: version.size,
            size: 0,
        }
    }

    /// Takes the next piece; whether there may be more.
    pub(super) fn take(&mut self, piece: &Bytes) -> bool {
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        self.size = self.size.saturating_add(length);
        self.hasher.update(piece);
        self.size <= self.expected
    }

    /// What it was; an error if it broke off, which says nothing about the object.
    pub(super) fn finish(self, bucket: &Bucket) -> Result<Hashed, ObjectError> {
        if self.size < self.expected {
            return Err(ObjectError::Unavailable {
                what: "reading a blob in",
                place: bucket.place().to_owned(),
                cause: format!("{} bytes came of {}", self.size, self.expected),
            });
        }
        if self.size > self.expected {
            return Ok(Hashed::TooLong);
        }
        let found = self.hasher.finish();
        Ok(if found == *self.digest {
            Hashed::Sound
        } else {
            Hashed::Other(found)
        })
    }
}

/// Reads an object to its end, into a file if it is to be kept.
async fn read(inner: &Inner, digest: &Digest, is_kept: bool) -> Result<Read, ObjectError> {
    let bucket = &inner.bucket;
    let Some((version, mut pieces)) = open(bucket, digest).await? else {
        return Ok(Read::Absent);
    };
    let (mut temp, mut writer) = (None, None);
    if is_kept {
        if !inner.blobs.has_room_for(version.size) {
            tracing::warn!(%digest, bytes = version.size, "a blob of the bucket exceeds --cache-size");
        }
        let (blobs, size) = (inner.blobs.clone(), version.size);
        let made = super::upload::on_disk(move || Ok((blobs.reserve(size)?, blobs.begin()?)));
        let (reserved, file) = made.await?;
        writer = Some(Writer::start(&file, reserved)?);
        temp = Some(file);
    }
    let mut hashing = Hashing::new(digest, &version);
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| bucket.error("reading a blob in", &error))?;
        if !hashing.take(&piece) {
            break;
        }
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        inner.counters.downloaded_bytes(length);
        if let Some(writer) = &writer
            && writer.pieces.send(piece).await.is_err()
        {
            break;
        }
    }
    if let Some(writer) = writer {
        writer.finish().await?;
    }
    Ok(match hashing.finish(bucket)? {
        Hashed::Sound => Read::Sound(temp, version),
        Hashed::Other(_) | Hashed::TooLong => Read::Damaged(version),
    })
}

/// Writes pieces to a file, on a thread that may wait for the disk.
struct Writer {
    pieces: mpsc::Sender<Bytes>,
    task: tokio::task::JoinHandle<Result<(), BlobError>>,
}

impl Writer {
    fn start(temp: &TempBlob, mut reservation: Reservation) -> Result<Self, BlobError> {
        let path = temp.path().to_owned();
        let failed = move |source| BlobError::io("writing", &path)(source);
        let mut file = temp.file().try_clone().map_err(&failed)?;
        let (pieces, mut coming) = mpsc::channel::<Bytes>(MAX_PIECES);
        let task = tokio::task::spawn_blocking(move || {
            while let Some(bytes) = coming.blocking_recv() {
                file.write_all(&bytes).map_err(&failed)?;
                reservation.spent(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            }
            Ok(())
        });
        Ok(Self { pieces, task })
    }

    /// Waits until all is written.
    async fn finish(self) -> Result<(), BlobError> {
        drop(self.pieces);
        self.task.await.unwrap_or_else(|panic| {
            Err(BlobError::Io {
                what: "writing a blob to",
                path: "the data directory".into(),
                source: std::io::Error::other(panic),
            })
        })
    }
}
