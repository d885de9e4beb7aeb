//! A finished file's way to its place.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use super::create_directory;
use super::damage::Damage;
use super::directory::sync_directory;
use super::file::BlobFile;
use super::held::Held;
use super::shelf::Shelf;
use super::stamp::Stamp;
use super::temp::TempBlob;
use super::verify::{Place, open_place};
use crate::oci::Digest;
use crate::store::BlobError;

impl Shelf {
    /// Renames a synced file into its place, with a pin on it.
    pub(super) fn place(
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
        let mut held = self.hold()?;
        let replaced = held.make_way(digest, size)?;
        held.make_room(size.saturating_sub(replaced))?;
        // Its use begins now, however long ago its last byte was written.
        let _ = temp.file().set_modified(SystemTime::now());
        let ours = temp.file().metadata();
        let ours = Stamp::of(&ours.map_err(BlobError::io("examining", temp.path()))?);
        fs::rename(temp.path(), &path).map_err(BlobError::io("placing", &path))?;
        temp.placed();
        sync_directory(directory)?;
        let Place::File(file, metadata) = self.pin(digest)? else {
            return Err(BlobError::io("opening", &path)(
                io::ErrorKind::NotFound.into(),
            ));
        };
        let stamp = Stamp::of(&metadata);
        if !stamp.is_same_file(&ours) || stamp.size != size {
            let cause = "something else was put there at the same moment";
            return Err(BlobError::io("opening", &path)(io::Error::other(cause)));
        }
        let flag = self.known.verified(digest, stamp);
        Ok(BlobFile::new(self, digest.clone(), file, &metadata, flag))
    }
}

impl Held<'_> {
    /// Moves what cannot be the blob out of its place; gives the bytes of what stays there.
    fn make_way(&mut self, digest: &Digest, size: u64) -> Result<u64, BlobError> {
        let (damage, stamp) = match open_place(&self.shelf.path(digest))? {
            Place::Empty => return Ok(0),
            Place::File(_, metadata) if metadata.len() == size => return Ok(size),
            Place::File(_, metadata) => {
                let found = metadata.len();
                let expected = size;
                (Damage::Size { expected, found }, Stamp::of(&metadata))
            }
            Place::Unusable(damage, stamp) => (damage, stamp),
        };
        self.set_aside(digest, &stamp, &damage)?;
        Ok(0)
    }
}
