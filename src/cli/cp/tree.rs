//! Copies of files and of all that is below a directory.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use anyhow::Context as _;
use rustix::fs::{AtFlags, FileType as Kind, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::attributes::Attributes;
use super::directory::{Directory, PlaceError};
use super::unkept::Unkept;
use crate::format::ext4::{FileType, Ino};
use crate::lazy::ImageFilesystem;
use crate::lazy::path::{Place, shown};
use crate::lazy::walk::{Descend, Step, walk};

/// Most bytes that are read at once.
const PART: u64 = 1 << 20;
/// Most bytes of paths that are kept for hard links.
const MAX_LINK_BYTES: usize = 128 << 20;

/// Copies into one directory.
pub struct Copier<'a> {
    filesystem: &'a ImageFilesystem,
    /// Where all copies are below.
    root: Directory,
    /// Files with further names in the image: their copies.
    links: HashMap<Ino, Copy>,
    link_bytes: usize,
    /// What is not kept.
    pub unkept: Unkept,
}

struct Copy {
    /// From the root.
    path: Vec<u8>,
    device: u64,
    inode: u64,
}

impl<'a> Copier<'a> {
    /// Copies from `filesystem` to below `root`.
    #[must_use]
    pub fn new(filesystem: &'a ImageFilesystem, root: Directory) -> Self {
        Self {
            filesystem,
            root,
            links: HashMap::new(),
            link_bytes: 0,
            unkept: Unkept::default(),
        }
    }

    /// Copies a file or directory with all that is below it to `name`; with no name, what is in
    /// the directory goes into the root.
    ///
    /// # Errors
    /// When the image cannot be read or the destination not be written. A file that cannot be
    /// copied for a reason of its own is told to `unkept`, and left out.
    pub fn copy(&mut self, start: &Place, name: &[u8]) -> anyhow::Result<()> {
        let mut open: Vec<Directory> = Vec::new();
        let filesystem = self.filesystem;
        walk(filesystem, start, |step| {
            let place = match step {
                Step::Entry(place) => place,
                Step::Leave(place) => {
                    if let Some(directory) = open.pop() {
                        let attributes = self.attributes(place)?;
                        let given = attributes.give(directory.fd(), &mut self.unkept);
                        match given.map_err(PlaceError::Io) {
                            Err(error) if is_of_this_file(&error) => {
                                self.unkept.lost("mode and time");
                            }
                            given => given.with_context(|| shown(&place.path))?,
                        }
                    }
                    return Ok(Descend::Past);
                }
            };
            let parent = match open.last() {
                Some(parent) => parent.again()?,
                None => self.root.again()?,
            };
            let own = if open.is_empty() { name } else { place.name() };
            let copied = if place.file_type == FileType::Directory {
                let made = if own.is_empty() {
                    Ok(parent)
                } else {
                    parent.make(own)
                };
                made.map(|directory| open.push(directory))
            } else {
                let path = below(name, &place.path[start.path.len()..]);
                self.copy_file(place, &parent, own, path)?
            };
            match copied {
                Ok(()) => anyhow::Ok(Descend::Into),
                Err(error) if is_of_this_file(&error) => {
                    self.unkept.left_out(&place.path, error);
                    Ok(Descend::Past)
                }
                Err(error) => Err(error).with_context(|| shown(&place.path)),
            }
        })
    }

    fn attributes(&self, place: &Place) -> anyhow::Result<Attributes> {
        let read = || {
            Ok::<_, crate::format::ext4::Error>(Attributes {
                metadata: self.filesystem.metadata(place.ino)?,
                xattrs: self.filesystem.xattrs(place.ino)?,
            })
        };
        read().with_context(|| shown(&place.path))
    }

    /// Copies what is no directory to `name`; `path` is that from the root.
    fn copy_file(
        &mut self,
        place: &Place,
        parent: &Directory,
        name: &[u8],
        path: Vec<u8>,
    ) -> anyhow::Result<Result<(), PlaceError>> {
        if let Err(occupied) = parent.may_replace(name) {
            return Ok(Err(occupied));
        }
        if let Some(first) = self.links.get(&place.ino) {
            match self.link(first, parent, name) {
                Ok(()) => return Ok(Ok(())),
                Err(_) => self.unkept.lost("hard links"),
            }
        }
        let attributes = self.attributes(place)?;
        let unkept = &mut self.unkept;
        let made = match attributes.metadata.file_type {
            FileType::File => self.write(place, parent, name, &attributes)?,
            FileType::Symlink => {
                let target = self.filesystem.read_link(place.ino);
                let target = target.with_context(|| shown(&place.path))?;
                let target = target.as_slice();
                make_node(parent, name, &attributes, unkept, |fd, temporary| {
                    rustix::fs::symlinkat(target, fd, temporary)
                })
            }
            special => {
                let (major, minor) = attributes.metadata.rdev;
                let device = rustix::fs::makedev(major, minor);
                let kind = kind(special);
                make_node(parent, name, &attributes, unkept, |fd, temporary| {
                    rustix::fs::mknodat(fd, temporary, kind, Mode::RUSR, device)
                })
            }
        };
        if made.is_ok() && attributes.metadata.links > 1 {
            let length = path.len();
            if self.link_bytes + length <= MAX_LINK_BYTES {
                let Stat { st_dev, st_ino, .. } = parent.stat(name)?;
                self.link_bytes += length;
                let copy = Copy {
                    path,
                    device: st_dev,
                    inode: st_ino,
                };
                self.links.insert(place.ino, copy);
            } else {
                self.unkept.lost("hard links");
            }
        }
        Ok(made)
    }

