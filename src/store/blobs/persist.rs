//! Moves finished files to their blobs' paths.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use super::damage::Damage;
use super::directory::BlobDirectory;
use super::durable::ChangedDirectories;
use super::entry::{PathEntry, open_entry};
use super::file::BlobFile;
use super::filesystem::{create_child, sync_directory, sync_together};
use super::locked::LockedDirectory;
use super::stamp::Stamp;
use super::temp::TempBlob;
use crate::oci::Digest;
use crate::store::error::BlobError;

/// A file that was written, and the blob that it is.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) temp: TempBlob,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

impl BlobDirectory {
    /// Makes finished files durable, renames them to their blobs' paths, and opens them, in this
    /// order.
    pub(super) fn persist(
        self: &Arc<Self>,
        finished: Vec<Finished>,
    ) -> Result<Vec<BlobFile>, BlobError> {
        if finished.is_empty() {
            return Ok(Vec::new());
        }
        // Before the lock is held, which all others wait for.
        sync_together(&finished, |one| one.temp.sync())?;
        let mut changed = ChangedDirectories::default();
        for one in &finished {
            self.create_place(&one.digest, &mut changed)?;
        }
        let entries = changed.entries()?;
        let placed = {
            let mut locked = self.lock()?;
            locked.make_place(&finished)?;
            let placed = finished.into_iter().map(|one| locked.place(self, one));
            placed.collect::<Result<Vec<_>, _>>()?
        };
        // The files are open, so that none is evicted meanwhile.
        sync_together(&changed.all(), |directory| sync_directory(directory))?;
        self.durable.add(entries);
        Ok(placed)
    }

    /// Creates the directory of a blob, and adds it to those that have to be synced, with those
    /// above it unless they are known to have been.
    fn create_place(
        &self,
        digest: &Digest,
        changed: &mut ChangedDirectories,
    ) -> Result<(), BlobError> {
        let path = self.path(digest);
        let directory = path.parent();
        let Some((above, directory)) = directory.and_then(|of| Some((of.parent()?, of))) else {
            return Err(BlobError::io("placing", &path)(
                io::ErrorKind::NotFound.into(),
            ));
        };
        if create_child(above, directory)? {
            self.durable.remove(directory);
        }
        // It may be there because of a process that ended before it was on the disk.
        if !self.durable.has(directory) {
            changed.parents.insert(above.to_owned());
        }
        if !self.durable.has(above) {
            changed.parents.insert(self.blobs.clone());
            changed.parents.insert(self.data_dir.clone());
        }
        changed.places.insert(directory.to_owned());
        Ok(())
    }
}

impl LockedDirectory<'_> {
    /// Sets aside what is in the way of these files, and evicts what must go for them.
    fn make_place(&mut self, finished: &[Finished]) -> Result<(), BlobError> {
        let mut more: u64 = 0;
        for Finished { digest, size, .. } in finished {
            let replaced = self.clear_path(digest, *size)?;
            more = more.saturating_add(size.saturating_sub(replaced));
        }
        self.make_room(more).map(drop)
    }

    /// Renames a synced file to its blob's path, and opens it.
    fn place(
        &self,
        directory: &Arc<BlobDirectory>,
        finished: Finished,
    ) -> Result<BlobFile, BlobError> {
        let Finished {
            mut temp,
            digest,
            size,
        } = finished;
        let path = self.directory.path(&digest);
        // Its use begins now, however long ago its last byte was written.
        let _ = temp.file().set_modified(SystemTime::now());
        let ours = temp.file().metadata();
        let ours = Stamp::of(&ours.map_err(BlobError::io("examining", temp.path()))?);
        fs::rename(temp.path(), &path).map_err(BlobError::io("placing", &path))?;
        temp.set_persisted();
        let PathEntry::File(file, metadata) = directory.open_locked(&digest)? else {
            return Err(BlobError::io("opening", &path)(
                io::ErrorKind::NotFound.into(),
            ));
        };
        let stamp = Stamp::of(&metadata);
        if !stamp.is_same_file(&ours) || stamp.size != size {
            let cause = "something else was put there at the same moment";
            return Err(BlobError::io("opening", &path)(io::Error::other(cause)));
        }
        let flag = directory.verified.record(&digest, stamp);
        Ok(BlobFile::new(directory, digest, file, &metadata, flag))
    }

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
