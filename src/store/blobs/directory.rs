//! Directories that survive a power cut, and files that may vanish.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use crate::store::BlobError;

/// Makes a directory, and those above it, for this user only; durable when it returns.
pub(in crate::store) fn create_directory(path: &Path) -> Result<(), BlobError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => {
            return Err(BlobError::io("using", path)(
                io::ErrorKind::NotADirectory.into(),
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(BlobError::io("examining", path)(error)),
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_directory(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(BlobError::io("creating", path)(error)),
    }
    sync_directory(parent.unwrap_or(Path::new(".")))
}

pub(super) fn sync_directory(path: &Path) -> Result<(), BlobError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(BlobError::io("syncing", path))
}

/// Whether `path` still names `file`: it may have been removed before its lock was got.
pub(in crate::store) fn is_linked(file: &File, path: &Path) -> Result<bool, BlobError> {
    let ours = file.metadata().map_err(BlobError::io("examining", path))?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok(named.ino() == ours.ino() && named.dev() == ours.dev()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(BlobError::io("examining", path)(error)),
    }
}
