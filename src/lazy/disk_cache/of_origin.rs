//! The pieces of one repository.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::DiskCache;
use super::piece_file::{self, PieceFile};
use crate::oci::Digest;

/// A cache directory, for the blobs of one origin. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::lazy) struct OriginCache {
    cache: DiskCache,
    origin: Arc<str>,
    /// How the names of its blobs' directories begin: the origin as text has no length that fits.
    prefix: Arc<str>,
}

impl OriginCache {
    pub(super) fn new(cache: &DiskCache, origin: &str) -> Self {
        Self {
            cache: cache.clone(),
            origin: origin.into(),
            prefix: Digest::of(origin.as_bytes()).hex().into(),
        }
    }

    fn directory(&self, blob: &Digest) -> PathBuf {
        let blob = blob.to_string().replace(':', "-");
        let name = format!("{}-{blob}", self.prefix);
        self.cache.directory.join(name)
    }

    fn file(&self, blob: &Digest, range: &Range<u64>) -> PieceFile {
        let what = format!("{} {blob}", self.origin);
        PieceFile::new(self.directory(blob), &what, range)
    }

    /// Whether there is a file for a range of a blob.
    pub(in crate::lazy) fn has(&self, blob: &Digest, range: &Range<u64>) -> bool {
        self.file(blob, range).exists()
    }

    /// Reads a range of a blob; `None` if it is not there, or not what it was.
    pub(in crate::lazy) fn load(&self, blob: &Digest, range: &Range<u64>) -> Option<Bytes> {
        self.file(blob, range).load()
    }

    /// Keeps a range of a blob, if that can be done. Waits while much is still to be written.
    pub(in crate::lazy) async fn store(&self, blob: &Digest, range: &Range<u64>, bytes: Bytes) {
        let file = self.file(blob, range);
        self.cache.writer.write(file, bytes).await;
    }

    /// Drops a range of a blob.
    pub(in crate::lazy) fn forget(&self, blob: &Digest, range: &Range<u64>) {
        self.file(blob, range).remove();
    }

    /// Drops all that there is of a blob.
    pub(in crate::lazy) fn forget_all(&self, blob: &Digest) {
        piece_file::remove_all(&self.directory(blob));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_one_origin_sent_is_kept_from_others() {
        let directory = tempfile::tempdir().unwrap();
        let blob = Digest::of(b"one");
        let origin = "host https://host/v2 team/app";
        {
            let cache = DiskCache::open(directory.path(), 1 << 20).unwrap();
            let bytes = Bytes::from_static(b"planted");
            cache.of(origin).store(&blob, &(0..7), bytes).await;
        }
        let cache = DiskCache::open(directory.path(), 1 << 20).unwrap();
        assert_eq!(cache.of(origin).load(&blob, &(0..7)).unwrap(), "planted");
        for other in [
            "host https://host/v2 team/other",
            "host http://host/v2 team/app",
            "host:5000 https://host:5000/v2 team/app",
        ] {
            let other = cache.of(other);
            assert!(!other.has(&blob, &(0..7)));
            assert!(other.load(&blob, &(0..7)).is_none());
            // Nor where it was put into the other's place.
            let place = other.directory(&blob);
            std::fs::create_dir(&place).unwrap();
            let piece = cache.of(origin).directory(&blob).join("0-7");
            std::fs::copy(piece, place.join("0-7")).unwrap();
            assert!(other.has(&blob, &(0..7)));
            assert!(other.load(&blob, &(0..7)).is_none());
        }
        cache.of(origin).forget_all(&blob);
        assert!(!cache.of(origin).has(&blob, &(0..7)));
        cache.of(origin).forget_all(&blob);
    }
}
