//! Helpers for directories and files: durable creation, free space, identity.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;
use std::thread;

use tokio::sync::Semaphore;

use crate::store::error::BlobError;

/// The user whose commands may make what a service of another user needs.
const ROOT: u32 = 0;
/// Most files that are synced at one time for one commit: each takes a thread.
const MAX_SYNCS: usize = 8;
/// Those threads of all commits in the process; beyond them, files are synced one by one.
static SYNC_THREADS: Semaphore = Semaphore::const_new(8);

/// Creates a directory and its parents, for this user only; durable when it returns.
pub(in crate::store) fn create_directory(path: &Path) -> Result<(), BlobError> {
    create_all(path, |_| {})
}

/// As [`create_directory`], in a data directory: what root makes there belongs to the owner of what
/// it is in. A service that is not root's can use it then, whoever runs commands.
pub(in crate::store) fn create_within(path: &Path) -> Result<(), BlobError> {
    create_all(path, hand_over_directory)
}

/// Gives a new file or directory to the owner of the directory that it is in, if root made it. It
/// is open: what anybody puts in its place meanwhile is not changed.
pub(in crate::store) fn hand_over(made: &File, path: &Path) {
    let handed_over = || -> io::Result<()> {
        if made.metadata()?.uid() != ROOT {
            return Ok(());
        }
        let owner = fs::metadata(parent_of(path))?;
        if owner.uid() != ROOT {
            fchown(made, Some(owner.uid()), Some(owner.gid()))?;
        }
        Ok(())
    };
    not_handed_over(path, handed_over());
}

fn hand_over_directory(path: &Path) {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path);
    match opened {
        Ok(directory) => hand_over(&directory, path),
        Err(error) => not_handed_over(path, Err(error)),
    }
}

/// It can be used by this process; others say so themselves if they cannot.
fn not_handed_over(path: &Path, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(path = %path.display(), %error,
            "this cannot be given to the owner of the directory that it is in");
    }
}

fn parent_of(path: &Path) -> &Path {
    let parent = path.parent();
    let named = parent.filter(|parent| !parent.as_os_str().is_empty());
    named.unwrap_or(Path::new("."))
}

/// `made` is called with each directory that was not there.
fn create_all(path: &Path, made: fn(&Path)) -> Result<(), BlobError> {
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
        create_all(parent, made)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => made(path),
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(BlobError::io("creating", path)(error)),
    }
    sync_directory(parent.unwrap_or(Path::new(".")))
}

/// Creates a directory in `parent`, which is in a data directory, as [`create_within`]; returns
/// whether it was missing, so that `parent` has to be synced.
pub(super) fn create_child(parent: &Path, path: &Path) -> Result<bool, BlobError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            hand_over_directory(path);
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_within(parent)?;
            create_within(path).map(|()| false)
        }
        // Whatever is there: if it is no directory, nothing can be placed in it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(BlobError::io("creating", path)(error)),
    }
}

/// Opens a file of a data directory to read and write, and creates it if it is not there: for this
/// user only, or as [`create_within`].
pub(super) fn open_or_create(path: &Path) -> Result<File, BlobError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    if let Ok(file) = options.clone().create_new(true).open(path) {
        hand_over(&file, path);
        return Ok(file);
    }
    options
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(BlobError::io("opening", path))
}

/// As [`open_or_create`]; read-only where the disk cannot be written, so that the file can be
/// read, and locked.
pub(super) fn open_or_read(path: &Path) -> Result<File, BlobError> {
    match open_or_create(path) {
        Err(error) if error.is_no_space() => File::open(path).map_err(|_| error),
        other => other,
    }
}

/// The space of a file system, in bytes.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct DiskSpace {
    pub(in crate::store) size: u64,
    /// Bytes that this process may still write.
    pub(in crate::store) free: u64,
}

/// The space of the file system that holds `path`.
pub(in crate::store) fn disk_space(path: &Path) -> Result<DiskSpace, BlobError> {
    let stat = nix::sys::statvfs::statvfs(path)
        .map_err(|error| BlobError::io("asking for the space of", path)(error.into()))?;
    // All are u64 here, u32 elsewhere.
    #[allow(clippy::useless_conversion)]
    let (blocks, free, unit) = (
        u64::from(stat.blocks()),
        u64::from(stat.blocks_available()),
        u64::from(stat.fragment_size()),
    );
    Ok(DiskSpace {
        size: blocks.saturating_mul(unit),
        free: free.saturating_mul(unit),
    })
}

/// Syncs several files or directories at one time: a journal takes them together then.
pub(super) fn sync_together<T: Sync>(
    items: &[T],
    sync: impl Fn(&T) -> Result<(), BlobError> + Sync,
) -> Result<(), BlobError> {
    let sync = &sync;
    for group in items.chunks(MAX_SYNCS) {
        let Some((first, others)) = group.split_first() else {
            continue;
        };
        thread::scope(|scope| {
            let others: Vec<_> = others
                .iter()
                .map(|item| {
                    let Ok(place) = SYNC_THREADS.try_acquire() else {
                        return Err(item);
                    };
                    let thread = thread::Builder::new().name("sync".to_owned());
                    let begun = thread.spawn_scoped(scope, move || {
                        let _place = place;
                        sync(item)
                    });
                    begun.map_err(|_| item)
                })
                .collect();
            others.into_iter().fold(sync(first), |before, other| {
                before.and(match other {
                    Ok(thread) => thread.join().unwrap_or_else(|_| Err(panicked())),
                    Err(item) => sync(item),
                })
            })
        })?;
    }
    Ok(())
}

fn panicked() -> BlobError {
    BlobError::io("syncing", Path::new("a blob"))(io::Error::other("its thread panicked"))
}

pub(super) fn sync_directory(path: &Path) -> Result<(), BlobError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(BlobError::io("syncing", path))
}

/// Whether `path` still names `file`: it may have been removed before it was locked.
pub(in crate::store) fn is_linked(file: &File, path: &Path) -> Result<bool, BlobError> {
    let ours = file.metadata().map_err(BlobError::io("examining", path))?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok(named.ino() == ours.ino() && named.dev() == ours.dev()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(BlobError::io("examining", path)(error)),
    }
}
