//! Damaged files are set aside: moved to a directory of their own, of bounded size.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::damage::{Aside, Damage};
use super::filesystem::{create_within, sync_directory};
use super::locked::LockedDirectory;
use super::stamp::Stamp;
use crate::oci::Digest;
use crate::store::error::BlobError;

/// Most damaged files that are kept for inspection.
const MAX_DAMAGED_FILES: usize = 16;
/// Most bytes that they have together; an eighth of the cache size if that is less.
const MAX_DAMAGED_BYTES: u64 = 1 << 30;

impl LockedDirectory<'_> {
    /// Moves the damaged file with this stamp away from its blob's path, and marks it as suspect
    /// for all of this process that have it open.
    pub(super) fn set_aside(
        &mut self,
        digest: &Digest,
        stamp: &Stamp,
        damage: &Damage,
    ) -> Result<Aside, BlobError> {
        let path = self.directory.path(digest);
        match fs::symlink_metadata(&path) {
            Ok(named) if Stamp::of(&named).is_same_file(stamp) => {}
            Ok(_) => return Ok(Aside::Gone),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Aside::Gone),
            Err(error) => return Err(BlobError::io("examining", &path)(error)),
        }
        // Before anything else can fail.
        self.directory.verified.suspect(digest, stamp);
        let target = self.directory.damaged.join(format!(
            "{}-{}-{:08x}",
            digest.algorithm(),
            digest.hex(),
            rand::random::<u32>()
        ));
        let moved = create_within(&self.directory.damaged)
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
                // That it is not served is more important than that it can be inspected.
                if fs::remove_file(&path).is_err() {
                    return Err(error);
                }
                tracing::warn!(%error, "a damaged blob file was removed instead");
                Aside::Removed
            }
        };
        self.directory.counters.damaged();
        self.directory.uses.lock().remove(digest);
        self.forget(digest);
        if let Some(directory) = path.parent()
            && let Err(error) = sync_directory(directory)
        {
            // After a power cut it may be back, and is verified again.
            tracing::warn!(%error, "the directory of a damaged blob");
        }
        let moved_to = match &aside {
            Aside::Moved(target) => target.display().to_string(),
            Aside::Removed | Aside::Gone => "nowhere: it was removed".to_owned(),
        };
        tracing::error!(
            %digest, path = %path.display(), found = %damage, moved_to,
            "a blob file is damaged: it is not served, and made again when it is requested"
        );
        Ok(aside)
    }

    /// Removes the oldest damaged files until the others are within the bounds.
    fn trim_damaged(&self, newest: &Path) {
        let bytes = self
            .directory
            .cache_size
            .map_or(MAX_DAMAGED_BYTES, |size| size / 8);
        trim(
            &self.directory.damaged,
            newest,
            MAX_DAMAGED_FILES,
            bytes.min(MAX_DAMAGED_BYTES),
        );
    }

    /// Removes all damaged files: the disk is full.
    pub(super) fn purge_damaged(&self) {
        trim(&self.directory.damaged, Path::new(""), 0, 0);
    }
}

/// Removes what is in `directory`, oldest first, until so many files of so many bytes are left.
fn trim(directory: &Path, newest: &Path, max_files: usize, max_bytes: u64) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    let mut kept: Vec<(bool, (i64, i64), PathBuf, Metadata)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let metadata = fs::symlink_metadata(&path).ok()?;
            // The time of change is that of the move; if not, the order of the names decides.
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
        if files <= max_files && bytes <= max_bytes {
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
    fn the_oldest_damaged_files_are_removed_until_both_limits_hold() {
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
