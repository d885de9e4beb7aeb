//! Blob files that are being read stay open for a while.
//!
//! A node reads one blob in thousands of small ranges; opening and locking the file for each
//! would cost more than the range. An open file is pinned against eviction, so none is kept
//! open for long after its last use, nor, lest a removed blob be served forever, in all.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::oci::Digest;
use crate::registry::content_headers::ContentHeaders;
use crate::server::http::buffers::Buffers;
use crate::store::{BlobError, BlobFile, BlobStore, Shortage};

/// How long a file stays open after its last use.
const IDLE: Duration = Duration::from_secs(3);
/// How long a file stays open whatever its use.
const MAX_OPEN_TIME: Duration = Duration::from_secs(30);
const SHARDS: usize = 16;
/// Most files that stay open, however many this process may open.
const MAX_OPEN_FILES: u64 = 1024;
/// What part of the files that this process may open these are.
const SHARE_OF_DESCRIPTORS: u64 = 8;

/// The blobs, and those of their files that are open.
pub(in crate::server) struct OpenFiles {
    blobs: BlobStore,
    /// Buffers for what is read from them.
    pub buffers: Buffers,
    shards: [Mutex<HashMap<Digest, Open>>; SHARDS],
    /// What is to be closed when nobody reads it any more: closing asks the disk, which the last
    /// one to read it must not.
    leaving: Mutex<Vec<Arc<OpenBlob>>>,
    hasher: RandomState,
    /// Most files that stay open in each shard.
    most: usize,
}

/// A blob whose file is open.
pub(in crate::server) struct OpenBlob {
    pub file: BlobFile,
    pub content_headers: ContentHeaders,
}

struct Open {
    blob: Arc<OpenBlob>,
    opened: Instant,
    used: Instant,
}

impl Open {
    fn is_stale(&self, now: Instant) -> bool {
        now.duration_since(self.used) > IDLE
            || now.duration_since(self.opened) > MAX_OPEN_TIME
            || self.blob.file.is_suspect()
    }
}

impl OpenFiles {
    /// The blobs, for a process that may open `files` files.
    pub fn new(blobs: BlobStore, files: u64) -> Self {
        let shards = u64::try_from(SHARDS).unwrap_or(1);
        let most = (files / SHARE_OF_DESCRIPTORS).min(MAX_OPEN_FILES) / shards;
        Self {
            blobs,
            buffers: Buffers::default(),
            shards: std::array::from_fn(|_| Mutex::default()),
            leaving: Mutex::default(),
            hasher: RandomState::new(),
            most: usize::try_from(most).unwrap_or(1).max(1),
        }
    }

    fn shard(&self, digest: &Digest) -> &Mutex<HashMap<Digest, Open>> {
        let hash = self.hasher.hash_one(digest);
        let place = usize::try_from(hash % 16).unwrap_or_default();
        &self.shards[place]
    }

    /// The blob, if its file is open.
    pub fn get(&self, digest: &Digest) -> Option<Arc<OpenBlob>> {
        let now = Instant::now();
        let mut shard = self.shard(digest).lock();
        let open = shard.get_mut(digest).filter(|open| !open.is_stale(now))?;
        open.used = now;
        Some(Arc::clone(&open.blob))
    }

    /// The blob, open; `None` when it is not there. The first to ask for it after a start waits
    /// until all of it was verified.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn open(&self, digest: &Digest) -> Result<Option<Arc<OpenBlob>>, BlobError> {
        if let Some(blob) = self.get(digest) {
            return Ok(Some(blob));
        }
        let file = match self.blobs.open_async(digest).await {
            Err(error) if Shortage::among(&error) == Some(Shortage::Files) => {
                // What is open and not read is better closed.
                let unread = self.unread();
                let closed = off_thread(move || {
                    drop(unread);
                    Ok(())
                });
                closed.await?;
                self.blobs.open_async(digest).await?
            }
            opened => opened?,
        };
        Ok(file.map(|file| self.keep(file)))
    }

    fn keep(&self, file: BlobFile) -> Arc<OpenBlob> {
        let now = Instant::now();
        let digest = file.digest().clone();
        let blob = Arc::new(OpenBlob {
            content_headers: ContentHeaders::new(&digest),
            file,
        });
        let open = Open {
            blob: Arc::clone(&blob),
            opened: now,
            used: now,
        };
        let mut gone = Vec::new();
        {
            let mut shard = self.shard(&digest).lock();
            if shard.len() >= self.most {
                let oldest = shard.iter().min_by_key(|(_, open)| open.used);
                let oldest = oldest.map(|(digest, _)| digest.clone());
                gone.extend(oldest.and_then(|oldest| shard.remove(&oldest)));
            }
            gone.extend(shard.insert(digest, open));
        }
        self.leaving
            .lock()
            .extend(gone.into_iter().map(|open| open.blob));
        blob
    }

    /// Takes out what is to be closed.
    fn take(&self, is_taken: impl Fn(&Open) -> bool) -> Vec<Arc<OpenBlob>> {
        let mut taken = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock();
            let open = shard.extract_if(|_, open| is_taken(open));
            taken.extend(open.map(|(_, open)| open.blob));
        }
        taken
    }

    /// What is open and not read now, to be closed.
    fn unread(&self) -> Vec<Arc<OpenBlob>> {
        let mut unread = self.take(|open| Arc::strong_count(&open.blob) == 1);
        let mut leaving = self.leaving.lock();
        unread.extend(leaving.extract_if(.., |blob| Arc::strong_count(blob) == 1));
        unread
    }

    /// Closes what is not read now, so that it may be evicted. Blocks on the disk.
    pub fn close_unread(&self) {
        drop(self.unread());
    }

    /// Closes what was not used for a while, and what was written to or moved; to be called every
    /// second or so.
    pub fn close_stale(&self) {
        let now = Instant::now();
        let mut changed = Vec::new();
        for shard in &self.shards {
            let open: Vec<_> = {
                let shard = shard.lock();
                shard.values().map(|open| Arc::clone(&open.blob)).collect()
            };
            changed.extend(open.into_iter().filter(|blob| !blob.file.look_again()));
        }
        let has_changed =
            |blob: &Arc<OpenBlob>| changed.iter().any(|changed| Arc::ptr_eq(changed, blob));
        let stale = self.take(|open| open.is_stale(now) || has_changed(&open.blob));
        drop(changed);
        let unread: Vec<_> = {
            let mut leaving = self.leaving.lock();
            leaving.extend(stale);
            let unread = leaving.extract_if(.., |blob| Arc::strong_count(blob) == 1);
            unread.collect()
        };
        // Closing writes the time of use: not under a lock.
        drop(unread);
    }
}

