//! Files in the making: they get their name when they are whole.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use tempfile::NamedTempFile;

use crate::registry::Error;

/// What their names begin with until then.
pub(super) const PREFIX: &str = ".overlaybd-proxy-";

/// A file in the making, in the directory where it will be; removed when dropped.
///
/// It has a shared lock while it is open, so that other processes do not remove it.
pub(super) fn create(directory: &Path) -> Result<NamedTempFile, Error> {
    let failed = |cause: io::Error| Error::io(directory, &cause);
    loop {
        let temp = tempfile::Builder::new()
            .prefix(PREFIX)
            // Others read layouts too; the umask decides.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(directory)
            .map_err(failed)?;
        temp.as_file().lock_shared().map_err(failed)?;
        // Between the two it may have been taken for a leftover.
        if temp.as_file().metadata().map_err(failed)?.nlink() > 0 {
            return Ok(temp);
        }
    }
}

/// Syncs it and renames it to its name, replacing what has it.
pub(super) fn place(temp: NamedTempFile, path: &Path) -> Result<(), Error> {
    temp.as_file()
        .sync_all()
        .and_then(|()| temp.persist(path).map_err(|error| error.error))
        .map_err(|cause| Error::io(path, &cause))?;
    sync_parent(path)
}

/// Renames it to its name, unless that exists.
pub(super) fn place_new(temp: NamedTempFile, path: &Path) -> Result<(), Error> {
    let placed = temp
        .as_file()
        .sync_all()
        .and_then(|()| temp.persist_noclobber(path).map_err(|error| error.error));
    match placed {
        Ok(_) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::io(path, &error)),
    }
}

/// Sees to it that a new name in the parent of `path` outlives a crash.
fn sync_parent(path: &Path) -> Result<(), Error> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(|cause| Error::io(parent, &cause))
}

/// Removes what makers that were killed left behind.
pub(super) fn remove_leftovers(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.file_type().is_ok_and(|kind| kind.is_file());
        // A process that still writes it holds a lock.
        if is_ours
            && let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
            && fs::remove_file(entry.path()).is_ok()
        {
            tracing::info!(path = %entry.path().display(), "removed a leftover");
        }
    }
}
