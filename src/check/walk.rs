//! A root filesystem from a directory, such as a kernel's mount of it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::sys::stat::{major, minor};

use super::tree::{Attributes, Content, Hasher, Kind, NodeId, ROOT, Time, Tree, Xattrs};

/// Paths longer than this begin at a directory on the way, because the system takes only
/// 4096 bytes at once.
const LONG: usize = 3000;

/// Why a directory cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {cause}")]
pub struct WalkError {
    path: String,
    #[source]
    cause: io::Error,
}

/// A directory that is still to be read.
struct Ahead {
    path: PathBuf,
    /// What the path begins at, if it is not the directory that was asked for.
    base: Option<Rc<File>>,
    id: NodeId,
}

impl Tree {
    /// The root filesystem that is in a directory. Everything in it must be readable, so
    /// this takes the rights of root.
    ///
    /// # Errors
    /// When something in it cannot be read.
    pub fn from_directory(root: &Path) -> Result<Self, WalkError> {
        let at = |path: &Path, cause| WalkError {
            path: path.display().to_string(),
            cause,
        };
        let metadata = fs::metadata(root).map_err(|cause| at(root, cause))?;
        let mut tree = Self::new(attributes(root, &metadata).map_err(|cause| at(root, cause))?);
        let mut linked: HashMap<(u64, u64), NodeId> = HashMap::new();
        let mut ahead = vec![Ahead {
            path: root.to_owned(),
            base: None,
            id: ROOT,
        }];
        while let Some(directory) = ahead.pop() {
            let directory = shortened(directory).map_err(|(path, cause)| at(&path, cause))?;
            let failed = |cause| at(&directory.path, cause);
            for entry in fs::read_dir(&directory.path).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let path = entry.path();
                let failed = |cause| at(&path, cause);
                let metadata = fs::symlink_metadata(&path).map_err(failed)?;
                let inode = (metadata.dev(), metadata.ino());
                let known = linked.get(&inode).filter(|_| metadata.nlink() > 1).copied();
                let id = if let Some(id) = known {
                    id
                } else {
                    let kind = kind(&path, &metadata).map_err(failed)?;
                    let attributes = attributes(&path, &metadata).map_err(failed)?;
                    tree.add(kind, attributes)
                };
                tree.link(directory.id, entry.file_name().as_bytes(), id);
                if metadata.is_dir() {
                    let base = directory.base.clone();
                    ahead.push(Ahead { path, base, id });
                } else {
                    linked.insert(inode, id);
                }
            }
        }
        Ok(tree)
    }
}

fn shortened(directory: Ahead) -> Result<Ahead, (PathBuf, io::Error)> {
    if directory.path.as_os_str().len() <= LONG {
        return Ok(directory);
    }
    match File::open(&directory.path) {
        Ok(file) => Ok(Ahead {
            path: format!("/proc/self/fd/{}/.", std::os::fd::AsRawFd::as_raw_fd(&file)).into(),
            base: Some(Rc::new(file)),
            id: directory.id,
        }),
        Err(cause) => Err((directory.path, cause)),
    }
}

fn kind(path: &Path, metadata: &Metadata) -> io::Result<Kind> {
    let file_type = metadata.file_type();
    let number = |value: u64| u32::try_from(value).map_err(io::Error::other);
    let device = metadata.rdev();
    Ok(if file_type.is_dir() {
        Kind::Directory(BTreeMap::new())
    } else if file_type.is_file() {
        Kind::File(content(&File::open(path)?)?)
    } else if file_type.is_symlink() {
        Kind::Symlink(fs::read_link(path)?.into_os_string().into_vec().into())
    } else if file_type.is_char_device() {
        Kind::CharDevice {
            major: number(major(device))?,
            minor: number(minor(device))?,
        }
    } else if file_type.is_block_device() {
        Kind::BlockDevice {
            major: number(major(device))?,
            minor: number(minor(device))?,
        }
    } else if file_type.is_fifo() {
        Kind::Fifo
    } else {
        Kind::Socket
    })
}

/// Reads a file where it has data.
fn content(file: &File) -> io::Result<Content> {
    let size = file.metadata()?.len();
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 256 << 10];
    while hasher.size() < size {
        hasher.zeros_to(next_data(file, hasher.size())?.unwrap_or(size));
        // A hole within what is read is read as zeros.
        let left = usize::try_from(size.saturating_sub(hasher.size())).unwrap_or(usize::MAX);
        let count = left.min(buffer.len());
        let part = buffer.get_mut(..count).unwrap_or_default();
        file.read_exact_at(part, hasher.size())?;
        hasher.data(part);
    }
    Ok(hasher.finish())
}

/// Where the next data begins, which may be here; `None` if only a hole follows.
fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    let from = i64::try_from(at).map_err(io::Error::other)?;
    match nix::unistd::lseek(file, from, nix::unistd::Whence::SeekData) {
        Ok(place) => u64::try_from(place).map(Some).map_err(io::Error::other),
        Err(nix::errno::Errno::ENXIO) => Ok(None),
        // Not every filesystem knows its holes.
        Err(nix::errno::Errno::EINVAL | nix::errno::Errno::EOPNOTSUPP) => Ok(Some(at)),
        Err(error) => Err(error.into()),
    }
}

fn attributes(path: &Path, metadata: &Metadata) -> io::Result<Attributes> {
    Ok(Attributes {
        mode: u16::try_from(metadata.mode() & 0o7777).unwrap_or(0),
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: Time {
            secs: metadata.mtime(),
            nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
        },
        xattrs: xattrs(path)?,
    })
}

fn xattrs(path: &Path) -> io::Result<Xattrs> {
    let names = match xattr::list(path) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let mut xattrs = BTreeMap::new();
    for name in names {
        if let Some(value) = xattr::get(path, &name)? {
            xattrs.insert(name.as_bytes().into(), value.into());
        }
    }
    Ok(xattrs)
}
