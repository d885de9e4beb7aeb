//! Removing names, inodes and whole directories.

use std::collections::HashSet;

use super::Filesystem;
use crate::format::block::BlockDeviceMut;
use crate::format::ext4::directory;
use crate::format::ext4::error::{Error, Result, corrupt};
use crate::format::ext4::inode::Inode;
use crate::format::ext4::inode_table;
use crate::format::ext4::inodes;
use crate::format::ext4::layout::{BLOCK_MAP_LEN, ROOT, inode_flags};
use crate::format::ext4::mapping;
use crate::format::ext4::types::{FileType, Ino};
use crate::format::ext4::xattr;

impl<D: BlockDeviceMut> Filesystem<D> {
    /// Removes a name that does not lead to a directory; with the last one goes the inode.
    ///
    /// # Errors
    /// When the name does not exist or leads to a directory.
    pub fn unlink(&mut self, dir: Ino, name: &[u8]) -> Result<()> {
        let volume = &mut self.volume;
        let mut parent = directory::read(volume, dir)?;
        let Some(found) = directory::find(volume, &parent, name)? else {
            return Err(Error::NotFound(name.to_vec()));
        };
        let inode = inode_table::read(volume, found.ino)?;
        if inode.is_directory() {
            return Err(Error::IsADirectory(found.ino));
        }
        directory::remove(volume, &parent, &found)?;
        inode_table::write(volume, &mut parent)?;
        self.drop_link(inode)
    }

    /// Removes a name with all that is below it, be it a directory or not.
    ///
    /// # Errors
    /// When the name does not exist, or the filesystem is damaged.
    pub fn remove_tree(&mut self, dir: Ino, name: &[u8]) -> Result<()> {
        let volume = &mut self.volume;
        let mut parent = directory::read(volume, dir)?;
        let Some(found) = directory::find(volume, &parent, name)? else {
            return Err(Error::NotFound(name.to_vec()));
        };
        let inode = inode_table::read(volume, found.ino)?;
        if !inode.is_directory() {
            return self.unlink(dir, name);
        }
        directory::remove(volume, &parent, &found)?;
        self.subdirectories.remove(volume, &mut parent)?;
        inode_table::write(volume, &mut parent)?;
        self.release_tree(inode, dir)
    }

    /// Removes all that is in a directory, which is then as if new.
    ///
    /// # Errors
    /// When `ino` is not a directory, or the filesystem is damaged.
    pub fn clear_directory(&mut self, ino: Ino) -> Result<()> {
        let mut dir = directory::read(&mut self.volume, ino)?;
        let parent = directory::parent(&mut self.volume, &dir)?;
        let entries = directory::entries(&mut self.volume, &dir)?;
        if entries.is_empty() && dir.size() == u64::from(self.block_size()) {
            return Ok(());
        }
        for entry in entries {
            let inode = inode_table::read(&mut self.volume, entry.ino)?;
            if inode.is_directory() {
                self.release_tree(inode, ino)?;
            } else {
                self.drop_link(inode)?;
            }
        }
        mapping::free(&mut self.volume, &mut dir)?;
        dir.set_flag(inode_flags::INDEX, false);
        dir.set_links(2);
        self.subdirectories.forget(dir.ino());
        directory::start(&mut self.volume, &mut dir, parent)?;
        inode_table::write(&mut self.volume, &mut dir)
    }

    /// Takes one link away; with the last one goes the inode.
    fn drop_link(&mut self, mut inode: Inode) -> Result<()> {
        if inode.links() > 1 {
            inode.set_links(inode.links() - 1);
            return inode_table::write(&mut self.volume, &mut inode);
        }
        self.release(inode)
    }

    /// Gives back an inode and all that it has.
    fn release(&mut self, mut inode: Inode) -> Result<()> {
        let volume = &mut self.volume;
        let has_blocks = match inode.file_type() {
            Some(FileType::File | FileType::Directory) => true,
            Some(FileType::Symlink) => inode.size() >= BLOCK_MAP_LEN as u64 || inode.has_extents(),
            _ => false,
        };
        if has_blocks {
            mapping::free(volume, &mut inode)?;
        }
        xattr::remove_block(volume, &mut inode)?;
        inodes::free(volume, inode.ino(), inode.is_directory())?;
        self.subdirectories.forget(inode.ino());
        inode_table::clear(volume, inode.ino())
    }

    /// Gives back a directory and all below it. Its names are not removed one by one: their
    /// blocks go as a whole.
    fn release_tree(&mut self, top: Inode, parent: Ino) -> Result<()> {
        // A directory with two names could be inside itself.
        let mut seen = HashSet::from([ROOT, parent, top.ino()]);
        let mut pending = vec![top];
        while let Some(dir) = pending.pop() {
            for entry in directory::entries(&mut self.volume, &dir)? {
                let inode = inode_table::read(&mut self.volume, entry.ino)?;
                if !inode.is_directory() {
                    self.drop_link(inode)?;
                } else if seen.insert(inode.ino()) {
                    pending.push(inode);
                } else {
                    return corrupt(format!("directory {} has two names", inode.ino()));
                }
            }
            self.release(dir)?;
        }
        Ok(())
    }
}
