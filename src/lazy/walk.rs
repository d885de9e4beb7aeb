//! All that is below a directory of an image.

use std::collections::HashSet;

use super::filesystem::ImageFilesystem;
use super::path::{PathError, Place, shown};
use crate::format::ext4::{Error, FileType, Ino, NamedEntry};

/// Most directories within each other.
pub const MAX_DEPTH: usize = 512;

/// A step of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// Something that is no directory, or a directory before what is in it.
    Entry(&'a Place),
    /// A directory after what is in it.
    Leave(&'a Place),
}

/// Whether a directory is gone into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descend {
    /// It is.
    Into,
    /// It is passed by; there is no [`Step::Leave`] of it.
    Past,
}

struct Level {
    place: Place,
    /// In reverse order of names.
    entries: Vec<NamedEntry>,
}

/// Visits `start` and all that is below it, by name; symbolic links are not followed. Each name
/// is shown to be one that a directory can have: no `.`, `..`, slash or NUL.
///
/// # Errors
/// Those of `visit`, and when the filesystem cannot be read, is damaged, or is deeper than
/// [`MAX_DEPTH`].
pub fn walk<E: From<PathError>>(
    filesystem: &ImageFilesystem,
    start: &Place,
    mut visit: impl FnMut(Step<'_>) -> Result<Descend, E>,
) -> Result<(), E> {
    let mut seen = HashSet::new();
    let mut levels = Vec::new();
    if visit(Step::Entry(start))? == Descend::Into {
        levels.extend(enter(filesystem, start.clone(), &mut seen, 0)?);
    }
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.entries.pop() else {
            let done = levels.pop();
            if let Some(done) = done {
                visit(Step::Leave(&done.place))?;
            }
            continue;
        };
        let place = below(&level.place.path, &entry);
        if visit(Step::Entry(&place))? == Descend::Into {
            let depth = levels.len();
            levels.extend(enter(filesystem, place, &mut seen, depth)?);
        }
    }
    Ok(())
}

/// What is in a directory, by name.
///
/// # Errors
/// When it is none, cannot be read, or has a name that none can have.
pub fn sorted_entries(
    filesystem: &ImageFilesystem,
    directory: &Place,
) -> Result<Vec<NamedEntry>, PathError> {
    let failed = |source| PathError::Filesystem {
        path: shown(&directory.path),
        source,
    };
    let mut entries = filesystem.entries(directory.ino).map_err(failed)?;
    for entry in &entries {
        let name = entry.name.as_slice();
        if matches!(name, b"" | b"." | b"..") || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            let text = format!("{} is no name", shown(name));
            return Err(failed(Error::Corrupt(text)));
        }
    }
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// An entry of the directory at `parent`.
#[must_use]
pub fn below(parent: &[u8], entry: &NamedEntry) -> Place {
    let mut path = Vec::with_capacity(parent.len() + 1 + entry.name.len());
    if parent != b"/" {
        path.extend_from_slice(parent);
    }
    path.push(b'/');
    path.extend_from_slice(&entry.name);
    Place {
        ino: entry.ino,
        file_type: entry.file_type,
        path,
    }
}

fn enter(
    filesystem: &ImageFilesystem,
    place: Place,
    seen: &mut HashSet<Ino>,
    depth: usize,
) -> Result<Option<Level>, PathError> {
    if place.file_type != FileType::Directory {
        return Ok(None);
    }
    let damaged = |text: String| PathError::Filesystem {
        path: shown(&place.path),
        source: Error::Corrupt(text),
    };
    if !seen.insert(place.ino) {
        let text = format!("directory {} is in two places", place.ino);
        return Err(damaged(text));
    }
    if depth >= MAX_DEPTH {
        let text = format!("more than {MAX_DEPTH} directories are within each other");
        return Err(damaged(text));
    }
    let mut entries = sorted_entries(filesystem, &place)?;
    entries.reverse();
    Ok(Some(Level { place, entries }))
}
