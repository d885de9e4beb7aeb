//! A new filesystem, as the reference's tools make it but for what would grow it later:
//! blocks of 4 KiB, inodes of 256 bytes, tables of sixteen groups together. Nothing random,
//! no clock, no `lost+found`.
//!
//! Inode tables and empty bitmaps are zeros that nobody writes. The other bitmaps follow from
//! the geometry: they come into being when they are needed, or with the first flush.

use super::bitmap;
use super::checksum::Seal;
use super::error::{Error, Result};
use super::filesystem::Filesystem;
use super::groups::Group;
use super::layout::{
    FIRST_INODE, MAGIC, ROOT, SUPERBLOCK_LEN, compat, gd, incompat, ino, put_split, put16, put32,
    ro_compat, sb,
};
use super::superblock::{Geometry, MAX_GROUPS, Superblock};
use super::types::{Attributes, FileType};
use crate::format::block::BlockDeviceMut;

const BLOCK: u64 = 4096;
const BLOCKS_PER_GROUP: u64 = 8 * BLOCK;
const INODE_SIZE: u64 = 256;
/// Groups whose tables lie together, as a power of two.
const LOG_FLEX: u8 = 4;
/// A last group with fewer blocks for files is left out.
const LEAST_IN_GROUP: u64 = 64;
/// The least that a disk must have, in bytes.
const LEAST: u64 = 1 << 20;

/// What can be chosen of a new filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatOptions {
    /// Bytes of disk for each inode.
    pub bytes_per_inode: u64,
}

impl Default for FormatOptions {
    fn default() -> Self {
        Self {
            bytes_per_inode: 16_384,
        }
    }
}

/// Where everything goes on a new disk.
#[derive(Debug, Clone)]
struct Plan {
    blocks: u64,
    groups: u32,
    gdt_blocks: u64,
    inodes_per_group: u32,
    /// Groups with copies of superblock and descriptors.
    copies: [u32; 2],
}

impl Plan {
    fn new(size: u64, options: &FormatOptions) -> Result<Self> {
        let most = MAX_GROUPS * BLOCKS_PER_GROUP * BLOCK;
        if size > most {
            return Err(Error::TooLarge { size, most });
        }
        let too_small = Error::TooSmall { size, least: LEAST };
        if size < LEAST {
            return Err(too_small);
        }
        let mut blocks = size / BLOCK;
        loop {
            let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
            if groups == 0 {
                return Err(too_small);
            }
            let last = groups as u32 - 1;
            let plan = Self {
                blocks,
                groups: groups as u32,
                gdt_blocks: (groups * gd::SIZE_64 as u64).div_ceil(BLOCK),
                inodes_per_group: inodes_per_group(
                    blocks * BLOCK / options.bytes_per_inode.max(BLOCK),
                    groups,
                ),
                copies: match groups {
                    1 => [0, 0],
                    2 => [1, 0],
                    _ => [1, last],
                },
            };
            let fits = |group| plan.front(group) + LEAST_IN_GROUP <= plan.group_blocks(group);
            if fits(last) && fits(last - last % (1 << LOG_FLEX)) {
                return Ok(plan);
            }
            blocks -= plan.group_blocks(last);
        }
    }

    fn group_blocks(&self, group: u32) -> u64 {
        (self.blocks - u64::from(group) * BLOCKS_PER_GROUP).min(BLOCKS_PER_GROUP)
    }

    fn has_copy(&self, group: u32) -> bool {
        group == 0 || self.copies.contains(&group)
    }

    fn table_blocks(&self) -> u64 {
        u64::from(self.inodes_per_group) * INODE_SIZE / BLOCK
    }

    /// Blocks of superblock and descriptors at a group's start.
    fn copy_blocks(&self, group: u32) -> u64 {
        if self.has_copy(group) {
            1 + self.gdt_blocks
        } else {
            0
        }
    }

    /// The first group of those whose tables lie with this one's, and how many they are.
    fn flex(&self, group: u32) -> (u32, u64) {
        let first = group - group % (1 << LOG_FLEX);
        let count = (self.groups - first).min(1 << LOG_FLEX);
        (first, u64::from(count))
    }

