//! Lists and verifies all blobs without using them: no pin, no last use.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::damage::{Aside, Damage};
use super::directory::BlobDirectory;
use super::entry::{PathEntry, open_entry};
use super::stamp::Stamp;
use super::verify::ReadOutcome;
use crate::oci::Digest;
use crate::store::error::BlobError;

/// What is at the path of a blob, whatever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobEntry {
    /// The digest that its name says.
    pub digest: Digest,
    /// Bytes of the file; 0 for what is no file.
    pub size: u64,
    /// The last use that is recorded on the file.
    pub(super) last_use: Option<SystemTime>,
}

/// The outcome of an examination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Examined {
    /// The file has the bytes that its digest names.
    Sound,
    /// It has other bytes, or cannot be read.
    Damaged {
        /// What is wrong with it.
        damage: Damage,
        /// Where it was moved, if it was to be moved.
        aside: Option<Aside>,
    },
    /// It was evicted or replaced meanwhile.
    Gone,
    /// It was stopped before its end.
    Stopped,
}

impl BlobDirectory {
    /// Everything with a digest as its name.
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
                    // Not the path of the blob.
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

    /// Reads a blob's file and compares it with the digest; a damaged one is set aside if
    /// `is_moving`. `go_on` is called with the number of bytes of each chunk, and may stop it.
    pub(super) fn examine(
        &self,
        digest: &Digest,
        is_moving: bool,
        chunk: usize,
        mut go_on: impl FnMut(u64) -> bool,
    ) -> Result<Examined, BlobError> {
        let path = self.path(digest);
        let (damage, stamp) = match open_entry(&path)? {
            PathEntry::Missing => return Ok(Examined::Gone),
            PathEntry::Unusable(damage, stamp) => (damage, stamp),
            PathEntry::File(file, metadata) => {
                // It is not locked: an eviction is not delayed, and detected below.
                let stamp = Stamp::of(&metadata);
                // What is read once must not replace in the page cache what is read often.
                let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::NoReuse);
                let (mut is_stopped, mut is_gone) = (false, false);
                let finding = self.read_through(digest, &file, &stamp, chunk, |bytes| {
                    is_stopped = !go_on(bytes);
                    is_gone = file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
                    !is_stopped && !is_gone
                });
                match finding {
                    _ if is_gone => return Ok(Examined::Gone),
                    ReadOutcome::Sound if !is_same_file(&path, &stamp) => {
                        return Ok(Examined::Gone);
                    }
                    ReadOutcome::Sound => {
                        self.verified.record(digest, stamp);
                        return Ok(Examined::Sound);
                    }
                    ReadOutcome::Damaged(damage) => (damage, stamp),
                    ReadOutcome::Unfinished if is_stopped => return Ok(Examined::Stopped),
                    ReadOutcome::Unfinished => return Ok(Examined::Gone),
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

fn is_same_file(path: &Path, stamp: &Stamp) -> bool {
    fs::symlink_metadata(path).is_ok_and(|named| Stamp::of(&named).is_same_file(stamp))
}

/// The paths of the entries of a directory.
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
