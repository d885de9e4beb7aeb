//! What names lead to, and what inodes say of themselves.

use super::Filesystem;
use crate::format::block::BlockDevice;
use crate::format::ext4::directory;
use crate::format::ext4::error::{Error, Result, corrupt, narrow};
use crate::format::ext4::inode_table;
use crate::format::ext4::layout::{BLOCK_MAP_LEN, MODE_TYPE_MASK};
use crate::format::ext4::mapping;
use crate::format::ext4::types::{DirEntry, FileType, Ino, Metadata, NamedEntry, Space};
use crate::format::ext4::xattr;

impl<D: BlockDevice> Filesystem<D> {
    /// What a name leads to; `None` when it does not exist.
    ///
    /// # Errors
    /// When `dir` is not a directory, or the filesystem is damaged.
    pub fn lookup(&mut self, dir: Ino, name: &[u8]) -> Result<Option<DirEntry>> {
        let dir = directory::read(&mut self.volume, dir)?;
        let Some(found) = directory::find(&mut self.volume, &dir, name)? else {
            return Ok(None);
        };
        Ok(Some(DirEntry {
            ino: found.ino,
            file_type: directory::entry_type(&mut self.volume, found.ino, found.kind)?,
        }))
    }

    /// All names of a directory but `.` and `..`, in the disk's order.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn entries(&mut self, dir: Ino) -> Result<Vec<NamedEntry>> {
        let dir = directory::read(&mut self.volume, dir)?;
        directory::entries(&mut self.volume, &dir)
    }

    /// The names but `.` and `..` in block `number` of a directory, in the disk's order; `None`
    /// past its last block.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn entries_in(&mut self, dir: Ino, number: u32) -> Result<Option<Vec<NamedEntry>>> {
        let dir = directory::read(&mut self.volume, dir)?;
        directory::entries_in(&mut self.volume, &dir, number)
    }

    /// The directory that a directory is in; the root's is the root.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn parent(&mut self, dir: Ino) -> Result<Ino> {
        let dir = directory::read(&mut self.volume, dir)?;
        directory::parent(&mut self.volume, &dir)
    }

    /// How much of the filesystem is in use, as its superblock says.
    #[must_use]
    pub fn space(&self) -> Space {
        let geometry = self.volume.geometry();
        let (free_blocks, free_inodes) = self.volume.superblock().free();
        Space {
            block_size: geometry.block_size,
            blocks: geometry.blocks,
            free_blocks,
            inodes: geometry.inodes,
            free_inodes,
        }
    }

    /// What an inode says of itself.
    ///
    /// # Errors
    /// When the inode is not in use, or the filesystem is damaged.
    pub fn metadata(&mut self, ino: Ino) -> Result<Metadata> {
        let inode = inode_table::read(&mut self.volume, ino)?;
        let Some(file_type) = inode.file_type() else {
            return corrupt(format!("inode {ino} has no type"));
        };
        let is_device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
        Ok(Metadata {
            file_type,
            mode: inode.mode() & !MODE_TYPE_MASK,
            uid: inode.uid(),
            gid: inode.gid(),
            size: inode.size(),
            mtime: inode.mtime(),
            atime: inode.atime(),
            ctime: inode.ctime(),
            sectors: inode.sectors(self.volume.geometry().block_size),
            links: inode.links().into(),
            rdev: if is_device { inode.device() } else { (0, 0) },
        })
    }

    /// A symbolic link's target.
    ///
    /// # Errors
    /// When the inode is not a symbolic link, or the filesystem is damaged.
    pub fn read_link(&mut self, ino: Ino) -> Result<Vec<u8>> {
        let inode = inode_table::read(&mut self.volume, ino)?;
        if inode.file_type() != Some(FileType::Symlink) {
            return Err(Error::WrongType(ino, "a symbolic link"));
        }
        let size = inode.size();
        if size < BLOCK_MAP_LEN as u64 && !inode.has_extents() {
            let length: usize = narrow(size)?;
            return Ok(inode.block()[..length].to_vec());
        }
        let run = mapping::find(&mut self.volume, &inode, 0)?.filter(|run| !run.unwritten);
        match run {
            Some(run) if size < u64::from(self.block_size()) => {
                let length: usize = narrow(size)?;
                Ok(self.volume.read(run.physical)?[..length].to_vec())
            }
            _ => corrupt(format!(
                "symbolic link {ino} of {size} bytes has no block for them"
            )),
        }
    }

    /// All extended attributes by full name, sorted; POSIX ACLs as `getxattr` gives them.
    ///
    /// # Errors
    /// When the inode is not in use, or the filesystem is damaged.
    pub fn xattrs(&mut self, ino: Ino) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let inode = inode_table::read(&mut self.volume, ino)?;
        xattr::read(&mut self.volume, &inode)
    }
}
