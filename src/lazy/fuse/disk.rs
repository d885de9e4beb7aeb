//! Answers the kernel from an image's disk: a directory with one file.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyBmap, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use super::attributes::{self, FOREVER};
use super::failures::{Failures, shielded};
use crate::format::blob::Stack;
use crate::format::block::{BlockDevice as _, SECTOR};

/// The file's name.
pub const FILE_NAME: &str = "disk.img";

const FILE: INodeNo = INodeNo(2);
/// Sectors that are looked through for data at a time: 1 GiB of the disk.
const WINDOW: u64 = (1 << 30) / SECTOR;

/// A disk as the kernel asks for it.
pub(super) struct Disk {
    stack: Arc<Stack>,
    /// Sectors with data.
    sectors: u64,
    owner: (u32, u32),
    failures: Failures,
}

impl Disk {
    pub(super) fn new(stack: Arc<Stack>) -> Self {
        let end = stack.size() / SECTOR;
        let windows = (0..end.div_ceil(WINDOW)).map(|n| n * WINDOW..((n + 1) * WINDOW).min(end));
        let data = windows.flat_map(|window| stack.data(window));
        let sectors = data.map(|range| range.end - range.start).sum();
        Self {
            sectors,
            stack,
            owner: (
                nix::unistd::geteuid().as_raw(),
                nix::unistd::getegid().as_raw(),
            ),
            failures: Failures::default(),
        }
    }

    fn attributes(&self, ino: INodeNo) -> Result<FileAttr, Errno> {
        let mut found = FileAttr {
            ino,
            uid: self.owner.0,
            gid: self.owner.1,
            ..attributes::nothing()
        };
        found.blksize = 4096;
        match ino {
            INodeNo::ROOT => {
                (found.kind, found.perm, found.nlink) = (FileType::Directory, 0o555, 2);
            }
            FILE => {
                (found.kind, found.perm, found.nlink) = (FileType::RegularFile, 0o444, 1);
                (found.size, found.blocks) = (self.stack.size(), self.sectors);
            }
            _ => return Err(Errno::ENOENT),
        }
        Ok(found)
    }

    fn data(&self, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let length = self.stack.size().saturating_sub(offset).min(size.into());
        let mut data = vec![0; usize::try_from(length).map_err(|_| Errno::EINVAL)?];
        if data.is_empty() {
            return Ok(data);
        }
        match self.stack.read_at(offset, &mut data) {
            Ok(()) => Ok(data),
            Err(error) => Err(self.failures.unreadable("the disk", FILE.0, &error)),
        }
    }

    /// The next byte from `offset` on that is data, or in a hole, as `whence` says.
    fn seek(&self, offset: i64, whence: i32) -> Result<i64, Errno> {
        let (from, size) = (
            u64::try_from(offset).map_err(|_| Errno::ENXIO)?,
            self.stack.size(),
        );
        if from >= size {
            return Err(Errno::ENXIO);
        }
        let mut at = from / SECTOR;
        let end = size / SECTOR;
        while at < end {
            let window = at..(at + WINDOW).min(end);
            for data in self.stack.data(window.clone()) {
                match whence {
                    libc::SEEK_DATA => return signed((data.start * SECTOR).max(from)),
                    libc::SEEK_HOLE if data.start > at => return signed((at * SECTOR).max(from)),
                    libc::SEEK_HOLE => at = data.end,
                    _ => return Err(Errno::EINVAL),
                }
            }
            match whence {
                libc::SEEK_HOLE if at < window.end => return signed((at * SECTOR).max(from)),
                libc::SEEK_HOLE | libc::SEEK_DATA => at = window.end,
                _ => return Err(Errno::EINVAL),
            }
        }
        match whence {
            libc::SEEK_DATA => Err(Errno::ENXIO),
            _ => signed(size),
        }
    }
}

fn signed(offset: u64) -> Result<i64, Errno> {
    i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)
}

impl Filesystem for Disk {
    fn init(&mut self, _: &Request, _: &mut KernelConfig) -> io::Result<()> {
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = match (parent, name == FILE_NAME) {
            (INodeNo::ROOT, true) => self.attributes(FILE),
            _ => Ok(attributes::nothing()),
        };
        match found {
            Ok(found) => reply.entry(&FOREVER, &found, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino) {
            Ok(found) => reply.attr(&FOREVER, &found),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        shielded(|| match self.data(offset, size) {
            Ok(data) => reply.data(&data),
            Err(errno) => reply.error(errno),
        });
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        shielded(|| match self.seek(offset, whence) {
            Ok(offset) => reply.offset(offset),
            Err(errno) => reply.error(errno),
        });
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let entries = [
            (INodeNo::ROOT, FileType::Directory, "."),
            (INodeNo::ROOT, FileType::Directory, ".."),
            (FILE, FileType::RegularFile, FILE_NAME),
        ];
        for (next, (ino, kind, name)) in (1..).zip(entries) {
            if offset < next && reply.add(ino, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(self.stack.size() / 4096, 0, 0, 1, 0, 4096, 255, 4096);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
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

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }
}
