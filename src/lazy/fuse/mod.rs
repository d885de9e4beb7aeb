//! An image's filesystem, or its disk as a file, mounted by FUSE: read-only, and without
//! privileges where `fusermount3` is installed.
//!
//! Nothing of an image ever changes, so the kernel keeps what it was told: names, also those that
//! do not exist, attributes, links and data.
//!
//! | module | what it does |
//! |---|---|
//! | `error` | what can go wrong, and what to do then |
//! | `options` | how a mount is made |
//! | `helper` | `fusermount3`, which mounts for users |
//! | `device` | makes a mount and takes it away |
//! | `attributes` | inodes as FUSE describes them |
//! | `failures` | errors of reads as error numbers and lines of the log |
//! | `seek` | where a file has data |
//! | `xattrs` | extended attributes in memory |
//! | `names` | directories in parts |
//! | `tree` | answers the kernel from an image's filesystem |
//! | `disk` | answers the kernel from an image's disk |
//! | `mounted` | a mount that is served |

mod attributes;
mod device;
mod disk;
mod error;
mod failures;
mod helper;
mod mounted;
mod names;
mod options;
mod seek;
mod tree;
mod xattrs;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use disk::FILE_NAME;
pub use error::{MountError, UnmountError};
pub use mounted::Mounted;
pub use options::{MountOptions, Observer};

use super::ImageFilesystem;
use crate::format::blob::Stack;

/// Sees that a directory is one to mount at: it exists and is empty. Returns its absolute path.
///
/// # Errors
/// What is wrong with it, and what to do.
pub fn mount_point(directory: &Path) -> Result<PathBuf, MountError> {
    device::mount_point(directory)
}

/// Mounts an image's filesystem at a directory and serves it until it is unmounted. To be called
/// from a thread that may block.
///
/// # Errors
/// When the directory is no place for a mount, or the system refuses it.
pub fn mount(
    filesystem: Arc<ImageFilesystem>,
    directory: &Path,
    options: &MountOptions,
) -> Result<Mounted, MountError> {
    let tree = tree::Tree::new(filesystem, options);
    Mounted::start(tree, directory, options)
}

/// Mounts a directory with one file, [`FILE_NAME`], which is the image's disk. As [`mount`].
///
/// # Errors
/// As [`mount`].
pub fn mount_disk(
    stack: Arc<Stack>,
    directory: &Path,
    options: &MountOptions,
) -> Result<Mounted, MountError> {
    Mounted::start(disk::Disk::new(stack), directory, options)
}
