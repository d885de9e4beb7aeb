//! The directory as a whole: where files are, their last uses, room on the disk.

use std::collections::HashMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::counters::Counters;
use super::held::Shards;
use super::known::{Change, Known};
use super::pins::Pins;
use super::stamp::Stamp;
use super::{BlobInfo, create_directory, disk_space};
use crate::oci::Digest;
use crate::store::BlobError;

const LAYOUT: &str = "overlaybd-proxy data directory, layout 1\n";

#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) data_dir: PathBuf,
    pub(super) blobs: PathBuf,
    /// Where damaged files go.
    pub(super) damaged: PathBuf,
    pub(super) cache_size: Option<u64>,
    pub(super) keep: Duration,
    /// How late a use may be written down.
    pub(super) grain: Duration,
    /// This process's uses, exact; the files' times of modification follow at `grain`.
    pub(super) uses: Mutex<HashMap<Digest, SystemTime>>,
    pub(super) known: Known,
    pub(super) counters: Counters,
    pub(super) shards: Mutex<Shards>,
    pub(super) pins: Pins,
    /// Blobs that were evicted since the start.
    pub(super) evicted: AtomicU64,
    reserved: Mutex<u64>,
}

/// Room on the disk that was claimed; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    shelf: Arc<Shelf>,
    bytes: u64,
}

impl Shelf {
    pub(super) fn open(
        data_dir: &Path,
        cache_size: Option<u64>,
        keep: Duration,
    ) -> Result<Self, BlobError> {
        let path = data_dir.join("layout");
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(BlobError::io("opening", &path));
        let mut file = match opened {
            // What is there can be read, and locked, on a disk that cannot be written.
            Err(error) if error.is_no_space() => File::open(&path).map_err(|_| error)?,
            other => other?,
        };
        file.lock().map_err(BlobError::io("locking", &path))?;
        let checked = check_layout(&mut file, &path);
        file.unlock().map_err(BlobError::io("unlocking", &path))?;
        checked?;
        let blobs = data_dir.join("blobs");
        for algorithm in ["sha256", "sha512"] {
            create_directory(&blobs.join(algorithm))?;
        }
        let damaged = data_dir.join("damaged");
        match create_directory(&damaged) {
            Err(error) if !error.is_no_space() => return Err(error),
            _ => {}
        }
        let grain = match keep {
            Duration::ZERO => Duration::from_secs(1),
            _ => (keep / 16).min(Duration::from_mins(1)),
        };
        Ok(Self {
            data_dir: data_dir.to_owned(),
            blobs,
            damaged,
            cache_size,
            keep,
            grain,
            uses: Mutex::new(HashMap::new()),
            known: Known::new(),
            counters: Counters::default(),
            shards: Mutex::new(Shards::new(file)),
            pins: Pins::new(data_dir.join("pins")),
            evicted: AtomicU64::new(0),
            reserved: Mutex::new(0),
        })
    }

    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let shard = hex.get(..2).unwrap_or_default();
        self.blobs.join(digest.algorithm()).join(shard).join(hex)
    }

    /// Notes a use: in memory at once, on the file when that one's time is `grain` old.
    pub(super) fn used(&self, digest: &Digest, file: &File, metadata: Option<&Metadata>) {
        let now = SystemTime::now();
        self.uses.lock().insert(digest.clone(), now);
        let change = |metadata| self.known.change(digest, &Stamp::of(metadata));
        if metadata.map(change) == Some(Change::Written) {
            // The time tells that, and the next one to open the file must see it.
            return;
        }
        // A time in the future is some clock's mistake.
        let recorded = metadata.and_then(|metadata| metadata.modified().ok());
        let age = recorded.and_then(|recorded| now.duration_since(recorded).ok());
        if age.is_some_and(|age| age < self.grain) {
            return;
        }
        match file.set_modified(now).and_then(|()| file.metadata()) {
            Ok(metadata) => self.known.touched(digest, &Stamp::of(&metadata)),
            Err(error) => {
                tracing::debug!(%digest, %error, "the last use could not be written down");
            }
        }
    }

    pub(super) fn remove(&self, digest: &Digest) -> Result<bool, BlobError> {
        let _held = self.hold()?;
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Ok(()) => {
                self.uses.lock().remove(digest);
                self.known.forget(digest);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(BlobError::io("removing", &path)(error)),
        }
    }

    pub(super) fn list(&self) -> Result<Vec<BlobInfo>, BlobError> {
        let mut blobs = self.hold()?.by_digest();
        blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
        Ok(blobs)
    }

    pub(super) fn bytes_used(&self) -> Result<u64, BlobError> {
        Ok(self.hold()?.total())
    }

    pub(super) fn evict(&self) -> Result<u64, BlobError> {
        if self.cache_size.is_none() {
            return Ok(0);
        }
        self.hold()?.make_room(0)
    }

    pub(super) fn bytes_free(&self) -> Result<u64, BlobError> {
        Ok(disk_space(&self.data_dir)?.free)
    }

    pub(super) fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, BlobError> {
        let mut reserved = self.reserved.lock();
        let needed = reserved.saturating_add(bytes);
        let mut free = self.bytes_free()?;
        if free < needed {
            let mut held = self.hold()?;
            held.purge_damaged();
            free = self.bytes_free()?;
            // A claim that all blobs together could not meet must not cost any of them.
            let missing = needed.saturating_sub(free);
            if missing > 0 && held.total() >= missing {
                held.evict_bytes(missing, "the disk lacks room for a conversion")?;
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
            shelf: Arc::clone(self),
            bytes,
        })
    }
}

fn check_layout(file: &mut File, path: &Path) -> Result<(), BlobError> {
    let mut found = String::new();
    file.take(1024)
        .read_to_string(&mut found)
        .map_err(BlobError::io("reading", path))?;
    if found.is_empty() || (LAYOUT.starts_with(&found) && found != LAYOUT) {
        // New, or its first process died in the middle of this.
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.write_all(LAYOUT.as_bytes()))
            .and_then(|()| file.sync_all())
            .map_err(BlobError::io("writing", path))
    } else if found == LAYOUT {
        Ok(())
    } else {
        Err(BlobError::Layout {
            path: path.to_owned(),
            found: found.trim_end().to_owned(),
            known: LAYOUT.trim_end(),
        })
    }
}

impl Reservation {
    /// Bytes still claimed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Lowers the claim by what was written meanwhile: the disk counts that by itself now.
    pub fn spent(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        let mut reserved = self.shelf.reserved.lock();
        *reserved = reserved.saturating_sub(bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.spent(self.bytes);
    }
}
