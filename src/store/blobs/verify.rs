//! A blob's file is opened only after all of its bytes were seen to be the ones that its digest
//! names: once after a start, and again when the file was replaced or written to.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use super::damage::{Aside, Damage};
use super::file::BlobFile;
use super::shelf::Shelf;
use super::stamp::Stamp;
use crate::oci::{Digest, Hasher};
use crate::store::BlobError;

/// Bytes read at once: what a verification takes of memory.
pub(super) const CHUNK: usize = 1 << 20;
/// How often a file is looked up that is replaced whenever it was opened.
const ATTEMPTS: usize = 16;

/// What one look at a blob's place finds.
pub(super) enum Looked {
    Absent,
    /// A file that was verified.
    Sound(BlobFile),
    /// Something that was not.
    Unverified,
}

/// What is in a blob's place.
pub(super) enum Place {
    Empty,
    File(File, Metadata),
    /// What cannot be a blob.
    Unusable(Damage, Stamp),
}

/// What reading a file comes to.
pub(super) enum Finding {
    Sound,
    Damaged(Damage),
    /// It was not read to its end, or written to meanwhile.
    Unfinished,
}

/// Opens what is at `path`, if it is a file; nothing else can hold this up.
pub(super) fn open_place(path: &Path) -> Result<Place, BlobError> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let error = match opened {
        Ok(file) => {
            let metadata = file.metadata().map_err(BlobError::io("examining", path))?;
            if metadata.is_file() {
                return Ok(Place::File(file, metadata));
            }
            let damage = Damage::not_a_file(metadata.file_type());
            return Ok(Place::Unusable(damage, Stamp::of(&metadata)));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Place::Empty),
        Err(error) => error,
    };
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            let damage = Damage::not_a_file(metadata.file_type());
            Ok(Place::Unusable(damage, Stamp::of(&metadata)))
        }
        Ok(metadata) if is_of_the_file(&error) => {
            let damage = Damage::Unreadable(error.to_string());
            Ok(Place::Unusable(damage, Stamp::of(&metadata)))
        }
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(Place::Empty),
        Ok(_) | Err(_) => Err(BlobError::io("opening", path)(error)),
    }
}

/// Whether an error is about this file, and not about what this process may use.
fn is_of_the_file(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EACCES | libc::EPERM | libc::EIO | libc::EBADMSG | libc::EUCLEAN | libc::ENODATA
        )
    )
}

/// Hashes a file from its beginning; `None` when `go_on` ended it.
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

impl Shelf {
    /// Opens and pins what is in a blob's place.
    pub(super) fn pin(&self, digest: &Digest) -> Result<Place, BlobError> {
        let path = self.path(digest);
        for _ in 0..ATTEMPTS {
            let (file, opened) = match open_place(&path)? {
                Place::File(file, metadata) => (file, metadata),
                other => return Ok(other),
            };
            file.lock_shared()
                .map_err(BlobError::io("locking", &path))?;
            // It may have been evicted or replaced between the two.
            match fs::symlink_metadata(&path) {
                Ok(named) if Stamp::of(&named).is_same_file(&Stamp::of(&opened)) => {
                    return Ok(Place::File(file, named));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Place::Empty),
                Err(error) => return Err(BlobError::io("examining", &path)(error)),
            }
        }
        let cause = "it was replaced each time that it was opened";
        Err(BlobError::io("opening", &path)(io::Error::other(cause)))
    }

    /// Opens a blob if that needs no reading.
    pub(super) fn look(self: &Arc<Self>, digest: &Digest) -> Result<Looked, BlobError> {
        Ok(match self.pin(digest)? {
            Place::Empty => Looked::Absent,
            Place::File(file, metadata) => match self.known.sound(digest, &Stamp::of(&metadata)) {
                Some(flag) => {
                    Looked::Sound(BlobFile::new(self, digest.clone(), file, &metadata, flag))
                }
                None => Looked::Unverified,
            },
            Place::Unusable(..) => Looked::Unverified,
        })
    }

    /// Opens a blob, reading all of it first unless it is known to be sound. What is damaged goes
    /// away: then there is none.
    pub(super) fn open_verified(
        self: &Arc<Self>,
        digest: &Digest,
    ) -> Result<Option<BlobFile>, BlobError> {
        for _ in 0..ATTEMPTS {
            let (damage, stamp) = match self.pin(digest)? {
                Place::Empty => return Ok(None),
                Place::Unusable(damage, stamp) => (damage, stamp),
                Place::File(file, metadata) => {
                    let stamp = Stamp::of(&metadata);
                    let known = self.known.sound(digest, &stamp);
                    let finding = match known {
                        Some(_) => Finding::Sound,
                        None => self.read_through(digest, &file, &stamp, CHUNK, |_| true),
                    };
                    match finding {
                        Finding::Sound => {
                            let flag = known.unwrap_or_else(|| self.known.verified(digest, stamp));
                            let blob = BlobFile::new(self, digest.clone(), file, &metadata, flag);
                            return Ok(Some(blob));
                        }
                        Finding::Damaged(damage) => (damage, stamp),
                        Finding::Unfinished => continue,
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

    /// Reads a file to its end and compares it with its blob's digest. `go_on` is told of the
    /// bytes of each chunk, and may end it.
    pub(super) fn read_through(
        &self,
        digest: &Digest,
        file: &File,
        stamp: &Stamp,
        chunk: usize,
        go_on: impl FnMut(u64) -> bool,
    ) -> Finding {
        if let Some(expected) = self.known.size(digest)
            && expected != stamp.size
        {
            return Finding::Damaged(Damage::Size {
                expected,
                found: stamp.size,
            });
        }
        let found = match digest_of(file, digest, chunk, go_on) {
            Ok(Some(found)) => found,
            Ok(None) => return Finding::Unfinished,
            Err(error) => return Finding::Damaged(Damage::Unreadable(error.to_string())),
        };
        self.counters.verified(stamp.size);
        match file.metadata() {
            Ok(after) if !Stamp::of(&after).was_written_since(stamp) => {}
            Ok(_) => return Finding::Unfinished,
            Err(error) => return Finding::Damaged(Damage::Unreadable(error.to_string())),
        }
        if found == *digest {
            Finding::Sound
        } else {
            Finding::Damaged(Damage::Digest { found })
        }
    }

    /// Takes a damaged file away from its blob's place.
    pub(super) fn set_aside(
        &self,
        digest: &Digest,
        stamp: &Stamp,
        damage: &Damage,
    ) -> Result<Aside, BlobError> {
        self.hold()?.set_aside(digest, stamp, damage)
    }
}
