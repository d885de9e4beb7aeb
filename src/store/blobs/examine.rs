//! Looking through all blobs without using them: no pin, no last use.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::damage::{Aside, Damage};
use super::shelf::Shelf;
use super::stamp::Stamp;
use super::verify::{Finding, Place, open_place};
use crate::oci::Digest;
use crate::store::BlobError;

/// What is in a blob's place, whatever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobEntry {
    /// The digest that its name says.
    pub digest: Digest,
    /// Bytes of the file; 0 for what is no file.
    pub size: u64,
    /// The last use that is written down.
    pub(super) last_use: Option<SystemTime>,
}

/// What an examination came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Examined {
    /// The file has the bytes that its digest names.
    Sound,
    /// It has not, or cannot be read; where it went, if it was to go.
    Damaged {
        /// What is wrong with it.
        damage: Damage,
        /// Where it went.
        aside: Option<Aside>,
    },
    /// It was evicted or replaced meanwhile.
    Gone,
    /// It was given up before its end.
    Stopped,
}

impl Shelf {
    /// Everything that has a digest for its name.
    pub(super) fn entries(&self) -> Result<Vec<BlobEntry>, BlobError> {
        let mut entries = Vec::new();
        for algorithm in ["sha256", "sha512"] {
            for shard in children(&self.blobs.join(algorithm))? {
                if !shard.is_dir() {
                    continue;
                }
                for path in children(&shard)? {
                    let name = path.file_name().and_then(|name| name.to_str());
                    let digest = name.and_then(|hex| format!("{algorithm}:{hex}").parse().ok());
                    let Some(digest) = digest else {
                        continue;
                    };
                    // Where blobs are not looked for nothing is served from.
                    if self.path(&digest) != path {
                        continue;
                    }
                    let Ok(metadata) = fs::symlink_metadata(&path) else {
                        continue;
                    };
                    entries.push(BlobEntry {
                        digest,
                        size: if metadata.is_file() {
                            metadata.len()
                        } else {
                            0
                        },
                        last_use: metadata.modified().ok(),
                    });
                }
            }
        }
        entries.sort_by(|a, b| a.digest.cmp(&b.digest));
        Ok(entries)
    }

    /// Reads a blob's file and compares it with the digest; a damaged one is taken away if
    /// `is_moving`. `go_on` is told of the bytes of each chunk, and may end it.
    pub(super) fn examine(
        &self,
        digest: &Digest,
        is_moving: bool,
        chunk: usize,
        mut go_on: impl FnMut(u64) -> bool,
    ) -> Result<Examined, BlobError> {
        let path = self.path(digest);
        let (damage, stamp) = match open_place(&path)? {
            Place::Empty => return Ok(Examined::Gone),
            Place::Unusable(damage, stamp) => (damage, stamp),
            Place::File(file, metadata) => {
                // No lock is held on it: an eviction is not held up, and seen below.
                let stamp = Stamp::of(&metadata);
                // What is read once must not push out of memory what is read often.
                let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::NoReuse);
                let (mut is_stopped, mut is_gone) = (false, false);
                let finding = self.read_through(digest, &file, &stamp, chunk, |bytes| {
                    is_stopped = !go_on(bytes);
                    is_gone = file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
                    !is_stopped && !is_gone
                });
                match finding {
                    _ if is_gone => return Ok(Examined::Gone),
                    Finding::Sound if !is_in_place(&path, &stamp) => return Ok(Examined::Gone),
                    Finding::Sound => {
                        self.known.verified(digest, stamp);
                        return Ok(Examined::Sound);
                    }
                    Finding::Damaged(damage) => (damage, stamp),
                    Finding::Unfinished if is_stopped => return Ok(Examined::Stopped),
                    Finding::Unfinished => return Ok(Examined::Gone),
                }
            }
        };
        let aside = if is_moving {
            let aside = self.set_aside(digest, &stamp, &damage)?;
            if aside == Aside::Gone {
                return Ok(Examined::Gone);
            }
            Some(aside)
        } else {
            None
        };
        Ok(Examined::Damaged { damage, aside })
    }
}

fn is_in_place(path: &Path, stamp: &Stamp) -> bool {
    fs::symlink_metadata(path).is_ok_and(|named| Stamp::of(&named).is_same_file(stamp))
}

/// What is in a directory.
fn children(directory: &Path) -> Result<Vec<PathBuf>, BlobError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(BlobError::io("listing", directory)(error)),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    paths
        .collect::<Result<_, _>>()
        .map_err(BlobError::io("listing", directory))
}
