//! Opening files of a layout without being led out of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// Opens a regular file for reading, by a path relative to `root`.
///
/// Links are followed as long as they stay within `root`: layouts that share blobs by links
/// are read, and one that names the host's files is not. `None` if there is no such file.
pub(super) fn open(root: &Path, path: &Path) -> io::Result<Option<File>> {
    let file = match resolve(root, path) {
        Ok(file) => file,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
                _ if error.raw_os_error() == Some(libc::EXDEV) => Err(io::Error::other(
                    "a symbolic link leads out of the layout, and is not followed",
                )),
                _ => Err(error),
            };
        }
    };
    if file.metadata()?.is_file() {
        Ok(Some(file))
    } else {
        Err(io::Error::other("this is no regular file"))
    }
}

fn resolve(root: &Path, path: &Path) -> io::Result<File> {
    // A FIFO would be waited for.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let directory = File::open(root)?;
    let how = OpenHow::new()
        .flags(flags)
        .resolve(ResolveFlag::RESOLVE_BENEATH);
    match openat2(&directory, path, how) {
        Ok(file) => Ok(File::from(file)),
        // Kernels before 5.6, and sandboxes that do not know the call: no links at all.
        Err(Errno::ENOSYS | Errno::EPERM) => std::fs::OpenOptions::new()
            .read(true)
            .custom_flags((flags | OFlag::O_NOFOLLOW).bits())
            .open(root.join(path)),
        Err(error) => Err(error.into()),
    }
}
