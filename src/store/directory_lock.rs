//! Locks of the data directory: each process that uses it holds a lock file with a name of its own,
//! so that the leases of processes that ended can be freed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::blobs::{create_within, hand_over, is_linked};
use super::error::BlobError;

/// The lock file of this process.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    name: String,
    /// The locked file; `None` if it cannot be created: its leases then have to expire.
    file: Option<(PathBuf, File)>,
}

/// The lock file of a process that ended; locked, so that only one process cleans up after it.
pub(super) struct StaleLock {
    name: String,
    path: PathBuf,
    _locked: File,
}

impl DirectoryLock {
    /// Creates and locks a file with a new name.
    pub(super) fn acquire(data_dir: &Path) -> Result<Self, BlobError> {
        match Self::create(&data_dir.join("owners")) {
            Err(error) if error.is_no_space() => {
                tracing::warn!(%error, "the lock file of this process cannot be created");
                let name = new_name();
                Ok(Self { name, file: None })
            }
            other => other,
        }
    }

    fn create(directory: &Path) -> Result<Self, BlobError> {
        create_within(directory)?;
        loop {
            let name = new_name();
            let path = directory.join(&name);
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .map_err(BlobError::io("creating", &path))?;
            // Shared is enough: another process tries the exclusive lock.
            file.lock_shared()
                .map_err(BlobError::io("locking", &path))?;
            hand_over(&file, &path);
            if is_linked(&file, &path)? {
                let file = Some((path, file));
                return Ok(Self { name, file });
            }
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The lock files that no process holds.
    pub(super) fn stale(data_dir: &Path) -> Result<Vec<StaleLock>, BlobError> {
        let directory = data_dir.join("owners");
        let mut stale = Vec::new();
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(stale),
            Err(error) => return Err(BlobError::io("listing", &directory)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(BlobError::io("listing", &directory))?;
            let path = entry.path();
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let Ok(file) = File::open(&path) else {
                continue;
            };
            if file.try_lock().is_ok() && is_linked(&file, &path)? {
                stale.push(StaleLock {
                    name,
                    path,
                    _locked: file,
                });
            }
        }
        Ok(stale)
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // The leases were released, or expire.
        if let Some((path, _)) = &self.file {
            let _ = fs::remove_file(path);
        }
    }
}

/// A name that no other process has, now or later.
fn new_name() -> String {
    format!("{}-{:016x}", std::process::id(), rand::random::<u64>())
}

impl StaleLock {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn remove(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a dead process's file stays");
        }
    }
}
