//! Which inodes are free, and who gets them: always the lowest.

use super::bitmap;
use super::checksum::Seal;
use super::error::{Error, Result, corrupt};
use super::filesystem::Filesystem;
use super::layout::gd;
use super::types::Ino;
use crate::format::block::BlockDevice;

impl<D: BlockDevice> Filesystem<D> {
    /// A group's inode bitmap, made if it was never written; the descriptor's count is
    /// corrected.
    fn inode_bitmap(&mut self, number: u32) -> Result<&[u8]> {
        let geometry = self.sb.geometry;
        let count = geometry.inodes_per_group as usize;
        let group = self.group(number)?;
        if group.flags & gd::INODE_UNINIT != 0 && self.sb.checksums.has_uninit() {
            let bits = self.cache.fresh(group.inode_bitmap, Seal::Plain)?;
            bitmap::fill(bits, count, geometry.block_size as usize * 8, true);
            let group = self.group_mut(number)?;
            group.flags &= !gd::INODE_UNINIT;
            group.bitmaps_changed = true;
            group.changed = true;
        }
        let bits = self.cache.read(group.inode_bitmap)?;
        if !group.inodes_counted {
            let free = bitmap::count_clear(bits, count);
            let group = self.group_mut(number)?;
            group.changed |= group.free_inodes != free;
            group.free_inodes = free;
            group.inodes_counted = true;
        }
        self.cache.read(group.inode_bitmap)
    }

    /// Takes the lowest free inode.
    pub(super) fn take_inode(&mut self, is_directory: bool) -> Result<Ino> {
        let geometry = self.sb.geometry;
        let per_group = geometry.inodes_per_group;
        for trust_counts in [true, false] {
            let from = if trust_counts {
                self.free_inodes_from
            } else {
                0
            };
            for number in from..geometry.groups {
                if trust_counts && self.group(number)?.free_inodes == 0 {
                    continue;
                }
                let first = if number == 0 {
                    geometry.first_inode - 1
                } else {
                    0
                };
                let bits = self.inode_bitmap(number)?;
                let bit = bitmap::find(bits, first as usize, per_group as usize, false) as u32;
                if bit < per_group {
                    if trust_counts {
                        self.free_inodes_from = number;
                    }
                    let ino = number * per_group + bit + 1;
                    self.mark_inode(ino, is_directory, true)?;
                    return Ok(ino);
                }
            }
        }
        Err(Error::NoInodes {
            disk: geometry.size(),
            inodes: geometry.inodes,
        })
    }

    /// Marks an inode used or free, which it was not.
    pub(super) fn mark_inode(&mut self, ino: Ino, is_directory: bool, used: bool) -> Result<()> {
        let geometry = self.sb.geometry;
        let index = ino - 1;
        let number = index / geometry.inodes_per_group;
        let bit = index % geometry.inodes_per_group;
        self.inode_bitmap(number)?;
        let place = self.group(number)?.inode_bitmap;
        let bits = self.cache.write(place, Seal::Plain)?;
        if !bitmap::put(bits, bit as usize, bit as usize + 1, used) {
            return corrupt(format!(
                "inode {ino} is {} already",
                if used { "used" } else { "free" }
            ));
        }
        let has_uninit = self.sb.checksums.has_uninit();
        let directories = u32::from(is_directory);
        let group = self.group_mut(number)?;
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
        if !used {
            self.free_inodes_from = self.free_inodes_from.min(number);
        }
        Ok(())
    }
}
