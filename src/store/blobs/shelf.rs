//! What is on the shelf: sizes, last uses, eviction, room.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::counters::Counters;
use super::known::{Change, Known};
use super::stamp::Stamp;
use super::verify::{Place, open_place};
use super::{BlobInfo, create_directory, is_linked};
use crate::oci::Digest;
use crate::store::BlobError;

const LAYOUT: &str = "overlaybd-proxy data directory, layout 1\n";

/// Within this long of its change, a directory may change again without its time telling.
const UNSETTLED: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) data_dir: PathBuf,
    pub(super) blobs: PathBuf,
    /// Where damaged files go.
    pub(super) damaged: PathBuf,
    pub(super) cache_size: Option<u64>,
    keep: Duration,
    /// How late a use may be written down.
    grain: Duration,
    /// This process's uses, exact; the files' times of modification follow at `grain`.
    pub(super) uses: Mutex<HashMap<Digest, SystemTime>>,
    pub(super) known: Known,
    pub(super) counters: Counters,
    shards: Mutex<Shards>,
    reserved: Mutex<u64>,
}

/// What is known of the directories; refreshed from the disk under the lock.
#[derive(Debug)]
struct Shards {
    /// Its lock orders the commits and evictions of all processes.
    lock: File,
    known: HashMap<PathBuf, Shard>,
    /// Whether the bound was broken when last looked at: said once, not at every commit.
    is_over: bool,
}

#[derive(Debug)]
struct Shard {
    modified: Option<SystemTime>,
    is_settled: bool,
    sizes: HashMap<Digest, u64>,
}

/// The shelf while no other thread or process may change it.
pub(super) struct Held<'a> {
    pub(super) shelf: &'a Shelf,
    shards: MutexGuard<'a, Shards>,
}

