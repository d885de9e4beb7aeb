//! Opens files of a layout without following links out of it, unless that is allowed.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// How far the symbolic links of a layout are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::registry) enum Links {
    /// As long as they stay within it: layouts that share blobs by links are read, and one that
    /// names the host's files is not.
    Within,
    /// Wherever they lead: for a layout that the user who runs the program names, such as one
    /// that Bazel made.
    Anywhere,
}

/// Opens a regular file for reading, by a path relative to `root`. `None` if there is no such
/// file.
pub(super) fn open(root: &Path, path: &Path, links: Links) -> io::Result<Option<File>> {
    let resolved = match links {
        Links::Within => resolve(root, path),
        Links::Anywhere => std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(FLAGS.bits())
            .open(root.join(path)),
    };
    let file = match resolved {
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

/// A FIFO would be waited for.
const FLAGS: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_CLOEXEC)
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY);

fn resolve(root: &Path, path: &Path) -> io::Result<File> {
    let directory = File::open(root)?;
    let how = OpenHow::new()
        .flags(FLAGS)
        .resolve(ResolveFlag::RESOLVE_BENEATH);
    match openat2(&directory, path, how) {
        Ok(file) => Ok(File::from(file)),
        // Kernels before 5.6, and sandboxes that do not know the call: no links at all.
        Err(Errno::ENOSYS | Errno::EPERM) => std::fs::OpenOptions::new()
            .read(true)
            .custom_flags((FLAGS | OFlag::O_NOFOLLOW).bits())
            .open(root.join(path)),
        Err(error) => Err(error.into()),
    }
}
