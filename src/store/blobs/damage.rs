//! What is wrong with a damaged file, and where it was moved.

use std::fmt;
use std::fs::FileType;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use crate::oci::Digest;

/// What is wrong with a blob's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// It has other bytes.
    Digest {
        /// The digest of the bytes that it has.
        found: Digest,
    },
    /// It has more or fewer bytes.
    Size {
        /// Bytes that the blob has.
        expected: u64,
        /// Bytes that the file has.
        found: u64,
    },
    /// The system refuses to read it.
    Unreadable(String),
    /// There is something else at its path, such as a directory.
    NotAFile(&'static str),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest { found } => write!(f, "its bytes have the digest {found}"),
            Self::Size { expected, found } => write!(f, "it has {found} bytes, not {expected}"),
            Self::Unreadable(cause) => write!(f, "it cannot be read: {cause}"),
            Self::NotAFile(kind) => write!(f, "it is {kind}"),
        }
    }
}

impl Damage {
    pub(super) fn not_a_file(kind: FileType) -> Self {
        Self::NotAFile(if kind.is_dir() {
            "a directory"
        } else if kind.is_symlink() {
            "a symbolic link"
        } else if kind.is_fifo() {
            "a named pipe"
        } else if kind.is_socket() {
            "a socket"
        } else {
            "a device"
        })
    }
}

/// Where a damaged file went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Aside {
    /// Another file has its name by now, or none.
    Gone,
    /// It was moved here.
    Moved(PathBuf),
    /// It was removed: it is larger than all that may be kept, or could not be moved.
    Removed,
}
