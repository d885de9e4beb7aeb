//! Which directories of blobs are on the disk: a file in one that is not may be gone after a power
//! cut, although the file was synced (`fsync(2)`).

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::store::error::BlobError;

/// The directories whose names this process has seen synced. As many as there are: two and 256 in
/// each of those.
#[derive(Debug, Default)]
pub(super) struct DurableDirectories(Mutex<HashSet<PathBuf>>);

impl DurableDirectories {
    pub(super) fn has(&self, directory: &Path) -> bool {
        self.0.lock().contains(directory)
    }

    /// Adds directories whose parents were synced since they were seen there.
    pub(super) fn add(&self, directories: Vec<PathBuf>) {
        self.0.lock().extend(directories);
    }

    /// It was made anew.
    pub(super) fn remove(&self, directory: &Path) {
        self.0.lock().remove(directory);
    }
}

/// The directories that are to be synced for files that were moved.
#[derive(Debug, Default)]
pub(super) struct ChangedDirectories {
    /// Those that files are moved to.
    pub(super) places: BTreeSet<PathBuf>,
    /// Those that have directories which may not be on the disk.
    pub(super) parents: BTreeSet<PathBuf>,
}

impl ChangedDirectories {
    /// What is in the parents now: the next sync of those makes it durable.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub(super) fn entries(&self) -> Result<Vec<PathBuf>, BlobError> {
        let mut entries = Vec::new();
        for parent in &self.parents {
            let listed = fs::read_dir(parent).map_err(BlobError::io("listing", parent))?;
            for entry in listed {
                let entry = entry.map_err(BlobError::io("listing", parent))?;
                let path = entry.path();
                if path.is_dir() {
                    entries.push(path);
                }
            }
        }
        Ok(entries)
    }

    /// All of them, once each.
    pub(super) fn all(&self) -> Vec<&PathBuf> {
        self.places.union(&self.parents).collect()
    }
}
