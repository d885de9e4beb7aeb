//! The state of a file as its metadata shows it, without reading it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

/// The state of a file.
///
/// The time of modification is set at each use of a blob, and setting it changes the time of
/// change. Writing to a file sets both to the same instant, so that equal times say that its
/// bytes were written, and by which change. Damage below the file system leaves no trace here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    /// Inodes are used again; `None` where the file system does not keep it.
    born: Option<SystemTime>,
    pub(super) size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            born: metadata.created().ok(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether both are states of one file.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode, self.born) == (other.device, other.inode, other.born)
    }

    /// Whether the file was written to after `earlier`, a state of the same file.
    pub(super) fn was_written_since(&self, earlier: &Self) -> bool {
        self.size != earlier.size
            || self.modified == self.changed && self.changed != earlier.changed
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;
    use std::os::unix::fs::FileExt;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_write_changes_the_stamp_and_a_recorded_use_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"content").unwrap();
        let stamp = || Stamp::of(&fs::metadata(&path).unwrap());
        let use_it = || file.set_modified(SystemTime::now()).unwrap();
        use_it();
        let first = stamp();
        use_it();
        file.set_modified(SystemTime::now() - Duration::from_mins(1))
            .unwrap();
        assert!(stamp().is_same_file(&first));
        assert!(!stamp().was_written_since(&first));
        file.write_all_at(b"X", 3).unwrap();
        assert!(stamp().was_written_since(&first));
        let second = stamp();
        assert!(!stamp().was_written_since(&second));
        use_it();
        file.set_len(3).unwrap();
        assert!(stamp().was_written_since(&second));
        fs::rename(&path, directory.path().join("kept")).unwrap();
        fs::write(&path, "content").unwrap();
        assert!(!stamp().is_same_file(&first));
    }
}