    /// Makes `name` another one of a copy.
    fn link(&self, first: &Copy, parent: &Directory, name: &[u8]) -> Result<(), PlaceError> {
        let (temporary, ()) = parent.temporary(|fd, temporary| {
            let from = first.path.as_slice();
            rustix::fs::linkat(self.root.fd(), from, fd, temporary, AtFlags::empty())
        })?;
        // Somebody may have put something else in the way to it meanwhile.
        let found = parent.stat(&temporary.name)?;
        if (found.st_dev, found.st_ino) != (first.device, first.inode) {
            return Err(io::Error::other("the copy was moved away").into());
        }
        temporary.settle(name)
    }

    /// Writes a regular file, with the holes that it has.
    fn write(
        &mut self,
        place: &Place,
        parent: &Directory,
        name: &[u8],
        attributes: &Attributes,
    ) -> anyhow::Result<Result<(), PlaceError>> {
        let opened = self.filesystem.open_file(place.ino);
        let source = opened.with_context(|| shown(&place.path))?;
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let made = parent.temporary(|fd, temporary| {
            rustix::fs::openat(fd, temporary, flags, Mode::RUSR | Mode::WUSR)
        });
        let (temporary, file): (_, OwnedFd) = match made {
            Ok(made) => made,
            Err(error) => return Ok(Err(error.into())),
        };
        let file = File::from(file);
        if let Err(error) = file.set_len(source.size) {
            // Larger than the destination's files can be.
            return Ok(Err(error.into()));
        }
        let block = self.filesystem.block_size();
        let mut buffer = Vec::new();
        for extent in &source.extents {
            let start = u64::from(extent.logical_block) * block;
            let end = start + u64::from(extent.blocks) * block;
            let (mut at, end) = (start, end.min(source.size));
            while at < end {
                let part = usize::try_from((end - at).min(PART))?;
                buffer.resize(part, 0);
                let read = self.filesystem.read(&source, at, &mut buffer);
                let count = read.with_context(|| shown(&place.path))?;
                if count == 0 {
                    break;
                }
                let written = file.write_all_at(&buffer[..count], at);
                written.with_context(|| format!("writing {}", shown(&place.path)))?;
                at += count as u64;
            }
        }
        let file = OwnedFd::from(file);
        if let Err(error) = attributes.give(&file, &mut self.unkept) {
            return Ok(Err(error.into()));
        }
        Ok(temporary.settle(name))
    }
}

fn make_node(
    parent: &Directory,
    name: &[u8],
    attributes: &Attributes,
    unkept: &mut Unkept,
    make: impl Fn(&OwnedFd, &[u8]) -> rustix::io::Result<()>,
) -> Result<(), PlaceError> {
    let (temporary, ()) = parent.temporary(make)?;
    attributes.give_name(parent, &temporary.name, unkept)?;
    temporary.settle(name)
}

fn kind(file_type: FileType) -> Kind {
    match file_type {
        FileType::CharDevice => Kind::CharacterDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::File | FileType::Directory | FileType::Symlink => Kind::RegularFile,
    }
}

/// A path below a name: `name/rest`, without slashes at its ends.
fn below(name: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut path = name.to_vec();
    if rest.is_empty() {
        return path;
    }
    let rest = rest.strip_prefix(b"/").unwrap_or(rest);
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(rest);
    path
}

/// Whether others can still be copied.
fn is_of_this_file(error: &PlaceError) -> bool {
    let PlaceError::Io(error) = error else {
        return true;
    };
    [
        Errno::PERM,
        Errno::ACCESS,
        Errno::NAMETOOLONG,
        Errno::ILSEQ,
        Errno::INVAL,
        Errno::FBIG,
        Errno::NOTSUP,
    ]
    .iter()
    .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
