//! The sizes of a filesystem, validated against each other and the disk.

use super::error::{Error, Result, corrupt, narrow};
use super::layout::{FIRST_INODE, GroupDescriptor, GroupDescriptorHigh, INODE_BASE_LEN};
use super::layout::{RawSuperblock, incompat, join32};

/// Most groups of a filesystem: 128 TiB with blocks of 4 KiB. Bounds the memory and the time
/// that opening takes.
pub(super) const MAX_GROUPS: u64 = 1 << 20;

/// Numbers that were checked against each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Bytes of a block: 1024, 2048 or 4096.
    pub(super) block_size: u32,
    /// Blocks of the filesystem; all of them are on the disk.
    pub(super) blocks: u64,
    /// The block with the superblock: 1 with blocks of 1024 bytes, else 0.
    pub(super) first_block: u64,
    pub(super) blocks_per_group: u32,
    pub(super) inodes_per_group: u32,
    pub(super) groups: u32,
    pub(super) inodes: u32,
    /// The first inode that is not reserved.
    pub(super) first_inode: u32,
    /// Bytes of an inode: 128 up to a block's.
    pub(super) inode_size: u16,
    /// Bytes of a group descriptor: 32, or 64 and more.
    pub(super) desc_size: u16,
    /// Blocks of the table of group descriptors.
    pub(super) gdt_blocks: u32,
    /// Blocks behind that table that are reserved for its growth.
    pub(super) reserved_gdt: u32,
}

impl Geometry {
    /// Bytes of a block, for lengths in memory.
    pub(super) fn block_len(&self) -> usize {
        self.block_size as usize
    }

    /// Byte offset of a block.
    pub(super) fn offset(&self, block: u64) -> u64 {
        block * u64::from(self.block_size)
    }

    /// Blocks of a group's inode table.
    pub(super) fn table_blocks(&self) -> u64 {
        (u64::from(self.inodes_per_group) * u64::from(self.inode_size))
            .div_ceil(u64::from(self.block_size))
    }

    /// The first block of a group.
    pub(super) fn group_start(&self, group: u32) -> u64 {
        self.first_block + u64::from(group) * u64::from(self.blocks_per_group)
    }

    /// How many blocks a group has: the last may have fewer.
    pub(super) fn group_blocks(&self, group: u32) -> u32 {
        let rest = self.blocks.saturating_sub(self.group_start(group));
        u32::try_from(rest).map_or(self.blocks_per_group, |rest| {
            rest.min(self.blocks_per_group)
        })
    }

    /// The group of a block that is in some group.
    pub(super) fn group_of(&self, block: u64) -> Result<u32> {
        narrow((block - self.first_block) / u64::from(self.blocks_per_group))
    }

    /// Checks that blocks are on the disk, behind the first.
    pub(super) fn check(&self, what: &str, start: u64, count: u64) -> Result<()> {
        match start.checked_add(count) {
            Some(end) if start > self.first_block && end <= self.blocks => Ok(()),
            _ => corrupt(format!(
                "{what} at block {start}, {count} long, is outside the filesystem"
            )),
        }
    }

    /// Bytes of the filesystem.
    pub(super) fn size(&self) -> u64 {
        self.offset(self.blocks)
    }

    /// The geometry that a superblock describes, on a disk of `size` bytes.
    pub(super) fn new(raw: &RawSuperblock, size: u64) -> Result<Self> {
        let log = raw.log_block_size.get();
        if log > 2 {
            return Err(Error::Unsupported(format!(
                "blocks of 2^{} bytes",
                u64::from(log) + 10
            )));
        }
        let block_size = 1024_u32 << log;
        let is_64 = raw.feature_incompat.get() & incompat::BITS_64 != 0;
        let blocks = if is_64 {
            join32(raw.blocks_count_lo, raw.blocks_count_hi)
        } else {
            u64::from(raw.blocks_count_lo.get())
        };
        let first_block = u64::from(raw.first_data_block.get());
        let blocks_per_group = raw.blocks_per_group.get();
        let inodes_per_group = raw.inodes_per_group.get();
        let is_old = raw.revision == 0;
        let (inode_size, first_inode) = if is_old {
            (narrow(INODE_BASE_LEN)?, FIRST_INODE)
        } else {
            (raw.inode_size.get(), raw.first_inode.get())
        };
        let desc_size = if is_64 {
            raw.desc_size.get()
        } else {
            narrow(size_of::<GroupDescriptor>())?
        };
        let bits = block_size * 8;
        let invalid = |what: &str| corrupt(format!("the superblock's {what} is out of range"));

        if first_block != u64::from(log == 0) {
            return invalid("first data block");
        }
        if raw.log_cluster_size != log && raw.log_cluster_size != 0 {
            return invalid("cluster size");
        }
        if blocks_per_group == 0 || blocks_per_group > bits || !blocks_per_group.is_multiple_of(8) {
            return invalid("number of blocks in a group");
        }
        if inodes_per_group == 0 || inodes_per_group > bits || !inodes_per_group.is_multiple_of(8) {
            return invalid("number of inodes in a group");
        }
        if !inode_size.is_power_of_two()
            || usize::from(inode_size) < INODE_BASE_LEN
            || u32::from(inode_size) > block_size
        {
            return invalid("inode size");
        }
        let desc_size_64 = size_of::<GroupDescriptor>() + size_of::<GroupDescriptorHigh>();
        if is_64
            && (usize::from(desc_size) < desc_size_64
                || !desc_size.is_power_of_two()
                || u32::from(desc_size) > block_size)
        {
            return invalid("group descriptor size");
        }
        if blocks <= first_block + 1 {
            return invalid("number of blocks");
        }
        if blocks
            .checked_mul(u64::from(block_size))
            .is_none_or(|bytes| bytes > size)
        {
            return corrupt(format!(
                "it has {blocks} blocks of {block_size} bytes, and its disk {size} bytes"
            ));
        }
        let groups = (blocks - first_block).div_ceil(u64::from(blocks_per_group));
        if groups > MAX_GROUPS {
            return Err(Error::Unsupported(format!("{groups} groups of blocks")));
        }
        let groups: u32 = narrow(groups)?;
        let inodes = raw.inodes_count.get();
        if u64::from(groups) * u64::from(inodes_per_group) != u64::from(inodes) {
            return invalid("number of inodes");
        }
        if first_inode < FIRST_INODE || first_inode > inodes_per_group {
            return invalid("first inode");
        }
        let gdt_blocks = groups.div_ceil(block_size / u32::from(desc_size));
        let reserved_gdt = u32::from(raw.reserved_gdt_blocks.get());
        if reserved_gdt > block_size / 4 {
            return invalid("number of reserved descriptor blocks");
        }
        let front = first_block + 1 + u64::from(gdt_blocks);
        if front >= blocks || u64::from(gdt_blocks) >= u64::from(blocks_per_group) {
            return invalid("table of group descriptors");
        }
        Ok(Self {
            block_size,
            blocks,
            first_block,
            blocks_per_group,
            inodes_per_group,
            groups,
            inodes,
            first_inode,
            inode_size,
            desc_size,
            gdt_blocks,
            reserved_gdt,
        })
    }
}
