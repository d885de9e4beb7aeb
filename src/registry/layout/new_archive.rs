//! An OCI archive in the making. Everything here blocks.
//!
//! Blobs come in any order and several at once, and the archive's bytes must depend on
//! neither; so they are gathered in a layout beside the archive and packed at the end.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::directory::{Directory, INDEX, MARK};
use super::temp::{self, TemporaryDirectory};
use crate::registry::Error;

/// An archive in the making; its file appears when it is finished.
#[derive(Debug)]
pub(super) struct NewArchive {
    path: PathBuf,
    layout: Directory,
    _gathered: TemporaryDirectory,
}

impl NewArchive {
    /// An archive that will replace what is at `path`.
    pub(super) fn create(path: &Path) -> Result<Self, Error> {
        let failed = |cause: io::Error| Error::io(path, &cause);
        let name = path.file_name().ok_or_else(|| {
            Error::Configuration(format!("{} names no file for an archive", path.display()))
        })?;
        let parent = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let parent = parent.canonicalize().map_err(failed)?;
        let path = parent.join(name);
        if path.is_dir() {
            return Err(Error::Configuration(format!(
                "{} is a directory, and an archive is a file: oci:DIR names a layout directory",
                path.display()
            )));
        }
        temp::remove_leftovers(&parent);
        let gathered = TemporaryDirectory::create(&parent, temp::ARCHIVE_PREFIX)?;
        Ok(Self {
            path,
            layout: Directory::create(gathered.path())?,
            _gathered: gathered,
        })
    }

    /// Where it will be, as an absolute path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What was written so far.
    pub(super) fn layout(&self) -> &Directory {
        &self.layout
    }

    /// Packs the archive and renames it to its name.
    pub(super) fn finish(&self) -> Result<(), Error> {
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        let temp = temp::create(parent)?;
        self.pack(temp.as_file())
            .map_err(|cause| Error::io(&self.path, &cause))?;
        temp::place(temp, &self.path)
    }

    fn pack(&self, file: &File) -> io::Result<()> {
        let root = self.layout.root();
        let mut tar = Builder::new(BufWriter::with_capacity(1 << 20, file));
        for name in [MARK, INDEX] {
            append_file(&mut tar, root, Path::new(name))?;
        }
        append_directory(&mut tar, Path::new("blobs"))?;
        for algorithm in names(&root.join("blobs"))? {
            let directory = Path::new("blobs").join(&algorithm);
            append_directory(&mut tar, &directory)?;
            for name in names(&root.join(&directory))? {
                append_file(&mut tar, root, &directory.join(name))?;
            }
        }
        tar.into_inner()?.flush()
    }
}

/// The names in a directory, in order, without files in the making.
fn names(directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if !is_ours(&name) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn append_directory(tar: &mut Builder<impl Write>, path: &Path) -> io::Result<()> {
    let mut header = header(EntryType::Directory, 0o755, 0);
    tar.append_data(&mut header, path.join(""), io::empty())
}

fn append_file(tar: &mut Builder<impl Write>, root: &Path, path: &Path) -> io::Result<()> {
    let file = File::open(root.join(path))?;
    let size = file.metadata()?.len();
    let mut header = header(EntryType::Regular, 0o644, size);
    tar.append_data(&mut header, path, file.take(size))
}

fn is_ours(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with(temp::PREFIX)
}
