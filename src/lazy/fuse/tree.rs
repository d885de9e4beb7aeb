//! Answers the kernel from an image's filesystem. There is no state of open files: all of them
//! read the same bytes for good, and where those are is kept for the files that were read last.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use fuser::{
    Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyBmap, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyXattr, Request,
};
use moka::sync::Cache;

use super::attributes::{self, FOREVER};
use super::failures::{Failures, shielded};
use super::names;
use super::options::{MountOptions, Observer};
use super::seek::seek;
use super::xattrs::{self, Xattrs};
use crate::format::ext4::{Error, Ino};
use crate::lazy::{ImageFilesystem, OpenFile};

/// Most extents in memory, of all files together.
const MOST_EXTENTS: u64 = 1 << 20;
/// What a file costs, in extents, beside its own.
const FILE_COST: u32 = 8;
/// Most read-ahead requests of the kernel at the same time.
const BACKGROUND: u16 = 64;
/// The kernel's answers to what this filesystem is asked for, where it can give them itself.
const WANTED: [InitFlags; 8] = [
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_NO_OPEN_SUPPORT,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
];

/// An image's filesystem as the kernel asks for it.
pub(super) struct Tree {
    filesystem: Arc<ImageFilesystem>,
    block_size: u32,
    owner: Option<(u32, u32)>,
    observer: Option<Arc<dyn Observer>>,
    files: Cache<Ino, Arc<OpenFile>>,
    xattrs: Xattrs,
    failures: Failures,
    opens_itself: bool,
    opens_directories_itself: bool,
}

/// What a directory's listing stops for.
enum Stop {
    Damaged(Error),
    Errno(Errno),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Damaged(error)
    }
}

impl Tree {
    pub(super) fn new(filesystem: Arc<ImageFilesystem>, options: &MountOptions) -> Self {
        let weigher = |_: &Ino, file: &Arc<OpenFile>| {
            let extents = u32::try_from(file.extents.len()).unwrap_or(u32::MAX);
            extents.saturating_add(FILE_COST)
        };
        let files = Cache::builder().max_capacity(MOST_EXTENTS).weigher(weigher);
        Self {
            block_size: u32::try_from(filesystem.block_size()).unwrap_or(4096),
            filesystem,
            owner: options.owner,
            observer: options.observer.clone(),
            files: files.build(),
            xattrs: Xattrs::new(),
            failures: Failures::default(),
            opens_itself: false,
            opens_directories_itself: false,
        }
    }

    fn attributes(&self, ino: Ino) -> Result<FileAttr, Errno> {
        match self.filesystem.metadata(ino) {
            Ok(metadata) => Ok(attributes::attributes(
                ino,
                &metadata,
                self.block_size,
                self.owner,
            )),
            Err(error) => Err(self.failures.errno("an inode", ino.into(), &error)),
        }
    }

    /// What a name leads to; `None` for what does not exist.
    fn find(&self, parent: Ino, name: &OsStr) -> Result<Option<FileAttr>, Errno> {
        match self.filesystem.lookup(parent, name.as_bytes()) {
            Ok(Some(ino)) => self.attributes(ino).map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(self.failures.errno("a directory", parent.into(), &error)),
        }
    }

    fn file(&self, ino: Ino) -> Result<Arc<OpenFile>, Errno> {
        let open = || self.filesystem.open_file(ino).map(Arc::new);
        let opened = self.files.try_get_with(ino, open);
        opened.map_err(|error| self.failures.errno("a file", ino.into(), &error))
    }

    fn data(&self, ino: Ino, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let file = self.file(ino)?;
        let length = file.size.saturating_sub(offset).min(size.into());
        if length == 0 {
            return Ok(Vec::new());
        }
        if let Some(observer) = &self.observer {
            observer.read(ino, offset..offset.saturating_add(length));
        }
        let mut data = vec![0; usize::try_from(length).map_err(|_| Errno::EINVAL)?];
        match self.filesystem.read(&file, offset, &mut data) {
            Ok(read) => {
                data.truncate(read);
                Ok(data)
            }
            Err(error) => Err(self.failures.unreadable("a file", ino.into(), &error)),
        }
    }

