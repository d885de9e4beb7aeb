//! The processes that use a data directory: each holds the lock of a file with its name.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::BlobError;
use super::blobs::{create_directory, is_linked};

/// A living process.
#[derive(Debug)]
pub(super) struct Owner {
    name: String,
    /// Its file, unless the disk does not take it: its leases then have to run out by themselves.
    file: Option<(PathBuf, File)>,
}

/// A process that is gone; its file is locked, so that only one successor cleans up after it.
pub(super) struct DeadOwner {
    name: String,
    path: PathBuf,
    _locked: File,
}

impl Owner {
    pub(super) fn register(data_dir: &Path) -> Result<Self, BlobError> {
        match Self::with_file(&data_dir.join("owners")) {
            Err(error) if error.is_no_space() => {
                tracing::warn!(%error, "this process cannot be noted down");
                let name = new_name();
                Ok(Self { name, file: None })
            }
            other => other,
        }
    }

    fn with_file(directory: &Path) -> Result<Self, BlobError> {
        create_directory(directory)?;
        loop {
            let name = new_name();
            let path = directory.join(&name);
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .map_err(BlobError::io("creating", &path))?;
            // Shared is enough: a successor asks for the exclusive lock.
            file.lock_shared()
                .map_err(BlobError::io("locking", &path))?;
            if is_linked(&file, &path)? {
                let file = Some((path, file));
                return Ok(Self { name, file });
            }
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The processes whose files nobody holds any more.
    pub(super) fn dead(data_dir: &Path) -> Result<Vec<DeadOwner>, BlobError> {
        let directory = data_dir.join("owners");
        let mut dead = Vec::new();
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(dead),
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
                dead.push(DeadOwner {
                    name,
                    path,
                    _locked: file,
                });
            }
        }
        Ok(dead)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // A clean end released its leases; one that did not leaves them to expire.
        if let Some((path, _)) = &self.file {
            let _ = fs::remove_file(path);
        }
    }
}

/// A name that no other process has, now or later.
fn new_name() -> String {
    format!("{}-{:016x}", std::process::id(), rand::random::<u64>())
}

impl DeadOwner {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn forget(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a dead process's file stays");
        }
    }
}
