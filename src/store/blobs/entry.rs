//! What is at the path of a blob: a file, nothing, or something that cannot be a blob.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::damage::Damage;
use super::stamp::Stamp;
use crate::store::error::BlobError;

/// What is at the path of a blob.
pub(super) enum PathEntry {
    Missing,
    File(File, Metadata),
    /// Something that cannot be a blob.
    Unusable(Damage, Stamp),
}

/// Opens what is at `path`, if it is a file. Never blocks, whatever it is.
pub(super) fn open_entry(path: &Path) -> Result<PathEntry, BlobError> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let error = match opened {
        Ok(file) => {
            let metadata = file.metadata().map_err(BlobError::io("examining", path))?;
            if metadata.is_file() {
                return Ok(PathEntry::File(file, metadata));
            }
            let damage = Damage::not_a_file(metadata.file_type());
            return Ok(PathEntry::Unusable(damage, Stamp::of(&metadata)));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(PathEntry::Missing),
        Err(error) => error,
    };
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            let damage = Damage::not_a_file(metadata.file_type());
            Ok(PathEntry::Unusable(damage, Stamp::of(&metadata)))
        }
        Ok(metadata) if is_about_file(&error) => {
            let damage = Damage::Unreadable(error.to_string());
            Ok(PathEntry::Unusable(damage, Stamp::of(&metadata)))
        }
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(PathEntry::Missing),
        Ok(_) | Err(_) => Err(BlobError::io("opening", path)(error)),
    }
}

/// Whether an error is about this file, and not about the resources of this process.
fn is_about_file(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EACCES | libc::EPERM | libc::EIO | libc::EBADMSG | libc::EUCLEAN | libc::ENODATA
        )
    )
}
