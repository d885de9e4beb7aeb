//! Temporary files of blobs that are being written.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::filesystem::{hand_over, is_linked};
use super::store::BlobStore;
use crate::store::error::BlobError;

/// The temporary files that this process is writing, in one directory.
#[derive(Debug)]
pub(super) struct Temporaries {
    directory: PathBuf,
    /// Those that have a name; `None` once they were given up.
    names: Mutex<Option<HashSet<PathBuf>>>,
}

impl Temporaries {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            names: Mutex::new(Some(HashSet::new())),
        }
    }

    /// Where they are.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Creates one.
    pub(super) fn begin(self: &Arc<Self>) -> Result<TempBlob, BlobError> {
        // Under the lock: what is created is listed, or not created any more.
        let mut names = self.names.lock();
        let Some(names) = names.as_mut() else {
            let ending = io::Error::other("the program is ending");
            return Err(BlobError::io("creating a file in", &self.directory)(ending));
        };
        let (path, file) = create(&self.directory)?;
        names.insert(path.clone());
        Ok(TempBlob {
            file,
            path,
            is_synced: false,
            is_persisted: false,
            all: Arc::clone(self),
        })
    }

    fn forget(&self, path: &Path) {
        if let Some(names) = self.names.lock().as_mut() {
            names.remove(path);
        }
    }

    fn abandon_temporary_files(&self) {
        let names = self.names.lock().take();
        for path in names.into_iter().flatten() {
            // One that was committed at this moment has another name by now.
            let _ = fs::remove_file(path);
        }
    }
}

impl BlobStore {
    /// Removes the temporary files of this process, which is ending, and lets none be created any
    /// more: threads that are still writing then leave nothing behind. What was committed stays.
    pub fn abandon_temporary_files(&self) {
        self.temporaries.abandon_temporary_files();
    }
}

/// The temporary file of a blob that is being written; removed when dropped before the commit.
///
/// The file has a shared lock for as long as it, or a clone of it, is open: so other processes do
/// not remove it.
#[derive(Debug)]
pub struct TempBlob {
    file: File,
    path: PathBuf,
    is_synced: bool,
    is_persisted: bool,
    all: Arc<Temporaries>,
}

/// A new file, locked, and where it is.
fn create(directory: &Path) -> Result<(PathBuf, File), BlobError> {
    loop {
        let path = directory.join(format!("{:016x}", rand::random::<u64>()));
        let created = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        let file = match created {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(BlobError::io("creating", &path)(error)),
        };
        file.lock_shared()
            .map_err(BlobError::io("locking", &path))?;
        hand_over(&file, &path);
        // Between the two a starting process may have removed it as a leftover.
        if is_linked(&file, &path)? {
            return Ok((path, file));
        }
    }
}

impl TempBlob {
    /// The file, open for reading and writing. It may be cloned (`try_clone`); all writing must
    /// have ended before the commit.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it is until it is committed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Syncs the file, unless that was done.
    pub(super) fn sync(&self) -> Result<(), BlobError> {
        if self.is_synced {
            return Ok(());
        }
        let synced = self.file.sync_all();
        synced.map_err(BlobError::io("writing", &self.path))
    }

    /// Says that the file was synced, and not written to since.
    pub(super) fn set_synced(&mut self) {
        self.is_synced = true;
    }

    pub(super) fn set_persisted(&mut self) {
        self.is_persisted = true;
    }
}

impl Drop for TempBlob {
    fn drop(&mut self) {
        if !self.is_persisted {
            let _ = fs::remove_file(&self.path);
        }
        self.all.forget(&self.path);
    }
}

/// Removes the files of processes that ended.
pub(super) fn remove_leftovers(directory: &Path) -> Result<(), BlobError> {
    let entries = fs::read_dir(directory).map_err(BlobError::io("listing", directory))?;
    for entry in entries {
        let path = entry.map_err(BlobError::io("listing", directory))?.path();
        // What cannot be opened or is no regular file is not one of these.
        let is_file = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file());
        let Some(file) = is_file.then(|| File::open(&path).ok()).flatten() else {
            continue;
        };
        if file.try_lock().is_ok() && is_linked(&file, &path)? {
            match fs::remove_file(&path) {
                Ok(()) => tracing::info!(path = %path.display(), "removed a leftover"),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => match BlobError::io("removing", &path)(error) {
                    // The disk cannot be written now: the next process to start removes it.
                    error if error.is_no_space() => tracing::warn!(%error, "a leftover stays"),
                    error => return Err(error),
                },
            }
        }
    }
    Ok(())
}
