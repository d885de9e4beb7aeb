//! Files that a layout shares with their owner, instead of copying them.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::ioctl_ficlone;
use tempfile::TempPath;

use super::temp;

/// Gives a file one more name, in `directory`, with the permissions that files of a layout have,
/// to be synced. The name is removed when the result is dropped. The owner holds a shared lock on the
/// file, as on all files in the making, or [`temp::remove_leftovers`] may remove the name.
///
/// # Errors
/// When the two are on different file systems, the file has another length, or the system
/// refuses.
pub(super) fn link(source: &Path, size: u64, directory: &Path) -> io::Result<TempPath> {
    let found = fs::metadata(source)?;
    if !found.is_file() || found.len() != size {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let permissions = temp::create(directory)
        .map_err(io::Error::other)?
        .as_file()
        .metadata()?
        .permissions();
    let linked = tempfile::Builder::new()
        .prefix(temp::PREFIX)
        .make_in(directory, |path| fs::hard_link(source, path))?
        .into_temp_path();
    fs::set_permissions(&linked, permissions)?;
    Ok(linked)
}

/// Has `target`, an empty file, share all blocks of a file.
///
/// # Errors
/// When the file system cannot do that, or the file has another length.
pub(super) fn clone_blocks(source: &Path, size: u64, target: &File) -> io::Result<()> {
    let source = File::open(source)?;
    if source.metadata()?.len() != size {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    ioctl_ficlone(target, &source)?;
    if target.metadata()?.len() != size {
        target.set_len(0)?;
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(())
}
