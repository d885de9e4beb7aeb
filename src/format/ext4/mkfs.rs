//! A new filesystem, as the reference's tools make it but for what would grow it later:
//! blocks of 4 KiB, inodes of 256 bytes, tables of sixteen groups together. Nothing random,
//! no clock, no `lost+found`.
//!
//! Inode tables and empty bitmaps are zeros that are not written. The other bitmaps follow
//! from the geometry: they are built when they are needed, or with the first flush.

use zerocopy::FromZeros;

use super::bitmap;
use super::cache::InitialContent;
use super::checksum::ChecksumKind;
use super::directory;
use super::error::{Error, Result, narrow};
use super::filesystem::Filesystem;
use super::geometry::MAX_GROUPS;
use super::group::Group;
use super::inode_table;
use super::layout::{
    FIRST_INODE, GroupDescriptor, GroupDescriptorHigh, InodeExtra, MAGIC, ROOT, RawSuperblock,
    compat, incompat, ro_compat, split32, superblock_flags,
};
use super::superblock::Superblock;
use super::types::{Attributes, FileType};
use super::volume::Volume;
use crate::format::block::{BlockDevice, BlockDeviceMut};

/// Bytes of a block.
const BLOCK: u64 = 4096;
const BLOCKS_PER_GROUP: u64 = 8 * BLOCK;
const INODE_SIZE: u64 = 256;
const DESCRIPTOR_SIZE: usize = size_of::<GroupDescriptor>() + size_of::<GroupDescriptorHigh>();
/// Groups whose tables lie together, as a power of two.
const LOG_FLEX: u8 = 4;
const FLEX_GROUPS: u32 = 1 << LOG_FLEX;
/// Blocks for files that the last group must have; else it is left out.
const MIN_LAST_GROUP_BLOCKS: u64 = 64;
/// Bytes of the smallest disk.
const MIN_DISK_BYTES: u64 = 1 << 20;

/// `state`: unmounted cleanly.
const STATE_CLEAN: u16 = 1;
/// `errors`: go on.
const ERRORS_CONTINUE: u16 = 1;
/// `max_mount_count`: no check after a number of mounts.
const NO_MOUNT_LIMIT: u16 = u16::MAX;
/// `default_mount_options`: user attributes and ACLs, as mke2fs sets them.
const MOUNT_OPTIONS: u32 = 0xc;
/// `default_hash_version`: half MD4.
const HALF_MD4: u8 = 1;

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

/// Groups whose tables lie together.
#[derive(Debug, Clone, Copy)]
struct Flex {
    first: u32,
    count: u32,
}

