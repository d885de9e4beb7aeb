//! A piece as a file: its bytes, then a checksum of them and of what they are.

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest as Crc};

/// Bytes of the checksum.
const CRC: usize = 8;
/// How the names of files that are not whole yet begin.
pub(super) const TEMPORARY: &str = ".tmp-";
/// A file that was read says so by its time, if that is older than this.
const TOUCH_AFTER: Duration = Duration::from_mins(1);

/// A piece's file, there or not.
#[derive(Debug)]
pub(super) struct PieceFile {
    /// The directory of the blob.
    directory: PathBuf,
    path: PathBuf,
    /// What the bytes are: origin, blob and range.
    what: String,
    length: usize,
}

impl PieceFile {
    /// A piece in a blob's directory. `blob` says which blob it is, and of which origin.
    pub(super) fn new(directory: PathBuf, blob: &str, range: &Range<u64>) -> Self {
        let (start, length) = (range.start, range.end.saturating_sub(range.start));
        Self {
            path: directory.join(format!("{start}-{length}")),
            directory,
            what: format!("{blob} {start} {length}"),
            length: usize::try_from(length).unwrap_or(usize::MAX),
        }
    }

    /// Bytes that the file takes.
    pub(super) fn size(&self) -> u64 {
        (self.length as u64).saturating_add(CRC as u64)
    }

    pub(super) fn exists(&self) -> bool {
        self.path.exists()
    }

    fn checksum(&self, bytes: &[u8]) -> [u8; CRC] {
        let mut crc = Crc::new(CrcAlgorithm::Crc64Nvme);
        crc.update(self.what.as_bytes());
        crc.update(bytes);
        crc.finalize().to_le_bytes()
    }

    /// The bytes, if they are what was written. What is not is removed.
    pub(super) fn load(&self) -> Option<Bytes> {
        match self.read() {
            Ok(Some(bytes)) => Some(bytes),
            Ok(None) => {
                tracing::warn!(file = %self.path.display(), "a damaged piece of the cache is dropped");
                self.remove();
                None
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::debug!(file = %self.path.display(), %error, "a piece of the cache cannot be read");
                }
                None
            }
        }
    }

    fn read(&self) -> io::Result<Option<Bytes>> {
        let file = File::open(&self.path)?;
        let found = file.metadata()?;
        if found.len() != self.size() {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(self.length + CRC);
        (&file).take(self.size()).read_to_end(&mut bytes)?;
        let Some((data, crc)) = bytes.split_at_checked(self.length) else {
            return Ok(None);
        };
        if crc != self.checksum(data) {
            return Ok(None);
        }
        let age = found.modified().ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > TOUCH_AFTER) {
            // It is only a little sooner gone otherwise.
            let _ = file.set_modified(SystemTime::now());
        }
        Ok(Some(Bytes::from(bytes).slice(..self.length)))
    }

    /// Writes the file, which appears when it is whole.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut file = match self.temporary() {
            // Whoever makes room removes directories that are empty.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut directory = DirBuilder::new();
                directory.recursive(true).mode(super::PRIVATE);
                directory.create(&self.directory)?;
                self.temporary()?
            }
            made => made?,
        };
        file.write_all(bytes)?;
        file.write_all(&self.checksum(bytes))?;
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }

    fn temporary(&self) -> io::Result<tempfile::NamedTempFile> {
        tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempfile_in(&self.directory)
    }

    pub(super) fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(file = %self.path.display(), %error, "a piece of the cache cannot be removed");
        }
    }
}

/// Removes all pieces in a blob's directory. What is being written stays: it is of later.
pub(super) fn remove_all(directory: &Path) {
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
    for file in files {
        let name = file.file_name();
        if name.to_str().is_none_or(|name| name.starts_with(TEMPORARY)) {
            continue;
        }
        if let Err(error) = std::fs::remove_file(file.path())
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(file = %file.path().display(), %error, "a piece of the cache cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let file_of = |blob: &str, range| PieceFile::new(directory.path().join(blob), blob, &range);
        let file = file_of("one", 512..1512);
        assert!(file.load().is_none() && !file.exists());
        let bytes: Vec<u8> = (0..1000_u32).map(|n| (n % 251) as u8).collect();
        file.write(&bytes).unwrap();
        assert_eq!(file.load().unwrap(), bytes);
        // In another blob's place, in another place of the same, cut, longer, changed.
        let whole = std::fs::read(&file.path).unwrap();
        for place in [file_of("other", 512..1512), file_of("one", 0..1000)] {
            std::fs::create_dir_all(&place.directory).unwrap();
            std::fs::write(&place.path, &whole).unwrap();
            assert!(place.load().is_none() && !place.exists());
        }
        for at in [0, 500, 999, 1000, 1007] {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&file.path, &damaged).unwrap();
            assert!(file.load().is_none() && !file.exists(), "byte {at}");
        }
        for bad in [&whole[..0], &whole[..1007], &[&whole[..], b"x"].concat()] {
            std::fs::write(&file.path, bad).unwrap();
            assert!(
                file.load().is_none() && !file.exists(),
                "{} bytes",
                bad.len()
            );
        }
        std::fs::write(&file.path, &whole).unwrap();
        assert_eq!(file.load().unwrap(), bytes);
    }
}
