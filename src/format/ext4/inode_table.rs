//! Inodes in the groups' tables.

use super::checksum::ChecksumKind;
use super::error::{Result, corrupt, narrow};
use super::inode::Inode;
use super::layout::{inode_flags, ro_compat};
use super::types::Ino;
use super::volume::Volume;
use crate::format::block::{BlockDevice, SECTOR};

/// An inode's block, and its place in it.
fn place<D: BlockDevice>(volume: &Volume<D>, ino: Ino) -> Result<(u64, usize)> {
    let geometry = volume.geometry();
    if ino == 0 || ino > geometry.inodes {
        return corrupt(format!(
            "there is no inode {ino}, the last is {}",
            geometry.inodes
        ));
    }
    let (group, index) = (
        (ino - 1) / geometry.inodes_per_group,
        (ino - 1) % geometry.inodes_per_group,
    );
    let offset = u64::from(index) * u64::from(geometry.inode_size);
    let block_size = u64::from(geometry.block_size);
    let block = volume.group(group)?.inode_table + offset / block_size;
    Ok((block, narrow(offset % block_size)?))
}

/// Reads an inode that is in use.
pub(super) fn read<D: BlockDevice>(volume: &mut Volume<D>, ino: Ino) -> Result<Inode> {
    let (block, at) = place(volume, ino)?;
    let size = usize::from(volume.geometry().inode_size);
    let checksums = volume.superblock().checksums();
    let inode = Inode::from_bytes(ino, &volume.read(block)?[at..at + size])?;
    if inode.links() == 0 || inode.file_type().is_none() {
        return corrupt(format!("inode {ino} has a name, and is not in use"));
    }
    if !inode.verify_checksum(checksums) {
        return corrupt(format!("the checksum of inode {ino} is wrong"));
    }
    Ok(inode)
}

/// A new inode, which is not in the table until it is written.
pub(super) fn new<D: BlockDevice>(volume: &Volume<D>, ino: Ino) -> Result<Inode> {
    let extra_isize = volume.superblock().extra_isize()?;
    Ok(Inode::new(ino, volume.geometry().inode_size, extra_isize))
}

/// Writes an inode with its checksum.
pub(super) fn write<D: BlockDevice>(volume: &mut Volume<D>, inode: &mut Inode) -> Result<()> {
    inode.update_checksum(volume.superblock().checksums());
    let (block, at) = place(volume, inode.ino())?;
    let size = usize::from(volume.geometry().inode_size);
    let table = volume.write(block, ChecksumKind::None)?;
    inode.store(&mut table[at..at + size]);
    Ok(())
}

/// Fills an inode's place with zeros.
pub(super) fn clear<D: BlockDevice>(volume: &mut Volume<D>, ino: Ino) -> Result<()> {
    let (block, at) = place(volume, ino)?;
    let size = usize::from(volume.geometry().inode_size);
    volume.write(block, ChecksumKind::None)?[at..at + size].fill(0);
    Ok(())
}

/// The seed of checksums of an inode's blocks.
pub(super) fn checksum_seed<D: BlockDevice>(volume: &Volume<D>, inode: &Inode) -> u32 {
    inode.checksum_seed(volume.superblock().checksums())
}

/// Filesystem blocks that an inode has, as it says.
fn counted_blocks<D: BlockDevice>(volume: &Volume<D>, inode: &Inode) -> u64 {
    let per_block = u64::from(volume.geometry().block_size) / SECTOR;
    let count = inode.blocks();
    if !volume.superblock().has_ro_compat(ro_compat::HUGE_FILE) {
        return (count & u64::from(u32::MAX)) / per_block;
    }
    if inode.has_flag(inode_flags::HUGE_FILE) {
        count
    } else {
        count / per_block
    }
}

/// Adds blocks to those that an inode says that it has, and subtracts others.
pub(super) fn count_blocks<D: BlockDevice>(
    volume: &mut Volume<D>,
    inode: &mut Inode,
    added: u64,
    removed: u64,
) {
    let count = (counted_blocks(volume, inode) + added).saturating_sub(removed);
    let sectors = count * (u64::from(volume.geometry().block_size) / SECTOR);
    let is_huge = sectors >> 48 != 0;
    if sectors >> 32 != 0 {
        volume.superblock_mut().add_ro_compat(ro_compat::HUGE_FILE);
    }
    inode.set_flag(inode_flags::HUGE_FILE, is_huge);
    inode.set_blocks(if is_huge { count } else { sectors });
}
