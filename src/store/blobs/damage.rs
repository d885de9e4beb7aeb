//! What is wrong with a blob's file, and where such files go.

use std::fmt;
use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::create_directory;
use super::directory::sync_directory;
use super::held::Held;
use super::stamp::Stamp;
use crate::oci::Digest;
use crate::store::BlobError;

/// Most damaged files that are kept for whoever wants to look at them.
const MOST_FILES: usize = 16;
/// Most bytes that they may have together; an eighth of the cache size if that is less.
const MOST_BYTES: u64 = 1 << 30;

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
    /// There is something else in its place, such as a directory.
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

impl Held<'_> {
    /// Takes the file with this stamp away from its blob's place, for this is wrong with it, and
    /// tells all of this process who have it open.
    pub(super) fn set_aside(
        &mut self,
        digest: &Digest,
        stamp: &Stamp,
        damage: &Damage,
    ) -> Result<Aside, BlobError> {
        let path = self.shelf.path(digest);
        match fs::symlink_metadata(&path) {
            Ok(named) if Stamp::of(&named).is_same_file(stamp) => {}
            Ok(_) => return Ok(Aside::Gone),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Aside::Gone),
            Err(error) => return Err(BlobError::io("examining", &path)(error)),
        }
        // Before anything else can fail.
        self.shelf.known.suspect(digest, stamp);
        let target = self.shelf.damaged.join(format!(
            "{}-{}-{:08x}",
            digest.algorithm(),
            digest.hex(),
            rand::random::<u32>()
        ));
        let moved = create_directory(&self.shelf.damaged)
            .and_then(|()| fs::rename(&path, &target).map_err(BlobError::io("moving", &path)));
        let aside = match moved {
            Ok(()) => {
                self.trim_damaged(&target);
                let is_kept = fs::symlink_metadata(&target).is_ok();
                if is_kept {
                    Aside::Moved(target)
                } else {
                    Aside::Removed
                }
            }
            Err(error) => {
                // That nothing is served of it matters more than that it can be looked at.
                if fs::remove_file(&path).is_err() {
                    return Err(error);
                }
                tracing::warn!(%error, "a damaged blob file was removed instead");
                Aside::Removed
            }
        };
        self.shelf.counters.damaged();
        self.shelf.uses.lock().remove(digest);
        self.forget(digest);
        if let Some(directory) = path.parent()
            && let Err(error) = sync_directory(directory)
        {
            // After a power cut it may be back, and is found again.
            tracing::warn!(%error, "the directory of a damaged blob");
        }
        let moved_to = match &aside {
            Aside::Moved(target) => target.display().to_string(),
            Aside::Removed | Aside::Gone => "nowhere: it was removed".to_owned(),
        };
        tracing::error!(
            %digest, path = %path.display(), found = %damage, moved_to,
            "a blob file is damaged: it is not served, and made again when it is asked for"
        );
        Ok(aside)
    }

    /// Removes the damaged files that were kept longest until the others keep within bounds.
    fn trim_damaged(&self, newest: &Path) {
        let bytes = self.shelf.cache_size.map_or(MOST_BYTES, |size| size / 8);
        trim(
            &self.shelf.damaged,
            newest,
            MOST_FILES,
            bytes.min(MOST_BYTES),
        );
    }

    /// Removes all damaged files: the disk is full.
    pub(super) fn purge_damaged(&self) {
        trim(&self.shelf.damaged, Path::new(""), 0, 0);
    }
}

/// Removes what is in `directory`, oldest first, until so many files of so many bytes are left.
fn trim(directory: &Path, newest: &Path, most_files: usize, most_bytes: u64) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    let mut kept: Vec<(bool, (i64, i64), PathBuf, Metadata)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let metadata = fs::symlink_metadata(&path).ok()?;
            // Being moved changed this time; where it did not, the name still tells.
            let since = (metadata.ctime(), metadata.ctime_nsec());
            Some((path == newest, since, path, metadata))
        })
        .collect();
    kept.sort_by(|a, b| (a.0, a.1, &a.2).cmp(&(b.0, b.1, &b.2)));
    let size = |metadata: &Metadata| {
        if metadata.is_file() {
            metadata.len()
        } else {
            0
        }
    };
    let mut bytes: u64 = kept.iter().map(|(.., metadata)| size(metadata)).sum();
    let mut files = kept.len();
    for (_, _, path, metadata) in kept {
        if files <= most_files && bytes <= most_bytes {
            break;
        }
        let removed = if metadata.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "a damaged file stays");
            continue;
        }
        files -= 1;
        bytes = bytes.saturating_sub(size(&metadata));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_longest_goes_first_and_both_bounds_hold() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let put = |name: &str, size: usize| fs::write(path(name), vec![0; size]).unwrap();
        let names = || {
            let entries = fs::read_dir(directory.path()).unwrap();
            let mut names: Vec<String> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        for name in ["a", "b", "c"] {
            put(name, 100);
        }
        fs::create_dir(path("d")).unwrap();
        put("d/inside", 100);
        trim(directory.path(), &path("b"), 4, 300);
        assert_eq!(names(), ["a", "b", "c", "d"]);
        trim(directory.path(), &path("b"), 4, 250);
        assert_eq!(names().len(), 3);
        trim(directory.path(), &path("b"), 1, 250);
        assert_eq!(names(), ["b"]);
        trim(directory.path(), &path("b"), 4, 99);
        assert!(names().is_empty());
        trim(&path("missing"), Path::new(""), 0, 0);
    }
}