impl Plan {
    fn new(size: u64, options: &FormatOptions) -> Result<Self> {
        let most = MAX_GROUPS * BLOCKS_PER_GROUP * BLOCK;
        if size > most {
            return Err(Error::TooLarge { size, most });
        }
        let least = MIN_DISK_BYTES;
        let too_small = Error::TooSmall { size, least };
        if size < least {
            return Err(too_small);
        }
        let mut blocks = size / BLOCK;
        loop {
            let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
            let inodes = blocks * BLOCK / options.bytes_per_inode.max(BLOCK);
            let Some(last) = groups.checked_sub(1) else {
                return Err(too_small);
            };
            let last: u32 = narrow(last)?;
            let plan = Self {
                blocks,
                groups: narrow(groups)?,
                gdt_blocks: (groups * DESCRIPTOR_SIZE as u64).div_ceil(BLOCK),
                inodes_per_group: inodes_per_group(inodes, groups)?,
                copies: match groups {
                    1 => [0, 0],
                    2 => [1, 0],
                    _ => [1, last],
                },
            };
            let fits =
                |group| plan.used_blocks(group) + MIN_LAST_GROUP_BLOCKS <= plan.group_blocks(group);
            if fits(last) && fits(last - last % FLEX_GROUPS) {
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

    /// The groups whose tables lie with this one's.
    fn flex(&self, group: u32) -> Flex {
        let first = group - group % FLEX_GROUPS;
        let count = (self.groups - first).min(FLEX_GROUPS);
        Flex { first, count }
    }

    fn flexes(&self) -> impl Iterator<Item = Flex> + '_ {
        let firsts = (0..self.groups).step_by(FLEX_GROUPS as usize);
        firsts.map(|first| self.flex(first))
    }

    /// The block where the tables of groups begin: block bitmaps, inode bitmaps, inode tables.
    fn tables(&self, flex: Flex) -> u64 {
        u64::from(flex.first) * BLOCKS_PER_GROUP + self.copy_blocks(flex.first)
    }

    /// Blocks of those tables.
    fn tables_length(&self, flex: Flex) -> u64 {
        u64::from(flex.count) * (2 + self.table_blocks())
    }

    /// Blocks in use, all at a group's start, on an empty filesystem.
    fn used_blocks(&self, group: u32) -> u64 {
        let flex = self.flex(group);
        let tables = if flex.first == group {
            self.tables_length(flex)
        } else {
            0
        };
        self.copy_blocks(group) + tables
    }

    fn group(&self, number: u32) -> Result<Group> {
        let flex = self.flex(number);
        let (start, count) = (self.tables(flex), u64::from(flex.count));
        let place = u64::from(number - flex.first);
        let reserved = if number == 0 { FIRST_INODE - 1 } else { 0 };
        Ok(Group {
            block_bitmap: start + place,
            inode_bitmap: start + count + place,
            inode_table: start + 2 * count + place * self.table_blocks(),
            free_blocks: narrow(self.group_blocks(number) - self.used_blocks(number))?,
            free_inodes: self.inodes_per_group - reserved,
            changed: true,
            ..Group::default()
        })
    }

    fn superblock(&self) -> Result<RawSuperblock> {
        let mut raw = RawSuperblock::new_zeroed();
        raw.inodes_count.set(self.inodes_per_group * self.groups);
        (raw.blocks_count_lo, raw.blocks_count_hi) = split32(self.blocks);
        raw.log_block_size.set(2);
        raw.log_cluster_size.set(2);
        raw.blocks_per_group.set(narrow(BLOCKS_PER_GROUP)?);
        raw.clusters_per_group.set(narrow(BLOCKS_PER_GROUP)?);
        raw.inodes_per_group.set(self.inodes_per_group);
        raw.max_mount_count.set(NO_MOUNT_LIMIT);
        raw.magic.set(MAGIC);
        raw.state.set(STATE_CLEAN);
        raw.errors.set(ERRORS_CONTINUE);
        raw.revision.set(1);
        raw.first_inode.set(FIRST_INODE);
        raw.inode_size.set(narrow(INODE_SIZE)?);
        raw.feature_compat
            .set(compat::EXT_ATTR | compat::DIR_INDEX | compat::SPARSE_SUPER2);
        raw.feature_incompat
            .set(incompat::FILETYPE | incompat::EXTENTS | incompat::BITS_64 | incompat::FLEX_BG);
        raw.feature_ro_compat.set(
            ro_compat::LARGE_FILE
                | ro_compat::HUGE_FILE
                | ro_compat::DIR_NLINK
                | ro_compat::EXTRA_ISIZE,
        );
        raw.default_hash_version = HALF_MD4;
        raw.desc_size.set(narrow(DESCRIPTOR_SIZE)?);
        raw.default_mount_options.set(MOUNT_OPTIONS);
        raw.min_extra_isize.set(narrow(size_of::<InodeExtra>())?);
        raw.want_extra_isize.set(narrow(size_of::<InodeExtra>())?);
        raw.flags.set(superblock_flags::SIGNED_HASH);
        raw.log_groups_per_flex = LOG_FLEX;
        for (field, group) in raw.backup_groups.iter_mut().zip(self.copies) {
            field.set(group);
        }
        Ok(raw)
    }
}

/// Inodes of a group: so many that each block of a table is full, and that all inodes have a
/// number.
fn inodes_per_group(inodes: u64, groups: u64) -> Result<u32> {
    let per_block = BLOCK / INODE_SIZE;
    let wanted = inodes.div_ceil(groups).next_multiple_of(per_block);
    let most = (u64::from(u32::MAX) / groups).min(BLOCKS_PER_GROUP);
    narrow(wanted.min(most - most % per_block).max(per_block))
}

/// The bitmaps of a new filesystem.
struct InitialBitmaps(Plan);

impl InitialContent for InitialBitmaps {
    fn fill(&self, number: u64, block: &mut [u8]) -> Result<bool> {
        let Self(plan) = self;
        let group: u32 = narrow(number / BLOCKS_PER_GROUP)?;
        if group >= plan.groups {
            return Ok(false);
        }
        let flex = plan.flex(group);
        let Some(place) = number.checked_sub(plan.tables(flex)) else {
            return Ok(false);
        };
        let Some(place) = u32::try_from(place).ok().filter(|at| *at < 2 * flex.count) else {
            return Ok(false);
        };
        let bits = narrow(BLOCKS_PER_GROUP)?;
        if place < flex.count {
            let group = flex.first + place;
            bitmap::fill(block, 0, narrow(plan.used_blocks(group))?, true);
            bitmap::fill(block, narrow(plan.group_blocks(group))?, bits, true);
        } else {
            let group = flex.first + (place - flex.count);
            if group == 0 {
                bitmap::fill(block, 0, FIRST_INODE as usize - 1, true);
            }
            bitmap::fill(block, plan.inodes_per_group as usize, bits, true);
        }
        Ok(true)
    }

    fn blocks(&self) -> Vec<u64> {
        let Self(plan) = self;
        let bitmaps = plan.flexes().flat_map(|flex| {
            let start = plan.tables(flex);
            start..start + 2 * u64::from(flex.count)
        });
        bitmaps.collect()
    }
}

impl<D: BlockDeviceMut> Filesystem<D> {
    /// Makes a filesystem on all of `device`, with nothing in it but the root directory:
    /// 0755, of root, from 1970. The tables are zeroed on the device at once; all else is
    /// written with the first flush.
    ///
    /// # Errors
    /// When the device is too small or too large, or fails.
    pub fn format(device: D, options: &FormatOptions) -> Result<Self> {
        let mut device = device;
        let plan = Plan::new(device.size(), options)?;
        for flex in plan.flexes() {
            let (start, length) = (plan.tables(flex), plan.tables_length(flex));
            device.zero_at(start * BLOCK, length * BLOCK)?;
        }
        let superblock = Superblock::parse(plan.superblock()?, device.size())?;
        let groups = (0..plan.groups).map(|number| plan.group(number));
        let groups = groups.collect::<Result<Vec<_>>>()?;
        let mut volume = Volume::new(device, superblock, groups)?;
        volume.set_initial(Box::new(InitialBitmaps(plan.clone())));

        for block in 0..=u64::from(volume.geometry().gdt_blocks) {
            volume.write_zeroed(block, ChecksumKind::None)?;
        }
        volume.store_groups()?;
        volume.store_superblock()?;
        for group in (1..plan.groups).filter(|group| plan.has_copy(*group)) {
            copy_tables(&mut volume, group)?;
        }
        create_root(&mut volume)?;
        Ok(Self::from_volume(volume))
    }
}

/// A copy of superblock and descriptors at a group's start.
fn copy_tables<D: BlockDevice>(volume: &mut Volume<D>, group: u32) -> Result<()> {
    let geometry = *volume.geometry();
    let start = geometry.group_start(group);
    let copy = volume.superblock().copy_for(group);
    let block = volume.write_zeroed(start, ChecksumKind::None)?;
    // A copy is at its block's start; the first superblock is behind the boot sector.
    let raw = copy.as_bytes();
    block[..raw.len()].copy_from_slice(raw);
    for block in 1..=u64::from(geometry.gdt_blocks) {
        let table = volume.read(block)?.to_vec();
        volume
            .write_zeroed(start + block, ChecksumKind::None)?
            .copy_from_slice(&table);
    }
    Ok(())
}

fn create_root<D: BlockDevice>(volume: &mut Volume<D>) -> Result<()> {
    let mut root = inode_table::new(volume, ROOT)?;
    root.set_type(FileType::Directory);
    root.set_links(2);
    root.set_attributes(&Attributes {
        mode: 0o755,
        ..Attributes::default()
    });
    directory::start(volume, &mut root, ROOT)?;
    inode_table::write(volume, &mut root)?;
    let group = volume.group_mut(0)?;
    group.used_dirs += 1;
    group.changed = true;
    Ok(())
}