    /// Blocks in use at a group's start on an empty filesystem.
    fn front(&self, group: u32) -> u64 {
        let (first, count) = self.flex(group);
        let tables = if first == group {
            count * (2 + self.table_blocks())
        } else {
            0
        };
        self.copy_blocks(group) + tables
    }

    fn group(&self, number: u32) -> Group {
        let (first, count) = self.flex(number);
        let start = u64::from(first) * BLOCKS_PER_GROUP + self.copy_blocks(first);
        let place = u64::from(number - first);
        let reserved = if number == 0 { FIRST_INODE - 1 } else { 0 };
        Group {
            block_bitmap: start + place,
            inode_bitmap: start + count + place,
            inode_table: start + 2 * count + place * self.table_blocks(),
            free_blocks: (self.group_blocks(number) - self.front(number)) as u32,
            free_inodes: self.inodes_per_group - reserved,
            changed: true,
            ..Group::default()
        }
    }

    fn superblock(&self) -> [u8; SUPERBLOCK_LEN] {
        let mut raw = [0; SUPERBLOCK_LEN];
        for (at, value) in [
            (sb::INODES, self.inodes_per_group * self.groups),
            (sb::LOG_BLOCK_SIZE, 2),
            (sb::LOG_CLUSTER_SIZE, 2),
            (sb::BLOCKS_PER_GROUP, BLOCKS_PER_GROUP as u32),
            (sb::CLUSTERS_PER_GROUP, BLOCKS_PER_GROUP as u32),
            (sb::INODES_PER_GROUP, self.inodes_per_group),
            (sb::REVISION, 1),
            (sb::FIRST_INODE, FIRST_INODE),
            (
                sb::COMPAT,
                compat::EXT_ATTR | compat::DIR_INDEX | compat::SPARSE_SUPER2,
            ),
            (
                sb::INCOMPAT,
                incompat::FILETYPE | incompat::EXTENTS | incompat::BITS_64 | incompat::FLEX_BG,
            ),
            (
                sb::RO_COMPAT,
                ro_compat::LARGE_FILE
                    | ro_compat::HUGE_FILE
                    | ro_compat::DIR_NLINK
                    | ro_compat::EXTRA_ISIZE,
            ),
            // ACLs and user attributes, as mke2fs sets them.
            (sb::MOUNT_OPTIONS, 0xc),
            (sb::BACKUP_GROUPS, self.copies[0]),
            (sb::BACKUP_GROUPS + 4, self.copies[1]),
            (sb::FLAGS, sb::SIGNED_HASH),
        ] {
            put32(&mut raw, at, value);
        }
        for (at, value) in [
            (sb::MAGIC, MAGIC),
            // Unmounted cleanly; errors do not stop; no check after so many mounts.
            (sb::STATE, 1),
            (sb::ERRORS, 1),
            (sb::MAX_MOUNTS, u16::MAX),
            (sb::INODE_SIZE, INODE_SIZE as u16),
            (sb::DESC_SIZE, gd::SIZE_64 as u16),
            (sb::MIN_EXTRA_ISIZE, ino::EXTRA),
            (sb::WANT_EXTRA_ISIZE, ino::EXTRA),
        ] {
            put16(&mut raw, at, value);
        }
        put_split(&mut raw, sb::BLOCKS, sb::BLOCKS_HI, self.blocks);
        raw[sb::HASH_VERSION] = 1;
        raw[sb::LOG_GROUPS_PER_FLEX] = LOG_FLEX;
        raw
    }
}

/// So many that each block of a table is full, and all can be numbered.
fn inodes_per_group(inodes: u64, groups: u64) -> u32 {
    let per_block = BLOCK / INODE_SIZE;
    let wanted = inodes.div_ceil(groups).next_multiple_of(per_block);
    let most = (u64::from(u32::MAX) / groups).min(BLOCKS_PER_GROUP);
    wanted.min(most - most % per_block).max(per_block) as u32
}

/// What the bitmaps of a new filesystem are, until they are on the disk.
pub(super) struct Pristine(Plan);

