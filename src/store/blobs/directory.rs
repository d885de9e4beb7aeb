//! The state of the blob directory: paths, last uses, and what is known of its files.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::counters::Counters;
use super::durable::DurableDirectories;
use super::filesystem::{create_within, disk_space, open_or_read};
use super::pin_files::PinFiles;
use super::pins::Pins;
use super::reclaim::Reclaimers;
use super::shards::Shards;
use super::stamp::Stamp;
use super::verified::{Change, VerifiedFiles};
use crate::oci::Digest;
use crate::store::error::BlobError;

const LAYOUT: &str = "overlaybd-proxy data directory, layout 1\n";

/// The blob directory, as this process uses it.
#[derive(Debug)]
pub(super) struct BlobDirectory {
    pub(super) data_dir: PathBuf,
    pub(super) blobs: PathBuf,
    /// The directory of damaged files.
    pub(super) damaged: PathBuf,
    pub(super) cache_size: Option<u64>,
    pub(super) keep: Duration,
    /// How late a use may be recorded on the file.
    pub(super) grain: Duration,
    /// The last uses by this process; the files' times of modification are up to `grain` behind.
    pub(super) uses: Mutex<HashMap<Digest, SystemTime>>,
    pub(super) verified: VerifiedFiles,
    /// Directories that are on the disk.
    pub(super) durable: DurableDirectories,
    pub(super) counters: Counters,
    pub(super) shards: Mutex<Shards>,
    /// Pins of this and other processes, as long as they run.
    pub(super) pins: Pins,
    /// Pins that stay.
    pub(super) pin_files: PinFiles,
    /// Blobs that were evicted since the start.
    pub(super) evicted: AtomicU64,
    /// Bytes that are reserved.
    pub(super) reserved: Mutex<u64>,
    pub(super) reclaimers: Reclaimers,
}

impl BlobDirectory {
    pub(super) fn open(
        data_dir: &Path,
        cache_size: Option<u64>,
        keep: Duration,
    ) -> Result<Self, BlobError> {
        let path = data_dir.join("layout");
        let mut file = open_or_read(&path)?;
        file.lock().map_err(BlobError::io("locking", &path))?;
        let checked = check_layout(&mut file, &path);
        file.unlock().map_err(BlobError::io("unlocking", &path))?;
        checked?;
        let blobs = data_dir.join("blobs");
        for algorithm in ["sha256", "sha512"] {
            create_within(&blobs.join(algorithm))?;
        }
        let [damaged, pinned] = ["damaged", "pinned"].map(|name| data_dir.join(name));
        for directory in [&damaged, &pinned] {
            match create_within(directory) {
                Err(error) if !error.is_no_space() => return Err(error),
                _ => {}
            }
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
            verified: VerifiedFiles::new(),
            durable: DurableDirectories::default(),
            counters: Counters::default(),
            shards: Mutex::new(Shards::new(file)),
            pins: Pins::new(data_dir.join("pins")),
            pin_files: PinFiles::new(pinned),
            evicted: AtomicU64::new(0),
            reserved: Mutex::new(0),
            reclaimers: Reclaimers::default(),
        })
    }

    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let shard = hex.get(..2).unwrap_or_default();
        self.blobs.join(digest.algorithm()).join(shard).join(hex)
    }

    /// Records a use: in memory at once, on the file if its time is `grain` old.
    pub(super) fn record_use(&self, digest: &Digest, file: &File, metadata: Option<&Metadata>) {
        let now = SystemTime::now();
        self.uses.lock().insert(digest.clone(), now);
        let change = |metadata| self.verified.change(digest, &Stamp::of(metadata));
        if metadata.map(change) == Some(Change::Written) {
            // The time says so, and has to until the file is opened again.
            return;
        }
        // A time in the future comes from a wrong clock.
        let recorded = metadata.and_then(|metadata| metadata.modified().ok());
        let age = recorded.and_then(|recorded| now.duration_since(recorded).ok());
        if age.is_some_and(|age| age < self.grain) {
            return;
        }
        match file.set_modified(now).and_then(|()| file.metadata()) {
            Ok(metadata) => self.verified.touched(digest, &Stamp::of(&metadata)),
            Err(error) => {
                tracing::debug!(%digest, %error, "the last use could not be recorded");
            }
        }
    }

    pub(super) fn bytes_free(&self) -> Result<u64, BlobError> {
        Ok(disk_space(&self.data_dir)?.free)
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
