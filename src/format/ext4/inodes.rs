//! The inode allocator: the lowest free inode is taken.

use super::bitmap;
use super::checksum::ChecksumKind;
use super::error::{Error, Result, corrupt, narrow};
use super::layout::group_flags;
use super::types::Ino;
use super::volume::Volume;
use crate::format::block::BlockDevice;

/// A group's inode bitmap, built if it was never written. A wrong count of free inodes in the
/// descriptor is corrected.
fn group_bitmap<D: BlockDevice>(volume: &mut Volume<D>, number: u32) -> Result<&[u8]> {
    let geometry = *volume.geometry();
    let count = geometry.inodes_per_group as usize;
    let group = *volume.group(number)?;
    let has_uninit = volume.superblock().checksums().has_uninit();
    if group.flags & group_flags::INODE_UNINIT != 0 && has_uninit {
        let bits = volume.write_zeroed(group.inode_bitmap, ChecksumKind::None)?;
        bitmap::fill(bits, count, geometry.block_len() * 8, true);
        let group = volume.group_mut(number)?;
        group.flags &= !group_flags::INODE_UNINIT;
        group.bitmaps_changed = true;
        group.changed = true;
    }
    if !group.inodes_counted {
        let free = bitmap::count_clear(volume.read(group.inode_bitmap)?, count)?;
        let group = volume.group_mut(number)?;
        group.changed |= group.free_inodes != free;
        group.free_inodes = free;
        group.inodes_counted = true;
    }
    volume.read(group.inode_bitmap)
}

/// Takes the lowest free inode.
pub(super) fn allocate<D: BlockDevice>(volume: &mut Volume<D>, is_directory: bool) -> Result<Ino> {
    let geometry = *volume.geometry();
    let per_group = geometry.inodes_per_group;
    // Descriptors that count no free inodes may be wrong.
    for trust_counts in [true, false] {
        let from = if trust_counts {
            volume.cursors().inode_group()
        } else {
            0
        };
        for number in from..geometry.groups {
            if trust_counts && volume.group(number)?.free_inodes == 0 {
                continue;
            }
            let first = if number == 0 {
                geometry.first_inode - 1
            } else {
                0
            };
            let bits = group_bitmap(volume, number)?;
            let bit = bitmap::find(bits, first as usize, per_group as usize, false);
            let bit: u32 = narrow(bit)?;
            if bit < per_group {
                if trust_counts {
                    volume.cursors_mut().set_inode_group(number);
                }
                let ino = number * per_group + bit + 1;
                mark(volume, ino, is_directory, true)?;
                return Ok(ino);
            }
        }
    }
    Err(Error::NoInodes {
        disk: geometry.size(),
        inodes: geometry.inodes,
    })
}

/// Gives an inode back.
pub(super) fn free<D: BlockDevice>(
    volume: &mut Volume<D>,
    ino: Ino,
    is_directory: bool,
) -> Result<()> {
    mark(volume, ino, is_directory, false)?;
    let group = (ino - 1) / volume.geometry().inodes_per_group;
    let from = volume.cursors().inode_group().min(group);
    volume.cursors_mut().set_inode_group(from);
    Ok(())
}

/// Marks an inode as used that is free, or the other way round.
fn mark<D: BlockDevice>(
    volume: &mut Volume<D>,
    ino: Ino,
    is_directory: bool,
    used: bool,
) -> Result<()> {
    let geometry = *volume.geometry();
    let index = ino - 1;
    let number = index / geometry.inodes_per_group;
    let bit = index % geometry.inodes_per_group;
    group_bitmap(volume, number)?;
    let place = volume.group(number)?.inode_bitmap;
    let bits = volume.write(place, ChecksumKind::None)?;
    if !bitmap::put(bits, bit as usize, bit as usize + 1, used) {
        return corrupt(format!(
            "inode {ino} is {} already",
            if used { "used" } else { "free" }
        ));
    }
    let has_uninit = volume.superblock().checksums().has_uninit();
    let directories = u32::from(is_directory);
    let group = volume.group_mut(number)?;
    if used {
        group.free_inodes = group.free_inodes.saturating_sub(1);
        group.used_dirs = group.used_dirs.saturating_add(directories);
        if has_uninit {
            let behind = geometry.inodes_per_group - (bit + 1);
            group.unused_inodes = group.unused_inodes.min(behind);
        }
    } else {
        group.free_inodes = group.free_inodes.saturating_add(1);
        group.used_dirs = group.used_dirs.saturating_sub(directories);
    }
    group.bitmaps_changed = true;
    group.changed = true;
    Ok(())
}
