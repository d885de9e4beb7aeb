//! New inodes and names, and their attributes.

use super::Filesystem;
use crate::format::block::{BlockDevice, BlockDeviceMut};
use crate::format::ext4::blocks;
use crate::format::ext4::checksum::ChecksumKind;
use crate::format::ext4::directory;
use crate::format::ext4::error::{Error, Result};
use crate::format::ext4::extents;
use crate::format::ext4::inode::Inode;
use crate::format::ext4::inode_table::{self, count_blocks};
use crate::format::ext4::inodes;
use crate::format::ext4::layout::{BLOCK_MAP_LEN, MAX_LINKS};
use crate::format::ext4::run::Run;
use crate::format::ext4::types::{Attributes, FileType, Ino, NodeKind};
use crate::format::ext4::volume::Volume;
use crate::format::ext4::xattr;

/// Largest numbers of a device, which the inode holds in 12 and 20 bits.
const MAX_MAJOR: u32 = 0xfff;
const MAX_MINOR: u32 = 0xf_ffff;

impl<D: BlockDeviceMut> Filesystem<D> {
    /// A new inode under a new name.
    ///
    /// # Errors
    /// When the name exists or is invalid, the inode cannot be stored, or nothing is free.
    pub fn create(
        &mut self,
        dir: Ino,
        name: &[u8],
        kind: &NodeKind,
        attributes: &Attributes,
    ) -> Result<Ino> {
        let mut parent = directory::read(&mut self.volume, dir)?;
        self.check_free(&parent, name)?;
        let volume = &mut self.volume;
        let file_type = kind.file_type();
        let is_directory = file_type == FileType::Directory;
        let ino = inodes::allocate(volume, is_directory)?;
        let mut inode = inode_table::new(volume, ino)?;
        inode.set_type(file_type);
        inode.set_links(if is_directory { 2 } else { 1 });
        inode.set_attributes(attributes);
        match kind {
            NodeKind::File => extents::build(volume, &mut inode, &[])?,
            NodeKind::Directory => directory::start(volume, &mut inode, dir)?,
            NodeKind::Symlink(target) => write_target(volume, &mut inode, target)?,
            &NodeKind::CharDevice { major, minor } | &NodeKind::BlockDevice { major, minor } => {
                if major > MAX_MAJOR || minor > MAX_MINOR {
                    return Err(Error::Device { major, minor });
                }
                inode.set_device(major, minor);
            }
            NodeKind::Fifo | NodeKind::Socket => {}
        }
        xattr::write(volume, &mut inode, &attributes.xattrs)?;
        inode_table::write(volume, &mut inode)?;
        directory::insert(volume, &mut parent, name, ino, file_type)?;
        if is_directory {
            self.subdirectories.add(volume, &mut parent)?;
        }
        inode_table::write(volume, &mut parent)?;
        Ok(ino)
    }

    /// One more name for an inode that is not a directory.
    ///
    /// # Errors
    /// [`Error::TooManyLinks`] when it has 65,000; else as [`create`](Self::create).
    pub fn link(&mut self, dir: Ino, name: &[u8], ino: Ino) -> Result<()> {
        let mut parent = directory::read(&mut self.volume, dir)?;
        let mut inode = inode_table::read(&mut self.volume, ino)?;
        let file_type = match inode.file_type() {
            Some(FileType::Directory) | None => return Err(Error::IsADirectory(ino)),
            Some(file_type) => file_type,
        };
        if inode.links() >= MAX_LINKS {
            return Err(Error::TooManyLinks);
        }
        self.check_free(&parent, name)?;
        inode.set_links(inode.links() + 1);
        inode_table::write(&mut self.volume, &mut inode)?;
        directory::insert(&mut self.volume, &mut parent, name, ino, file_type)?;
        inode_table::write(&mut self.volume, &mut parent)
    }

    /// Sets mode, owner, times and all extended attributes: those that are not named go.
    ///
    /// # Errors
    /// When an attribute cannot be stored.
    pub fn set_attributes(&mut self, ino: Ino, attributes: &Attributes) -> Result<()> {
        let mut inode = inode_table::read(&mut self.volume, ino)?;
        inode.set_attributes(attributes);
        xattr::write(&mut self.volume, &mut inode, &attributes.xattrs)?;
        inode_table::write(&mut self.volume, &mut inode)
    }
}

/// Stores a new symbolic link's target: in the inode, or in a block where it is longer.
fn write_target<D: BlockDevice>(
    volume: &mut Volume<D>,
    inode: &mut Inode,
    target: &[u8],
) -> Result<()> {
    let length = target.len();
    let invalid = |problem| Err(Error::Target { length, problem });
    if target.is_empty() {
        return invalid("it is empty");
    }
    if target.contains(&0) {
        return invalid("it has a NUL in it");
    }
    // A NUL must follow it within the block.
    if length >= volume.geometry().block_len() {
        return invalid("it is longer than 4,095 bytes, or than a block of the filesystem");
    }
    inode.set_size(length as u64);
    if length < BLOCK_MAP_LEN {
        inode.block_mut()[..length].copy_from_slice(target);
        return Ok(());
    }
    let block = blocks::allocate_metadata(volume, ChecksumKind::None)?;
    volume.write(block, ChecksumKind::None)?[..length].copy_from_slice(target);
    let run = Run {
        logical: 0,
        physical: block,
        length: 1,
        unwritten: false,
    };
    extents::build(volume, inode, &[run])?;
    count_blocks(volume, inode, 1, 0);
    Ok(())
}