/// Does what blocks on the disk where it may.
///
/// # Errors
/// Its own, or that it did not come to an end.
pub(in crate::server) async fn off_thread<T, F>(work: F) -> Result<T, BlobError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, BlobError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => Err(BlobError::Io {
            what: "working in",
            path: std::path::PathBuf::from("the data directory"),
            source: std::io::Error::other(panic),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three for each shard.
    const FILES: u64 = 3 * 16 * SHARE_OF_DESCRIPTORS;

    #[tokio::test]
    async fn a_file_stays_open_for_a_while_only() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = BlobStore::at(directory.path(), None, Duration::ZERO).unwrap();
        let digest = Digest::of(b"x");
        drop(blobs.put_bytes(&digest, b"x").unwrap());
        let open_files = OpenFiles::new(blobs.clone(), FILES);
        let first = open_files.open(&digest).await.unwrap().unwrap();
        let second = open_files.open(&digest).await.unwrap().unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert!(open_files.open(&Digest::of(b"y")).await.unwrap().is_none());
        drop((first, second));
        open_files.close_stale();
        let count = |open_files: &OpenFiles| {
            open_files
                .shards
                .iter()
                .map(|s| s.lock().len())
                .sum::<usize>()
        };
        assert_eq!(count(&open_files), 1);
        for shard in &open_files.shards {
            for open in shard.lock().values_mut() {
                open.used = Instant::now().checked_sub(IDLE * 2).unwrap();
            }
        }
        open_files.close_stale();
        assert_eq!(count(&open_files), 0);
    }

    #[tokio::test]
    async fn a_file_that_was_written_to_or_replaced_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = BlobStore::at(directory.path(), None, Duration::ZERO).unwrap();
        let digest = Digest::of(b"content");
        let open_files = OpenFiles::new(blobs.clone(), FILES);
        let harms: [fn(&std::path::Path); 2] = [
            |path| std::fs::write(path, "CONTENT").unwrap(),
            |path| std::fs::rename(path, path.with_extension("moved")).unwrap(),
        ];
        for harm in harms {
            drop(blobs.put_bytes(&digest, b"content").unwrap());
            let open = open_files.open(&digest).await.unwrap().unwrap();
            open_files.close_stale();
            assert!(Arc::ptr_eq(&open, &open_files.get(&digest).unwrap()));
            harm(&blobs.path(&digest));
            open_files.close_stale();
            assert!(open_files.get(&digest).is_none());
            assert!(open_files.open(&digest).await.unwrap().is_none());
        }
        // One that is found damaged is not given out from then on.
        drop(blobs.put_bytes(&digest, b"content").unwrap());
        let open = open_files.open(&digest).await.unwrap().unwrap();
        open.file.suspect();
        assert!(open_files.get(&digest).is_none());
    }

    #[tokio::test]
    async fn the_number_of_open_files_is_limited() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = BlobStore::at(directory.path(), None, Duration::ZERO).unwrap();
        let open_files = OpenFiles::new(blobs.clone(), FILES);
        for n in 0..SHARDS * 3 + 20 {
            let bytes = n.to_le_bytes();
            let digest = Digest::of(&bytes);
            drop(blobs.put_bytes(&digest, &bytes).unwrap());
            assert!(open_files.open(&digest).await.unwrap().is_some());
        }
        assert!(
            open_files
                .shards
                .iter()
                .all(|shard| shard.lock().len() <= 3)
        );
    }
}