/// Room on the disk that was claimed; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    shelf: Arc<Shelf>,
    bytes: u64,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking thread left is refreshed from the disk anyway.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shelf {
    pub(super) fn open(
        data_dir: &Path,
        cache_size: Option<u64>,
        keep: Duration,
    ) -> Result<Self, BlobError> {
        let path = data_dir.join("layout");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(BlobError::io("opening", &path))?;
        file.lock().map_err(BlobError::io("locking", &path))?;
        let checked = check_layout(&mut file, &path);
        file.unlock().map_err(BlobError::io("unlocking", &path))?;
        checked?;
        let blobs = data_dir.join("blobs");
        for algorithm in ["sha256", "sha512"] {
            create_directory(&blobs.join(algorithm))?;
        }
        let damaged = data_dir.join("damaged");
        create_directory(&damaged)?;
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
            shards: Mutex::new(Shards {
                lock: file,
                known: HashMap::new(),
                is_over: false,
            }),
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
        lock(&self.uses).insert(digest.clone(), now);
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

    pub(super) fn hold(&self) -> Result<Held<'_>, BlobError> {
        let shards = lock(&self.shards);
        shards
            .lock
            .lock()
            .map_err(BlobError::io("locking", &self.data_dir))?;
        let mut held = Held {
            shelf: self,
            shards,
        };
        held.refresh()?;
        Ok(held)
    }

    pub(super) fn remove(&self, digest: &Digest) -> Result<bool, BlobError> {
        let _held = self.hold()?;
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Ok(()) => {
                lock(&self.uses).remove(digest);
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
        self.hold()?.make_room(0)
    }

    pub(super) fn bytes_free(&self) -> Result<u64, BlobError> {
        let stat = nix::sys::statvfs::statvfs(&self.data_dir).map_err(|error| {
            BlobError::io("asking for the free space of", &self.data_dir)(error.into())
        })?;
        // Both are u64 here, u32 elsewhere.
        #[allow(clippy::useless_conversion)]
        let (blocks, size) = (
            u64::from(stat.blocks_available()),
            u64::from(stat.fragment_size()),
        );
        Ok(blocks.saturating_mul(size))
    }

    pub(super) fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, BlobError> {
        let mut reserved = lock(&self.reserved);
        let needed = reserved.saturating_add(bytes);
        let mut free = self.bytes_free()?;
        if free < needed {
            let mut held = self.hold()?;
            held.purge_damaged();
            free = self.bytes_free()?;
            // A claim that all blobs together could not meet must not cost any of them.
            let missing = needed.saturating_sub(free);
            if missing > 0 && held.total() >= missing {
                let freed = held.evict_bytes(missing)?;
                tracing::info!(
                    freed,
                    "evicted blobs for a conversion: the disk is too full"
                );
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

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.shards.lock.unlock() {
            tracing::error!(%error, "the data directory could not be unlocked");
        }
    }
}

impl Held<'_> {
    /// Reads the directories that changed, by whatever process, since they were last read.
    fn refresh(&mut self) -> Result<(), BlobError> {
        let now = SystemTime::now();
        let mut present = HashSet::new();
        for algorithm in ["sha256", "sha512"] {
            let directory = self.shelf.blobs.join(algorithm);
            let entries = fs::read_dir(&directory).map_err(BlobError::io("listing", &directory))?;
            for entry in entries {
                let path = entry.map_err(BlobError::io("listing", &directory))?.path();
                let metadata =
                    fs::symlink_metadata(&path).map_err(BlobError::io("examining", &path))?;
                if !metadata.is_dir() {
                    continue;
                }
                let modified = metadata.modified().ok();
                present.insert(path.clone());
                if let Some(known) = self.shards.known.get(&path)
                    && known.is_settled
                    && known.modified == modified
                {
                    continue;
                }
                let age = modified.and_then(|modified| now.duration_since(modified).ok());
                let sizes = read_shard(&path, algorithm)?;
                let shard = Shard {
                    modified,
                    is_settled: age.is_some_and(|age| age > UNSETTLED),
                    sizes,
                };
                self.shards.known.insert(path, shard);
            }
        }
        self.shards.known.retain(|path, _| present.contains(path));
        Ok(())
    }

    fn total(&self) -> u64 {
        let sizes = self.shards.known.values().flat_map(|s| s.sizes.values());
        sizes.fold(0, |sum: u64, size| sum.saturating_add(*size))
    }

    fn by_digest(&self) -> Vec<BlobInfo> {
        let uses = lock(&self.shelf.uses);
        let all = self.shards.known.values().flat_map(|shard| &shard.sizes);
        all.filter_map(|(digest, &size)| {
            let modified = fs::metadata(self.shelf.path(digest))
                .ok()?
                .modified()
                .ok()?;
            let exact = uses.get(digest).copied();
            Some(BlobInfo {
                digest: digest.clone(),
                size,
                last_use: exact.map_or(modified, |exact| exact.max(modified)),
            })
        })
        .collect()
    }

    /// Evicts until `size` more bytes keep within the bound, as far as that may be; gives the
    /// bytes freed.
    pub(super) fn make_room(&mut self, size: u64) -> Result<u64, BlobError> {
        let Some(cache_size) = self.shelf.cache_size else {
            return Ok(0);
        };
        let total = self.total();
        let excess = total.saturating_add(size).saturating_sub(cache_size);
        let freed = if excess > 0 {
            self.evict_bytes(excess)?
        } else {
            0
        };
        let is_over = freed < excess;
        if is_over && !self.shards.is_over {
            tracing::warn!(
                cache_size,
                bytes = total.saturating_add(size).saturating_sub(freed),
                "the blobs exceed the cache size: the others are in use, or were within --keep"
            );
        }
        self.shards.is_over = is_over;
        Ok(freed)
    }

    /// Evicts at least `excess` bytes, least recently used first, of what may go; gives the
    /// bytes freed.
    fn evict_bytes(&mut self, excess: u64) -> Result<u64, BlobError> {
        let now = SystemTime::now();
        let mut blobs = self.by_digest();
        let there: HashSet<&Digest> = blobs.iter().map(|blob| &blob.digest).collect();
        lock(&self.shelf.uses).retain(|digest, _| there.contains(digest));
        self.shelf.known.retain(&there, Duration::MAX);
        blobs.sort_by(|a, b| (a.last_use, &a.digest).cmp(&(b.last_use, &b.digest)));
        let mut freed: u64 = 0;
        for blob in blobs {
            if freed >= excess {
                break;
            }
            let age = now.duration_since(blob.last_use).unwrap_or_default();
            // Another process's last use may be written down up to `grain` late.
            if !self.shelf.keep.is_zero() && age < self.shelf.keep + self.shelf.grain {
                break;
            }
            if self.evict_one(&blob.digest)? {
                freed = freed.saturating_add(blob.size);
                tracing::debug!(digest = %blob.digest, size = blob.size, "evicted");
            }
        }
        Ok(freed)
    }

    /// Whether the blob could be evicted; `false` when it is pinned.
    fn evict_one(&mut self, digest: &Digest) -> Result<bool, BlobError> {
        let path = self.shelf.path(digest);
        let file = match open_place(&path)? {
            Place::File(file, _) => file,
            // What is unusable goes when it is asked for, or the scrubber comes to it.
            Place::Empty | Place::Unusable(..) => return Ok(false),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(false),
            Err(fs::TryLockError::Error(error)) => {
                return Err(BlobError::io("locking", &path)(error));
            }
        }
        if !is_linked(&file, &path)? {
            return Ok(false);
        }
        fs::remove_file(&path).map_err(BlobError::io("evicting", &path))?;
        self.forget(digest);
        lock(&self.shelf.uses).remove(digest);
        self.shelf.known.forget(digest);
        Ok(true)
    }

    /// Forgets a file that is no longer there.
    pub(super) fn forget(&mut self, digest: &Digest) {
        let path = self.shelf.path(digest);
        if let Some(shard) = path.parent().and_then(|p| self.shards.known.get_mut(p)) {
            shard.sizes.remove(digest);
            shard.is_settled = false;
        }
    }
}

fn read_shard(path: &Path, algorithm: &str) -> Result<HashMap<Digest, u64>, BlobError> {
    let mut sizes = HashMap::new();
    for entry in fs::read_dir(path).map_err(BlobError::io("listing", path))? {
        let entry = entry.map_err(BlobError::io("listing", path))?;
        let name = entry.file_name();
        let digest = name
            .to_str()
            .and_then(|hex| format!("{algorithm}:{hex}").parse().ok());
        let Some(digest) = digest else {
            continue;
        };
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => {
                sizes.insert(digest, metadata.len());
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(BlobError::io("examining", &entry.path())(error)),
        }
    }
    Ok(sizes)
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
        let mut reserved = lock(&self.shelf.reserved);
        *reserved = reserved.saturating_sub(bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.spent(self.bytes);
    }
}
