//! Verifies a blob's file before it is opened: all of its bytes against its digest, once after the
//! start of the process, and again when the file was replaced or written to.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::damage::{Aside, Damage};
use super::directory::BlobDirectory;
use super::entry::{PathEntry, open_entry};
use super::file::BlobFile;
use super::stamp::Stamp;
use crate::oci::{Digest, Hasher};
use crate::store::error::BlobError;

/// Bytes that are read at a time: the memory of one verification.
pub(super) const VERIFY_CHUNK_BYTES: usize = 1 << 20;
/// How often a file is opened that is replaced each time.
const MAX_OPEN_ATTEMPTS: usize = 16;

/// What a lookup of a blob finds, without reading it.
pub(super) enum Lookup {
    Absent,
    /// A file that was verified.
    Sound(BlobFile),
    /// Something that was not verified.
    Unverified,
}

/// The outcome of reading a file.
pub(super) enum ReadOutcome {
    Sound,
    Damaged(Damage),
    /// It was not read to its end, or was written to meanwhile.
    Unfinished,
}

/// Hashes a file from its beginning; `None` if `go_on` stopped it.
fn digest_of(
    file: &File,
    kind: &Digest,
    chunk: usize,
    mut go_on: impl FnMut(u64) -> bool,
) -> io::Result<Option<Digest>> {
    let mut buffer = vec![0; chunk];
    let mut hasher = Hasher::like(kind);
    let mut offset = 0;
    loop {
        let read = match file.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(Some(hasher.finish())),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..read]);
        let read = u64::try_from(read).unwrap_or_default();
        offset += read;
        if !go_on(read) {
            return Ok(None);
        }
    }
}

impl BlobDirectory {
    /// Opens what is at a blob's path; a file is locked against eviction.
    pub(super) fn open_locked(&self, digest: &Digest) -> Result<PathEntry, BlobError> {
        let path = self.path(digest);
        for _ in 0..MAX_OPEN_ATTEMPTS {
            let (file, opened) = match open_entry(&path)? {
                PathEntry::File(file, metadata) => (file, metadata),
                other => return Ok(other),
            };
            file.lock_shared()
                .map_err(BlobError::io("locking", &path))?;
            // It may have been evicted or replaced between the two.
            match fs::symlink_metadata(&path) {
                Ok(named) if Stamp::of(&named).is_same_file(&Stamp::of(&opened)) => {
                    return Ok(PathEntry::File(file, named));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(PathEntry::Missing);
                }
                Err(error) => return Err(BlobError::io("examining", &path)(error)),
            }
        }
        let cause = "it was replaced each time that it was opened";
        Err(BlobError::io("opening", &path)(io::Error::other(cause)))
    }

    /// Opens a blob if its file was verified before.
    pub(super) fn lookup(self: &Arc<Self>, digest: &Digest) -> Result<Lookup, BlobError> {
        Ok(match self.open_locked(digest)? {
            PathEntry::Missing => Lookup::Absent,
            PathEntry::File(file, metadata) => {
                match self.verified.flag(digest, &Stamp::of(&metadata)) {
                    Some(flag) => {
                        Lookup::Sound(BlobFile::new(self, digest.clone(), file, &metadata, flag))
                    }
                    None => Lookup::Unverified,
                }
            }
            PathEntry::Unusable(..) => Lookup::Unverified,
        })
    }

    /// Opens a blob, verifying all of it first unless that was done before. A damaged file is set
    /// aside: then there is none.
    pub(super) fn open_verified(
        self: &Arc<Self>,
        digest: &Digest,
    ) -> Result<Option<BlobFile>, BlobError> {
        for _ in 0..MAX_OPEN_ATTEMPTS {
            let (damage, stamp) = match self.open_locked(digest)? {
                PathEntry::Missing => return Ok(None),
                PathEntry::Unusable(damage, stamp) => (damage, stamp),
                PathEntry::File(file, metadata) => {
                    let stamp = Stamp::of(&metadata);
                    let known = self.verified.flag(digest, &stamp);
                    let finding = match known {
                        Some(_) => ReadOutcome::Sound,
                        None => {
                            self.read_through(digest, &file, &stamp, VERIFY_CHUNK_BYTES, |_| true)
                        }
                    };
                    match finding {
                        ReadOutcome::Sound => {
                            let flag = known.unwrap_or_else(|| self.verified.record(digest, stamp));
                            let blob = BlobFile::new(self, digest.clone(), file, &metadata, flag);
                            return Ok(Some(blob));
                        }
                        ReadOutcome::Damaged(damage) => (damage, stamp),
                        ReadOutcome::Unfinished => continue,
                    }
                }
            };
            if self.set_aside(digest, &stamp, &damage)? != Aside::Gone {
                return Ok(None);
            }
        }
        let cause = "it changes all the time";
        Err(BlobError::io("verifying", &self.path(digest))(
            io::Error::other(cause),
        ))
    }

    /// Reads a file to its end and compares it with its blob's digest. `go_on` is called with the
    /// number of bytes of each chunk, and may stop it.
    pub(super) fn read_through(
        &self,
        digest: &Digest,
        file: &File,
        stamp: &Stamp,
        chunk: usize,
        go_on: impl FnMut(u64) -> bool,
    ) -> ReadOutcome {
        if let Some(expected) = self.verified.size(digest)
            && expected != stamp.size
        {
            return ReadOutcome::Damaged(Damage::Size {
                expected,
                found: stamp.size,
            });
        }
        let found = match digest_of(file, digest, chunk, go_on) {
            Ok(Some(found)) => found,
            Ok(None) => return ReadOutcome::Unfinished,
            Err(error) => return ReadOutcome::Damaged(Damage::Unreadable(error.to_string())),
        };
        self.counters.verified(stamp.size);
        match file.metadata() {
            Ok(after) if !Stamp::of(&after).was_written_since(stamp) => {}
            Ok(_) => return ReadOutcome::Unfinished,
            Err(error) => return ReadOutcome::Damaged(Damage::Unreadable(error.to_string())),
        }
        if found == *digest {
            ReadOutcome::Sound
        } else {
            ReadOutcome::Damaged(Damage::Digest { found })
        }
    }

    /// Moves a damaged file away from its blob's path.
    pub(super) fn set_aside(
        &self,
        digest: &Digest,
        stamp: &Stamp,
        damage: &Damage,
    ) -> Result<Aside, BlobError> {
        self.lock()?.set_aside(digest, stamp, damage)
    }
}
