//! The sizes of all blobs, read from the directories of the disk as far as those changed.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::oci::Digest;
use crate::store::error::BlobError;

/// For this long after a change, a directory may change again with the same time of modification.
pub(super) const COARSE_TIME: Duration = Duration::from_secs(2);

/// The blobs and their sizes by directory, as last read from the disk under the lock.
#[derive(Debug)]
pub(super) struct Shards {
    /// Its lock orders the commits and evictions of all processes.
    pub(super) file: File,
    known: HashMap<PathBuf, Shard>,
    /// Why the bound was exceeded the last time, if it was: logged once, not at every commit.
    pub(super) over: Option<Over>,
}

/// Why the blobs exceed the bound although what may be evicted was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// The others are in use, or were lately.
    InUse,
    /// Those that are pinned until they are unpinned exceed it alone.
    Pinned,
}

#[derive(Debug)]
struct Shard {
    modified: Option<SystemTime>,
    is_settled: bool,
    sizes: HashMap<Digest, u64>,
}

impl Shards {
    /// Nothing is read yet; `file` is the one whose lock orders all changes.
    pub(super) fn new(file: File) -> Self {
        Self {
            file,
            known: HashMap::new(),
            over: None,
        }
    }
    /// Reads the directories that changed, by whatever process, since they were last read.
    pub(super) fn refresh(&mut self, blobs: &Path) -> Result<(), BlobError> {
        let now = SystemTime::now();
        let mut present = HashSet::new();
        for algorithm in ["sha256", "sha512"] {
            let directory = blobs.join(algorithm);
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
                if let Some(known) = self.known.get(&path)
                    && known.is_settled
                    && known.modified == modified
                {
                    continue;
                }
                let age = modified.and_then(|modified| now.duration_since(modified).ok());
                let sizes = read_shard(&path, algorithm)?;
                let shard = Shard {
                    modified,
                    is_settled: age.is_some_and(|age| age > COARSE_TIME),
                    sizes,
                };
                self.known.insert(path, shard);
            }
        }
        self.known.retain(|path, _| present.contains(path));
        Ok(())
    }

    pub(super) fn total(&self) -> u64 {
        let sizes = self.known.values().flat_map(|s| s.sizes.values());
        sizes.fold(0, |sum: u64, size| sum.saturating_add(*size))
    }

    /// All blobs with their sizes.
    pub(super) fn sizes(&self) -> impl Iterator<Item = (&Digest, u64)> {
        let all = self.known.values().flat_map(|shard| &shard.sizes);
        all.map(|(digest, size)| (digest, *size))
    }

    /// The size of the blob whose file is at `path`, if it is there.
    pub(super) fn size(&self, digest: &Digest, path: &Path) -> Option<u64> {
        let shard = self.known.get(path.parent()?)?;
        shard.sizes.get(digest).copied()
    }

    /// Removes a blob whose file at `path` is gone.
    pub(super) fn remove(&mut self, digest: &Digest, path: &Path) {
        if let Some(shard) = path.parent().and_then(|parent| self.known.get_mut(parent)) {
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
