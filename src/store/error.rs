//! Errors of the blob directory and of the index.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use super::objects::ObjectError;
use super::shortage::Shortage;
use crate::oci::Digest;
use crate::sizes::Size;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The blob directory.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The object storage.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// A thread of it panicked.
    #[error("opening the store was interrupted: {0}")]
    Interrupted(String),
}

/// Why a blob could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The disk is full, or a quota is.
    #[error("no space left while {what} {}: free some, or lower --cache-size", path.display())]
    NoSpace {
        /// What was being done.
        what: &'static str,
        /// To which file or directory.
        path: PathBuf,
    },
    /// There is less space than a conversion may need.
    #[error(
        "{} has {} free that nothing else waits for, and {} are needed: free some, or lower --cache-size",
        path.display(),
        Size(*.available),
        Size(*.needed)
    )]
    TooLittleSpace {
        /// The data directory.
        path: PathBuf,
        /// Bytes to be reserved.
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
        /// The expected digest.
        expected: Digest,
        /// The digest of the bytes.
        found: Digest,
    },
    /// A finished file does not have the size that the caller says.
    #[error("the blob {digest} should have {expected} bytes and has {found}: nothing was stored")]
    Size {
        /// The blob.
        digest: Digest,
        /// Bytes expected.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
    /// It is pinned until it is unpinned.
    #[error("{digest} is pinned: `overlaybd-proxy cache unpin {by}` first")]
    Pinned {
        /// The blob.
        digest: Digest,
        /// What was pinned with it: itself, or an image that it is a part of.
        by: Digest,
    },
    /// There are as many pins as there may be.
    #[error(
        "{} has as many pins as there may be, {pins} of {blobs} blobs in all: unpin some first \
         (`overlaybd-proxy cache unpin`)",
        path.display()
    )]
    TooManyPins {
        /// The directory of pins.
        path: PathBuf,
        /// The most pins.
        pins: usize,
        /// The most blobs that they name together.
        blobs: usize,
    },
    /// An image has more parts than one pin may keep.
    #[error("{digest} has more than {most} blobs: pin its manifests one by one")]
    TooManyParts {
        /// What was to be pinned.
        digest: Digest,
        /// The most blobs of a pin.
        most: usize,
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

    /// Whether the disk is full or read-only.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::NoSpace { .. } | Self::TooLittleSpace { .. } => true,
            Self::Io { source, .. } => Shortage::of(source) == Some(Shortage::Space),
            _ => false,
        }
    }
}

/// An error of the index. A missing row is no error but `None`.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IndexError {
    /// The database is not available now; another attempt may succeed.
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
    /// Tables that a later version of this program made or changed.
    #[error("the index ({index}): {problem}; run that version, or use another database")]
    LaterVersion {
        /// Which index.
        index: String,
        /// Their version, and the one that is known.
        problem: String,
    },
    /// A value that the tables cannot hold.
    #[error("{what} {value:?} does not fit the index: up to 255 ASCII characters are expected")]
    Value {
        /// Which value.
        what: &'static str,
        /// Its beginning.
        value: String,
    },
    /// The database refused; another attempt fails the same way.
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
    /// Whether another attempt may succeed later.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::NoSpace { .. })
    }

    /// Whether the index cannot be written because the disk is full or read-only.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }
}

impl Shortage {
    /// The resource that ran out, if that is the error or one of its causes.
    #[must_use]
    pub fn among(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if error.downcast_ref().is_some_and(BlobError::is_no_space) {
                return Some(Self::Space);
            }
            let io = error.downcast_ref::<io::Error>();
            if let Some(found) = io.and_then(Self::of) {
                return Some(found);
            }
            // The inner error of an `io::Error` is not its source; only the inner one's source is.
            next = match io.and_then(io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn a_shortage_is_found_among_all_causes() {
        let os = io::Error::from_raw_os_error;
        let found = |error: io::Error| Shortage::among(&error);
        for (errno, shortage) in [
            (libc::ENOSPC, Some(Shortage::Space)),
            (libc::EDQUOT, Some(Shortage::Space)),
            (libc::EFBIG, Some(Shortage::Space)),
            (libc::EROFS, Some(Shortage::Space)),
            (libc::EMFILE, Some(Shortage::Files)),
            (libc::ENFILE, Some(Shortage::Files)),
            (libc::EIO, None),
        ] {
            assert_eq!(found(os(errno)), shortage);
            assert_eq!(found(io::Error::other(os(errno))), shortage);
            let blob = BlobError::io("opening", &PathBuf::from("x"))(os(errno));
            assert_eq!(found(io::Error::other(blob)), shortage);
            let outer = Arc::new(Outer(io::Error::other(os(errno))));
            assert_eq!(Shortage::among(&outer), shortage);
        }
        assert_eq!(found(io::ErrorKind::FileTooLarge.into()), None);
    }
}
