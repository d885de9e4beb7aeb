//! Paths in an image: what they lead to, and symbolic links on the way.

use super::filesystem::ImageFilesystem;
use crate::format::ext4::{Error, FileType, Ino};

/// Most symbolic links that a path may lead through, as the kernel's `path_resolution(7)` has it.
pub const MAX_LINKS: usize = 40;
/// Longest path in bytes, and longest rest of one, as the kernel's.
const MAX_PATH: usize = 4096;

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The inode.
    pub ino: Ino,
    /// Its type.
    pub file_type: FileType,
    /// The absolute path without symbolic links, `.` and `..`: `/` for the root.
    pub path: Vec<u8>,
}

impl Place {
    /// The last name of the path; empty for the root.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        let at = self.path.iter().rposition(|byte| *byte == b'/');
        &self.path[at.map_or(0, |at| at + 1)..]
    }
}

/// Why a path leads nowhere. Paths are in the form that [`shown`] gives.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// A name is missing.
    #[error("{0} is not in the image")]
    NotFound(String),
    /// A name on the way is no directory.
    #[error("{0} is no directory in the image")]
    NotADirectory(String),
    /// Symbolic links lead in circles, or through too many.
    #[error("{0} leads through more than {MAX_LINKS} symbolic links")]
    TooManyLinks(String),
    /// Longer than paths may be.
    #[error("{0} is longer than the {MAX_PATH} bytes that a path may have")]
    TooLong(String),
    /// The filesystem.
    #[error("{path}: {source}")]
    Filesystem {
        /// Where.
        path: String,
        /// The cause.
        source: Error,
    },
}

/// A path for messages: quoted, and escaped where it is no plain text.
#[must_use]
pub fn shown(path: &[u8]) -> String {
    let begin = &path[..path.len().min(MAX_PATH)];
    match std::str::from_utf8(begin) {
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("\"{}\"", begin.escape_ascii()),
    }
}

/// Finds what `path` leads to from the image's root, which `..` does not leave. The last name is
/// followed if it is a symbolic link and `follow` says so, or the path ends in a slash.
///
/// # Errors
/// As [`PathError`] says.
pub fn resolve(
    filesystem: &ImageFilesystem,
    path: &[u8],
    follow: bool,
) -> Result<Place, PathError> {
    if path.len() >= MAX_PATH {
        return Err(PathError::TooLong(shown(path)));
    }
    let must_be_directory = path.ends_with(b"/") || path.ends_with(b"/.");
    let mut walk = Walk {
        filesystem,
        whole: path,
        above: Vec::new(),
        root: filesystem.root(),
        left: Vec::new(),
        links: 0,
    };
    walk.push(path)?;
    let mut file_type = FileType::Directory;
    while let Some(name) = walk.left.pop() {
        if file_type != FileType::Directory {
            return Err(PathError::NotADirectory(shown(&walk.here())));
        }
        let is_last = walk.left.is_empty();
        file_type = walk.step(name, follow || must_be_directory || !is_last)?;
    }
    if must_be_directory && file_type != FileType::Directory {
        return Err(PathError::NotADirectory(shown(path)));
    }
    Ok(Place {
        ino: walk.ino(),
        file_type,
        path: walk.here(),
    })
}

struct Walk<'a> {
    filesystem: &'a ImageFilesystem,
    whole: &'a [u8],
    root: Ino,
    /// From the root down to where we are.
    above: Vec<(Ino, Vec<u8>)>,
    /// Names that are still to go, the next one last.
    left: Vec<Vec<u8>>,
    links: usize,
}

impl Walk<'_> {
    fn ino(&self) -> Ino {
        self.above.last().map_or(self.root, |(ino, _)| *ino)
    }

    fn here(&self) -> Vec<u8> {
        let mut path = Vec::new();
        for (_, name) in &self.above {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        path
    }

    /// Has the names of a path before those that are left.
    fn push(&mut self, path: &[u8]) -> Result<(), PathError> {
        let names = path.split(|byte| *byte == b'/');
        let names = names.filter(|name| !name.is_empty() && *name != b".");
        self.left.extend(names.rev().map(<[u8]>::to_vec));
        let length: usize = self.left.iter().map(|name| name.len() + 1).sum();
        if length > MAX_PATH {
            return Err(PathError::TooLong(shown(self.whole)));
        }
        Ok(())
    }

    /// Goes one name down, or up; what is there.
    fn step(&mut self, name: Vec<u8>, follow: bool) -> Result<FileType, PathError> {
        if name == b".." {
            self.above.pop();
            return Ok(FileType::Directory);
        }
        let found = self.filesystem.lookup(self.ino(), &name);
        let found = found.map_err(|source| self.failed(source))?;
        let Some(ino) = found else {
            self.above.push((0, name));
            return Err(PathError::NotFound(shown(&self.here())));
        };
        let metadata = self.filesystem.metadata(ino);
        let file_type = metadata.map_err(|source| self.failed(source))?.file_type;
        if file_type != FileType::Symlink || !follow {
            self.above.push((ino, name));
            return Ok(file_type);
        }
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(PathError::TooManyLinks(shown(self.whole)));
        }
        let target = self.filesystem.read_link(ino);
        let target = target.map_err(|source| self.failed(source))?;
        if target.is_empty() {
            self.above.push((ino, name));
            return Err(PathError::NotFound(shown(&self.here())));
        }
        if target.starts_with(b"/") {
            self.above.clear();
        }
        self.push(&target)?;
        Ok(FileType::Directory)
    }

    fn failed(&self, source: Error) -> PathError {
        PathError::Filesystem {
            path: shown(&self.here()),
            source,
        }
    }
}
