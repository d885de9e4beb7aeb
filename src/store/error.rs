//! What can go wrong with blobs and with the index.

use std::io;
use std::path::{Path, PathBuf};

use super::Shortage;
use crate::oci::Digest;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The blob directory.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The work was stopped from within.
    #[error("opening the store was interrupted: {0}")]
    Interrupted(String),
}

/// Why a blob could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The disk is full, or a quota is.
    #[error("no space left while {what} {}: free some, or lower the cache size", path.display())]
    NoSpace {
        /// What was being done.
        what: &'static str,
        /// To which file or directory.
        path: PathBuf,
    },
    /// There is less space than a conversion may need.
    #[error(
        "{} has {available} bytes free that nothing else waits for, and {needed} are needed: free some, or lower the cache size",
        path.display()
    )]
    TooLittleSpace {
        /// The data directory.
        path: PathBuf,
        /// Bytes asked for.
        needed: u64,
        /// Bytes that there are.
        available: u64,
    },
    /// Any other failure of the file system.
    #[error("{what} {} failed: {source}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The data directory was laid out by another version.
    #[error(
        "{} has layout {found:?}, and this version knows {known:?}: use another data directory, or empty this one",
        path.display()
    )]
    Layout {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What this version writes.
        known: &'static str,
    },
    /// The bytes are not the ones that the digest names.
    #[error("the bytes offered as {expected} have the digest {found}: nothing was stored")]
    Digest {
        /// The digest asked for.
        expected: Digest,
        /// The digest of the bytes.
        found: Digest,
    },
    /// A finished file does not have the size that its maker says.
    #[error("the blob {digest} should have {expected} bytes and has {found}: nothing was stored")]
    Size {
        /// The blob.
        digest: Digest,
        /// Bytes expected.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
}

impl BlobError {
    pub(super) fn io<'a>(
        what: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace {
                what,
                path: path.to_owned(),
            },
            _ => Self::Io {
                what,
                path: path.to_owned(),
                source,
            },
        }
    }

    /// Whether more room on the disk would have helped, or one that can be written.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::NoSpace { .. } | Self::TooLittleSpace { .. } => true,
            Self::Io { source, .. } => Shortage::of(source) == Some(Shortage::Space),
            _ => false,
        }
    }
}

/// Why the index gave no answer. Never a miss: a miss is `None`.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IndexError {
    /// The database does not answer now; the same may succeed later.
    #[error("the index ({index}) is unavailable: {reason}")]
    Unavailable {
        /// Which index; no password in it.
        index: String,
        /// What was seen.
        reason: String,
    },
    /// It is in a file that cannot be written now: the disk is full, or read-only.
    #[error("the index ({index}) cannot be written: {reason}")]
    NoSpace {
        /// Which index.
        index: String,
        /// What was seen.
        reason: String,
    },
    /// The connection text is wrong.
    #[error("the MySQL connection text: {0}")]
    Dsn(String),
    /// A table is missing or lacks a column.
    #[error(
        "the index ({index}): {problem}; run this statement, or start with --db-create:\n{statement}"
    )]
    Schema {
        /// Which index.
        index: String,
        /// The table, and what is wrong with it.
        problem: String,
        /// What makes it right.
        statement: String,
    },
    /// A value that the tables cannot hold.
    #[error("{what} {value:?} does not fit the index: up to 255 ASCII characters are expected")]
    Value {
        /// Which value.
        what: &'static str,
        /// Its beginning.
        value: String,
    },
    /// The database refused, and would refuse again.
    #[error("the index ({index}) refused to {what}: {reason}")]
    Database {
        /// Which index.
        index: String,
        /// What was being done.
        what: &'static str,
        /// What the database said.
        reason: String,
    },
}

impl IndexError {
    /// Whether the same may succeed later, without anyone changing anything.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::NoSpace { .. })
    }

    /// Whether its file cannot be written for want of room.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }
}