impl Pristine {
    /// Fills a block of zeros, if it is a bitmap.
    pub(super) fn fill(&self, number: u64, block: &mut [u8]) -> bool {
        let group = (number / BLOCKS_PER_GROUP) as u32;
        if group >= self.0.groups {
            return false;
        }
        let (first, count) = self.0.flex(group);
        let start = u64::from(first) * BLOCKS_PER_GROUP + self.0.copy_blocks(first);
        let Some(place) = number.checked_sub(start).filter(|place| *place < 2 * count) else {
            return false;
        };
        let bits = BLOCKS_PER_GROUP as usize;
        if place < count {
            let group = first + place as u32;
            let blocks = self.0.group_blocks(group) as usize;
            bitmap::fill(block, 0, self.0.front(group) as usize, true);
            bitmap::fill(block, blocks, bits, true);
        } else {
            let group = first + (place - count) as u32;
            if group == 0 {
                bitmap::fill(block, 0, FIRST_INODE as usize - 1, true);
            }
            bitmap::fill(block, self.0.inodes_per_group as usize, bits, true);
        }
        true
    }

    /// All bitmaps, in the disk's order.
    pub(super) fn blocks(&self) -> impl Iterator<Item = u64> + '_ {
        let firsts = (0..self.0.groups).step_by(1 << LOG_FLEX);
        firsts.flat_map(|first| {
            let (_, count) = self.0.flex(first);
            let start = u64::from(first) * BLOCKS_PER_GROUP + self.0.copy_blocks(first);
            start..start + 2 * count
        })
    }
}

impl<D: BlockDeviceMut> Filesystem<D> {
    /// Makes a filesystem on all of `device`, with nothing in it but the root directory:
    /// 0755, of root, from 1970. What the device holds is made zero where the filesystem
    /// relies on it; the rest reaches it with the first flush.
    ///
    /// # Errors
    /// When the device is too small or too large, or fails.
    pub fn format(device: D, options: &FormatOptions) -> Result<Self> {
        let mut device = device;
        let plan = Plan::new(device.size(), options)?;
        for first in (0..plan.groups).step_by(1 << LOG_FLEX) {
            let (_, count) = plan.flex(first);
            let start = plan.group(first).block_bitmap;
            let length = count * (2 + plan.table_blocks());
            device.zero_at(start * BLOCK, length * BLOCK)?;
        }
        let superblock = Superblock::parse(&plan.superblock(), device.size())?;
        let groups = (0..plan.groups).map(|number| plan.group(number)).collect();
        let mut filesystem = Self::assemble(device, superblock, groups);
        filesystem.cache.start_from(Pristine(plan.clone()));

        let geometry = filesystem.sb.geometry;
        filesystem.fresh_tables(&geometry)?;
        filesystem.store_groups()?;
        filesystem.store_superblock()?;
        for group in (1..plan.groups).filter(|group| plan.has_copy(*group)) {
            filesystem.copy_tables(group)?;
        }

        let mut root = filesystem.new_inode(ROOT);
        root.set_type(FileType::Directory);
        root.set_links(2);
        root.set_attributes(&Attributes {
            mode: 0o755,
            ..Attributes::default()
        });
        filesystem.start_directory(&mut root, ROOT)?;
        filesystem.put_inode(&mut root)?;
        let group = filesystem.group_mut(0)?;
        group.used_dirs += 1;
        group.changed = true;
        Ok(filesystem)
    }

    /// Zeros for superblock and descriptors.
    fn fresh_tables(&mut self, geometry: &Geometry) -> Result<()> {
        for block in 0..=u64::from(geometry.gdt_blocks) {
            self.cache.fresh(block, Seal::Plain)?;
        }
        Ok(())
    }

    /// A copy of superblock and descriptors at a group's start.
    fn copy_tables(&mut self, group: u32) -> Result<()> {
        let geometry = self.sb.geometry;
        let start = geometry.group_start(group);
        let copy = self.sb.copy_for(group);
        let block = self.cache.fresh(start, Seal::Plain)?;
        // A copy is at its block's start; the first is behind the boot sector.
        block[..copy.raw.len()].copy_from_slice(&copy.raw);
        for block in 1..=u64::from(geometry.gdt_blocks) {
            let table = self.cache.read(block)?.to_vec();
            self.cache
                .fresh(start + block, Seal::Plain)?
                .copy_from_slice(&table);
        }
        Ok(())
    }
}
