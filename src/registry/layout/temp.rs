//! Files in the making: they get their name when they are whole.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use tempfile::{NamedTempFile, TempDir, TempPath};

use crate::registry::Error;

/// What their names begin with until then.
pub(super) const PREFIX: &str = ".overlaybd-proxy-";
/// What the names of directories begin with in which archives are gathered.
pub(super) const ARCHIVE_PREFIX: &str = ".overlaybd-proxy-archive-";
/// What the names of directories begin with that hold temporary stores.
pub(super) const STORE_PREFIX: &str = ".overlaybd-proxy-store-";
/// Characters behind the prefix in the name of a directory.
const RANDOM_CHARACTERS: usize = 6;

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

/// Syncs a file by one of its names, and renames that to `path`, replacing what has it.
pub(super) fn place_linked(linked: TempPath, path: &Path) -> Result<(), Error> {
    let failed = |cause: io::Error| Error::io(path, &cause);
    File::open(&linked)
        .and_then(|file| file.sync_all())
        .map_err(failed)?;
    linked.persist(path).map_err(|error| failed(error.error))?;
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

/// A directory for files in the making; removed, with all of them, when dropped.
///
/// It has a shared lock, so that other processes do not remove it.
#[derive(Debug)]
pub struct TemporaryDirectory {
    // Dropped in this order: others may remove it once it is unlocked.
    directory: TempDir,
    _lock: File,
}

impl TemporaryDirectory {
    /// A directory in `parent`, whose name begins with `prefix`.
    pub(super) fn create(parent: &Path, prefix: &str) -> Result<Self, Error> {
        let failed = |cause: io::Error| Error::io(parent, &cause);
        loop {
            let directory = tempfile::Builder::new()
                .prefix(prefix)
                .rand_bytes(RANDOM_CHARACTERS)
                .tempdir_in(parent)
                .map_err(failed)?;
            // Between the two it may have been taken for a leftover.
            let Ok(lock) = File::open(directory.path()) else {
                continue;
            };
            lock.lock_shared().map_err(failed)?;
            if directory.path().exists() {
                return Ok(Self {
                    directory,
                    _lock: lock,
                });
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Whether a directory of this name is one in the making; others begin as files do by chance.
fn is_temporary_directory(name: &str) -> bool {
    [ARCHIVE_PREFIX, STORE_PREFIX].iter().any(|prefix| {
        name.strip_prefix(prefix).is_some_and(|random| {
            random.len() == RANDOM_CHARACTERS && random.bytes().all(|c| c.is_ascii_alphanumeric())
        })
    })
}

/// Removes the files and directories that makers that were killed left behind.
pub(super) fn remove_leftovers(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_ours = (kind.is_file() && name.starts_with(PREFIX))
            || (kind.is_dir() && is_temporary_directory(&name));
        // A process that still uses it holds a lock.
        if is_ours
            && let Ok(left) = File::open(entry.path())
            && left.try_lock().is_ok()
        {
            let removed = if kind.is_dir() {
                fs::remove_dir_all(entry.path())
            } else {
                fs::remove_file(entry.path())
            };
            if removed.is_ok() {
                tracing::info!(path = %entry.path().display(), "removed a leftover");
            }
        }
    }
}
