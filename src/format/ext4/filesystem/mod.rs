//! The filesystem as a whole: its public calls.

mod areas;
mod create;
mod data;
mod find;
mod read;
mod remove;

use zerocopy::{FromZeros, IntoBytes};

use super::error::{Result, corrupt};
use super::inode::Inode;
use super::inode_table;
use super::layout::{MAGIC, ROOT, RawSuperblock};
use super::subdirectories::SubdirectoryCounts;
use super::types::{FileType, Ino};
use super::volume::Volume;
use super::{directory, error::Error};
use crate::format::block::{BlockDevice, BlockDeviceMut};

/// An ext4 filesystem on a device.
///
/// After an error from a call that changes something, what is in memory is invalid: it must
/// not be flushed.
pub struct Filesystem<D> {
    volume: Volume<D>,
    subdirectories: SubdirectoryCounts,
}

impl<D: BlockDevice> Filesystem<D> {
    /// Opens the filesystem on `device`. Over a
    /// [`ReadOnly`](crate::format::block::ReadOnly) device it can be read.
    ///
    /// # Errors
    /// When there is none, it is damaged, or it has features that this engine does not know.
    pub fn open(device: D) -> Result<Self> {
        Ok(Self::from_volume(Volume::open(device)?))
    }

    pub(super) fn from_volume(volume: Volume<D>) -> Self {
        Self {
            volume,
            subdirectories: SubdirectoryCounts::default(),
        }
    }

    /// Checks that the disk holds all of a filesystem, and not just what was changed of one:
    /// the root directory's names lead to inodes, and the first copy of the superblock, which
    /// only mkfs writes, is there.
    ///
    /// # Errors
    /// What is missing.
    pub fn check_is_whole(&mut self) -> Result<()> {
        let root = self.root();
        for entry in self.entries(root)? {
            self.metadata(entry.ino)?;
        }
        let (geometry, superblock) = (*self.volume.geometry(), self.volume.superblock());
        let group = (1..geometry.groups).find(|group| superblock.has_copy(*group));
        let Some(group) = group else { return Ok(()) };
        let mut copy = RawSuperblock::new_zeroed();
        let start = geometry.offset(geometry.group_start(group));
        self.volume.device().read_at(start, copy.as_mut_bytes())?;
        if copy.magic == MAGIC {
            return Ok(());
        }
        corrupt(format!("group {group} has no copy of the superblock"))
    }

    /// Puts another device under the filesystem, which must read the same, and gives the old
    /// one back.
    pub fn replace_device(&mut self, device: D) -> D {
        std::mem::replace(self.volume.device_mut(), device)
    }

    /// The device, for file data.
    pub fn device_mut(&mut self) -> &mut D {
        self.volume.device_mut()
    }

    /// Bytes of a block: what [`FileExtent`](super::FileExtent) counts in.
    pub fn block_size(&self) -> u32 {
        self.volume.geometry().block_size
    }

    /// The root directory.
    // A method, so that no caller relies on the number.
    #[allow(clippy::unused_self)]
    pub fn root(&self) -> Ino {
        ROOT
    }

    /// A regular file's inode.
    fn file(&mut self, ino: Ino) -> Result<Inode> {
        let inode = inode_table::read(&mut self.volume, ino)?;
        if inode.file_type() == Some(FileType::File) {
            Ok(inode)
        } else {
            Err(Error::WrongType(ino, "a regular file"))
        }
    }

    /// Checks that a directory can have a name, and does not have it yet.
    fn check_free(&mut self, dir: &Inode, name: &[u8]) -> Result<()> {
        directory::check_name(name)?;
        match directory::find(&mut self.volume, dir, name)? {
            Some(_) => Err(Error::Exists(name.to_vec())),
            None => Ok(()),
        }
    }
}

impl<D: BlockDeviceMut> Filesystem<D> {
    /// Writes the metadata that changed since the last flush, in the disk's order.
    ///
    /// # Errors
    /// When the device fails; what it holds is then invalid.
    pub fn flush(&mut self) -> Result<()> {
        self.volume.flush()
    }
}
