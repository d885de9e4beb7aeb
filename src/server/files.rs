//! Files that the configuration names, and whether they changed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

/// How often files are looked at.
pub(in crate::server) const INTERVAL: Duration = Duration::from_secs(2);

/// What a file looked like: enough to see that it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Look {
    modified: Option<SystemTime>,
    inode: u64,
    size: u64,
}

/// Files, as they were when last looked at.
#[derive(Debug)]
pub(in crate::server) struct Watched {
    paths: Vec<PathBuf>,
    looks: Mutex<Vec<Option<Look>>>,
}

impl Watched {
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let looks = Mutex::new(paths.iter().map(|path| look(path)).collect());
        Self { paths, looks }
    }

    /// Whether any of them changed since this was last asked.
    pub fn have_changed(&self) -> bool {
        let mut before = self.looks.lock();
        let now: Vec<_> = self.paths.iter().map(|path| look(path)).collect();
        let have_changed = now != *before;
        *before = now;
        have_changed
    }
}

fn look(path: &Path) -> Option<Look> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Look {
        modified: metadata.modified().ok(),
        inode: metadata.ino(),
        size: metadata.size(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_reported_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let watched = Watched::new(vec![path.clone()]);
        assert!(!watched.have_changed());
        std::fs::write(&path, "a").unwrap();
        assert!(watched.have_changed());
        assert!(!watched.have_changed());
        let other = directory.path().join("other");
        std::fs::write(&other, "b").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(watched.have_changed());
    }
}
