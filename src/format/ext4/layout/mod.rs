//! Structures, flags and limits of what is on the disk (kernel, `fs/ext4/ext4.h`,
//! `ext4_extents.h`, `namei.c`, `xattr.h`, `acl.h`). Everything is little-endian.

mod acl;
mod directory;
mod extent;
mod features;
mod group;
mod halves;
mod inode;
mod superblock;
mod xattr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::{Error, Result};

pub(super) use acl::{AclEntry, AclHeader, AclShortEntry};
pub(super) use directory::{
    DirectoryTail, EntryHeader, IndexCount, IndexEntry, IndexInfo, IndexNode, IndexRoot, IndexTail,
    MAX_NAME, index_count_offset,
};
pub(super) use extent::{Extent, ExtentHeader, ExtentIndex, ExtentTail};
pub(super) use features::{compat, incompat, ro_compat};
pub(super) use group::{GroupDescriptor, GroupDescriptorHigh, group_flags};
pub(super) use halves::{join16, join32, join48, split16, split32, split48};
pub(super) use inode::{
    BLOCK_MAP_LEN, FIRST_INODE, INODE_BASE_LEN, InodeBase, InodeExtra, MAX_LINKS, MODE_TYPE_MASK,
    ROOT, inode_flags,
};
pub(super) use superblock::{
    MAGIC, RawSuperblock, SUPERBLOCK_LEN, SUPERBLOCK_OFFSET, superblock_flags,
};
pub(super) use xattr::{XattrBlockHeader, XattrEntry, XattrInodeHeader};

fn too_short() -> Error {
    Error::Corrupt("a structure reaches beyond the end of its block".into())
}

/// The structure at byte `offset`.
#[inline]
pub(super) fn get<T>(bytes: &[u8], offset: usize) -> Result<&T>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    let place = bytes.get(offset..).ok_or_else(too_short)?;
    let (structure, _) = T::ref_from_prefix(place).map_err(|_| too_short())?;
    Ok(structure)
}

/// The structure at byte `offset`, to be changed.
#[inline]
pub(super) fn get_mut<T>(bytes: &mut [u8], offset: usize) -> Result<&mut T>
where
    T: FromBytes + IntoBytes + KnownLayout + Unaligned,
{
    let place = bytes.get_mut(offset..).ok_or_else(too_short)?;
    let (structure, _) = T::mut_from_prefix(place).map_err(|_| too_short())?;
    Ok(structure)
}

/// `count` structures from byte `offset` on.
#[inline]
pub(super) fn get_slice<T>(bytes: &[u8], offset: usize, count: usize) -> Result<&[T]>
where
    T: FromBytes + Immutable + Unaligned,
{
    let place = bytes.get(offset..).ok_or_else(too_short)?;
    let (structures, _) =
        <[T]>::ref_from_prefix_with_elems(place, count).map_err(|_| too_short())?;
    Ok(structures)
}

/// `count` structures from byte `offset` on, to be changed.
#[inline]
pub(super) fn get_slice_mut<T>(bytes: &mut [u8], offset: usize, count: usize) -> Result<&mut [T]>
where
    T: FromBytes + IntoBytes + Unaligned,
{
    let place = bytes.get_mut(offset..).ok_or_else(too_short)?;
    let (structures, _) =
        <[T]>::mut_from_prefix_with_elems(place, count).map_err(|_| too_short())?;
    Ok(structures)
}
