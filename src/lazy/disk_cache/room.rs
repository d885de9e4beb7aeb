//! How many bytes of pieces there are, counted in a file by all processes together, and which
//! pieces go when there are too many.

use std::fs::{DirEntry, File};
use std::io::{self, Read, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::piece_file::TEMPORARY;

/// The file with the number of bytes; locked by whoever counts or makes room.
const COUNT: &str = "bytes";
/// How old a file is that a process left half-written.
const LEFT_AFTER: Duration = Duration::from_hours(1);

/// The bytes of a cache directory.
#[derive(Debug)]
pub(super) struct Room {
    directory: PathBuf,
    limit: u64,
}

/// A piece that is there.
struct Piece {
    used: SystemTime,
    /// Which of the blobs' directories it is in.
    blob: usize,
    size: u64,
    start: u64,
    length: u64,
}

impl Room {
    pub(super) fn new(directory: PathBuf, limit: u64) -> Self {
        Self { directory, limit }
    }

    /// Waits until no other process writes a piece or makes room.
    pub(super) fn lock(&self) -> io::Result<LockedRoom<'_>> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.directory.join(COUNT))?;
        file.lock()?;
        Ok(LockedRoom { room: self, file })
    }

    /// Counts the bytes that are there, and if they are more than `most`, drops pieces until they
    /// are no more than `wanted`; how many bytes are left.
    fn drop_oldest(&self, most: u64, wanted: u64) -> io::Result<u64> {
        let (blobs, mut pieces) = self.pieces()?;
        let mut left: u64 = pieces.iter().map(|piece| piece.size).sum();
        if left <= most {
            return Ok(left);
        }
        pieces.sort_unstable_by_key(|piece| piece.used);
        let before = left;
        for piece in pieces {
            if left <= wanted {
                break;
            }
            if let Some(blob) = blobs.get(piece.blob) {
                let name = format!("{}-{}", piece.start, piece.length);
                match std::fs::remove_file(blob.join(name)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => left -= piece.size,
                }
            }
        }
        tracing::debug!(before, left, "pieces of the cache were dropped");
        for blob in blobs {
            // Those that are not empty stay.
            let _ = std::fs::remove_dir(blob);
        }
        Ok(left)
    }

    /// The directories of the blobs, and the pieces in them.
    fn pieces(&self) -> io::Result<(Vec<PathBuf>, Vec<Piece>)> {
        let (mut blobs, mut pieces) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                continue;
            }
            let number = blobs.len();
            // Another process may have removed it meanwhile.
            for file in std::fs::read_dir(entry.path())
                .into_iter()
                .flatten()
                .flatten()
            {
                pieces.extend(piece(&file, number));
            }
            blobs.push(entry.path());
        }
        Ok((blobs, pieces))
    }
}

/// The bytes of a cache directory, while no other process writes any: a piece that is not there
/// yet would not be counted.
#[derive(Debug)]
pub(super) struct LockedRoom<'a> {
    room: &'a Room,
    file: File,
}

impl LockedRoom<'_> {
    /// Makes room for `size` more bytes; `false` if there is not as much for all pieces together.
    ///
    /// The bytes count before they are written, so that a process that ends in between leaves a
    /// number that is too large, which is found out sooner, and never one that is too small.
    pub(super) fn reserve(&mut self, size: u64) -> io::Result<bool> {
        let limit = self.room.limit;
        if size > limit {
            return Ok(false);
        }
        let file = &mut self.file;
        file.rewind()?;
        let mut text = String::new();
        // Twenty digits and no more.
        Read::by_ref(file).take(32).read_to_string(&mut text)?;
        let counted = text.trim().parse::<u64>().ok();
        let room = limit - size;
        let counted = match counted.filter(|counted| *counted <= room) {
            Some(counted) => counted,
            // A tenth more than is needed now, so that not each piece makes room.
            None => self.room.drop_oldest(room, room - room.min(limit / 10))?,
        };
        self.file.rewind()?;
        write!(self.file, "{:020}", counted.saturating_add(size))?;
        Ok(true)
    }
}

/// The piece that a file is; one that was left half-written is removed.
fn piece(file: &DirEntry, blob: usize) -> Option<Piece> {
    let found = file.metadata().ok()?;
    let used = found.modified().ok()?;
    let name = file.file_name();
    let name = name.to_str()?;
    if name.starts_with(TEMPORARY) {
        if used.elapsed().is_ok_and(|age| age > LEFT_AFTER) {
            remove(&file.path());
        }
        return None;
    }
    let (start, length) = name.split_once('-')?;
    Some(Piece {
        used,
        blob,
        size: found.len(),
        start: start.parse().ok()?,
        length: length.parse().ok()?,
    })
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(file = %path.display(), %error, "it cannot be removed");
    }
}