    fn list(
        &self,
        dir: INodeNo,
        from: u64,
        mut add: impl FnMut(&names::Entry<'_>) -> Result<bool, Errno>,
    ) -> Result<(), Errno> {
        let ino = attributes::inode(dir).ok_or(Errno::ENOENT)?;
        let (mut added, mut stopped) = (false, None);
        let listed = names::from(&self.filesystem, ino, from, |name| {
            let is_full = add(name).map_err(Stop::Errno)?;
            added |= !is_full;
            Ok::<_, Stop>(is_full)
        });
        match listed {
            Ok(()) => {}
            Err(Stop::Errno(errno)) => stopped = Some(errno),
            Err(Stop::Damaged(error)) => {
                stopped = Some(self.failures.errno("a directory", ino.into(), &error));
            }
        }
        // What was found before comes first; the next call meets the error again.
        match stopped {
            Some(errno) if !added => Err(errno),
            _ => Ok(()),
        }
    }
}

fn sized(reply: ReplyXattr, value: &[u8], size: u32) {
    match u32::try_from(value.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

impl Filesystem for Tree {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in WANTED {
            // An older kernel asks more often, that is all.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_background(BACKGROUND);
        let offers = config.capabilities();
        self.opens_itself = offers.contains(InitFlags::FUSE_NO_OPEN_SUPPORT);
        self.opens_directories_itself = offers.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        shielded(|| {
            let Some(parent) = attributes::inode(parent) else {
                return reply.error(Errno::ENOENT);
            };
            match self.find(parent, name) {
                Ok(Some(found)) => reply.entry(&FOREVER, &found, Generation(0)),
                Ok(None) => reply.entry(&FOREVER, &attributes::nothing(), Generation(0)),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        shielded(|| {
            let found = attributes::inode(ino).ok_or(Errno::ENOENT);
            match found.and_then(|ino| self.attributes(ino)) {
                Ok(found) => reply.attr(&FOREVER, &found),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        shielded(|| {
            let Some(inode) = attributes::inode(ino) else {
                return reply.error(Errno::ENOENT);
            };
            match self.filesystem.read_link(inode) {
                Ok(target) => reply.data(&target),
                Err(error) => reply.error(self.failures.errno("a symbolic link", ino.0, &error)),
            }
        });
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.opens_itself {
            // The kernel does not ask again.
            return reply.error(Errno::ENOSYS);
        }
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        shielded(|| {
            let found = attributes::inode(ino).ok_or(Errno::ENOENT);
            match found.and_then(|ino| self.data(ino, offset, size)) {
                Ok(data) => reply.data(&data),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        shielded(|| {
            let found = attributes::inode(ino).ok_or(Errno::ENOENT);
            let file = found.and_then(|ino| self.file(ino));
            let block_size = self.filesystem.block_size();
            match file.and_then(|file| seek(&file, block_size, offset, whence)) {
                Ok(offset) => reply.offset(offset),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.opens_directories_itself {
            return reply.error(Errno::ENOSYS);
        }
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
        reply.opened(FileHandle(0), flags);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        shielded(|| {
            let listed = self.list(ino, offset, |name| {
                let (number, kind) = (
                    attributes::number(name.ino),
                    attributes::kind(name.file_type),
                );
                Ok(reply.add(number, name.next, kind, OsStr::from_bytes(name.name)))
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        shielded(|| {
            let listed = self.list(ino, offset, |name| {
                // An inode that cannot be read is an error of those who want to know more of it,
                // and hides no other name.
                let (node, found) = match self.attributes(name.ino) {
                    Ok(found) => (found.ino, found),
                    Err(_) => (INodeNo(0), attributes::name_only(name.ino, name.file_type)),
                };
                Ok(reply.add(
                    node,
                    name.next,
                    OsStr::from_bytes(name.name),
                    &FOREVER,
                    &found,
                    Generation(0),
                ))
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        shielded(|| match self.filesystem.space() {
            Ok(space) => reply.statfs(
                space.blocks,
                space.free_blocks,
                space.free_blocks,
                space.inodes.into(),
                space.free_inodes.into(),
                space.block_size,
                255,
                space.block_size,
            ),
            Err(error) => reply.error(self.failures.errno("the superblock", 0, &error)),
        });
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        shielded(|| {
            let Some(inode) = attributes::inode(ino) else {
                return reply.error(Errno::ENOENT);
            };
            match self.xattrs.of(&self.filesystem, inode) {
                Ok(pairs) => {
                    let found = pairs.iter().find(|(known, _)| known == name.as_bytes());
                    match found {
                        Some((_, value)) => sized(reply, value, size),
                        None => reply.error(Errno::ENODATA),
                    }
                }
                Err(error) => reply.error(self.failures.errno("an attribute", ino.0, &error)),
            }
        });
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        shielded(|| {
            let Some(inode) = attributes::inode(ino) else {
                return reply.error(Errno::ENOENT);
            };
            match self.xattrs.of(&self.filesystem, inode) {
                Ok(pairs) => sized(reply, &xattrs::list(&pairs, request.uid() == 0), size),
                Err(error) => reply.error(self.failures.errno("an attribute", ino.0, &error)),
            }
        });
    }

    // What the kernel can do without: it then does not ask again.

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}
