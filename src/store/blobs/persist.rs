//! Moves a finished file to its blob's path.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use super::damage::Damage;
use super::directory::BlobDirectory;
use super::entry::{PathEntry, open_entry};
use super::file::BlobFile;
use super::filesystem::{create_directory, sync_directory};
use super::locked::LockedDirectory;
use super::stamp::Stamp;
use super::temp::TempBlob;
use crate::oci::Digest;
use crate::store::error::BlobError;

impl BlobDirectory {
    /// Renames a synced file to its blob's path, and opens it.
    pub(super) fn persist(
        self: &Arc<Self>,
        mut temp: TempBlob,
        digest: &Digest,
        size: u64,
    ) -> Result<BlobFile, BlobError> {
        let path = self.path(digest);
        let Some(directory) = path.parent() else {
            return Err(BlobError::io("placing", &path)(
                io::ErrorKind::NotFound.into(),
            ));
        };
        create_directory(directory)?;
        let mut locked = self.lock()?;
        let replaced = locked.clear_path(digest, size)?;
        locked.make_room(size.saturating_sub(replaced))?;
        // Its use begins now, however long ago its last byte was written.
        let _ = temp.file().set_modified(SystemTime::now());
        let ours = temp.file().metadata();
        let ours = Stamp::of(&ours.map_err(BlobError::io("examining", temp.path()))?);
        fs::rename(temp.path(), &path).map_err(BlobError::io("placing", &path))?;
        temp.set_persisted();
        sync_directory(directory)?;
        let PathEntry::File(file, metadata) = self.open_locked(digest)? else {
            return Err(BlobError::io("opening", &path)(
                io::ErrorKind::NotFound.into(),
            ));
        };
        let stamp = Stamp::of(&metadata);
        if !stamp.is_same_file(&ours) || stamp.size != size {
            let cause = "something else was put there at the same moment";
            return Err(BlobError::io("opening", &path)(io::Error::other(cause)));
        }
        let flag = self.verified.record(digest, stamp);
        Ok(BlobFile::new(self, digest.clone(), file, &metadata, flag))
    }
}

impl LockedDirectory<'_> {
    /// Sets aside what is at a blob's path and cannot be the blob; returns the bytes of a file that
    /// is replaced.
    fn clear_path(&mut self, digest: &Digest, size: u64) -> Result<u64, BlobError> {
        let (damage, stamp) = match open_entry(&self.directory.path(digest))? {
            PathEntry::Missing => return Ok(0),
            PathEntry::File(_, metadata) if metadata.len() == size => return Ok(size),
            PathEntry::File(_, metadata) => {
                let found = metadata.len();
                let expected = size;
                (Damage::Size { expected, found }, Stamp::of(&metadata))
            }
            PathEntry::Unusable(damage, stamp) => (damage, stamp),
        };
        self.set_aside(digest, &stamp, &damage)?;
        Ok(0)
    }
}
