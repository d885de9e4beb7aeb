//! The superblock: read, and believed only where its numbers fit each other and the disk.

use super::checksum::{self, Checksums};
use super::error::{Error, Result, corrupt};
use super::layout::{
    FIRST_INODE, MAGIC, SUPERBLOCK_AT, SUPERBLOCK_LEN, compat, gd, get16, get32, incompat, ino,
    put16, put32, ro_compat, sb,
};
use crate::format::block::BlockDevice;
use crate::format::crc::crc32c;

/// Most groups that a filesystem may have here: 128 TiB with blocks of 4 KiB. It bounds what
/// opening takes of memory and time.
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
    /// Bytes of an inode: 128 to a block's.
    pub(super) inode_size: u16,
    /// Bytes of a group descriptor: 32, or 64 and more.
    pub(super) desc_size: u16,
    /// Blocks of the table of group descriptors, and what is kept for its growth.
    pub(super) gdt_blocks: u32,
    pub(super) reserved_gdt: u32,
}

impl Geometry {
    /// Blocks of a group's inode table.
    pub(super) fn table_blocks(&self) -> u64 {
        (u64::from(self.inodes_per_group) * u64::from(self.inode_size))
            .div_ceil(u64::from(self.block_size))
    }

    /// The first block of a group.
    pub(super) fn group_start(&self, group: u32) -> u64 {
        self.first_block + u64::from(group) * u64::from(self.blocks_per_group)
    }

    /// How many blocks a group has: the last may be short.
    pub(super) fn group_blocks(&self, group: u32) -> u32 {
        let rest = self.blocks.saturating_sub(self.group_start(group));
        rest.min(u64::from(self.blocks_per_group)) as u32
    }

    /// The group of a block that is in some group.
    pub(super) fn group_of(&self, block: u64) -> u32 {
        ((block - self.first_block) / u64::from(self.blocks_per_group)) as u32
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
        self.blocks * u64::from(self.block_size)
    }
}

/// The superblock as it is stored, with what it means.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub(super) raw: [u8; SUPERBLOCK_LEN],
    pub(super) geometry: Geometry,
    pub(super) checksums: Checksums,
}

impl Superblock {
    /// Reads the disk's superblock.
    pub(super) fn read<D: BlockDevice>(device: &D) -> Result<Self> {
        let size = device.size();
        if size < SUPERBLOCK_AT + SUPERBLOCK_LEN as u64 {
            return Err(Error::NotExt4(format!("it has {size} bytes")));
        }
        let mut raw = [0; SUPERBLOCK_LEN];
        device.read_at(SUPERBLOCK_AT, &mut raw)?;
        Self::parse(&raw, size)
    }

    /// Checks a superblock against itself and a disk of `size` bytes.
    pub(super) fn parse(raw: &[u8; SUPERBLOCK_LEN], size: u64) -> Result<Self> {
        let magic = get16(raw, sb::MAGIC);
        if magic != MAGIC {
            return Err(Error::NotExt4(format!(
                "its magic is {magic:#06x}, not {MAGIC:#06x}"
            )));
        }
        check_features(raw)?;
        let checksums = checksums(raw);
        if checksums.all().is_some() && get32(raw, sb::CHECKSUM) != checksum::superblock(raw) {
            return corrupt("the superblock does not have its checksum");
        }
        if get32(raw, sb::LAST_ORPHAN) != 0 {
            return Err(Error::Unsupported(
                "orphaned inodes (it was not unmounted; run e2fsck)".into(),
            ));
        }
        Ok(Self {
            geometry: geometry(raw, size)?,
            raw: *raw,
            checksums,
        })
    }

    pub(super) fn compat(&self) -> u32 {
        get32(&self.raw, sb::COMPAT)
    }

    pub(super) fn incompat(&self) -> u32 {
        get32(&self.raw, sb::INCOMPAT)
    }

    pub(super) fn ro_compat(&self) -> u32 {
        get32(&self.raw, sb::RO_COMPAT)
    }

    /// Turns a feature on, as the kernel does when a file first needs it.
    pub(super) fn require(&mut self, field: usize, feature: u32) {
        let features = get32(&self.raw, field);
        put32(&mut self.raw, field, features | feature);
    }

    /// Whether a group has a copy of superblock and descriptors.
    pub(super) fn has_copy(&self, group: u32) -> bool {
        if group == 0 {
            return true;
        }
        if self.compat() & compat::SPARSE_SUPER2 != 0 {
            return (0..2).any(|n| get32(&self.raw, sb::BACKUP_GROUPS + n * 4) == group);
        }
        group == 1
            || self.ro_compat() & ro_compat::SPARSE_SUPER == 0
            || [3, 5, 7].iter().any(|base| is_power(group, *base))
    }

    /// Bytes behind an inode's oldest form that new inodes use.
    pub(super) fn extra_isize(&self) -> u16 {
        let room = self.geometry.inode_size as usize - ino::SIZE_BASE;
        let wanted = get16(&self.raw, sb::WANT_EXTRA_ISIZE).max(ino::EXTRA) & !3;
        if usize::from(wanted) <= room {
            wanted
        } else if room >= usize::from(ino::EXTRA) {
            ino::EXTRA
        } else {
            0
        }
    }

    pub(super) fn set_free(&mut self, blocks: u64, inodes: u32) {
        put32(&mut self.raw, sb::FREE_BLOCKS, blocks as u32);
        if self.incompat() & incompat::BITS_64 != 0 {
            put32(&mut self.raw, sb::FREE_BLOCKS_HI, (blocks >> 32) as u32);
        }
        put32(&mut self.raw, sb::FREE_INODES, inodes);
    }

    pub(super) fn seal(&mut self) {
        if self.checksums.all().is_some() {
            let crc = checksum::superblock(&self.raw);
            put32(&mut self.raw, sb::CHECKSUM, crc);
        }
    }

    /// The copy for a group.
    pub(super) fn copy_for(&self, group: u32) -> Self {
        let mut copy = self.clone();
        put16(&mut copy.raw, sb::GROUP, group as u16);
        copy.seal();
        copy
    }
}

fn is_power(number: u32, base: u32) -> bool {
    let mut power = base;
    while power < number {
        power = power.saturating_mul(base);
    }
    power == number
}

fn check_features(raw: &[u8]) -> Result<()> {
    let name = |missing: u32, names: &[(u32, &str)]| {
        let known: Vec<&str> = names
            .iter()
            .filter(|(bit, _)| missing & bit != 0)
            .map(|(_, name)| *name)
            .collect();
        if known.is_empty() {
            format!("unknown features {missing:#x}")
        } else {
            format!("the feature {}", known.join(", "))
        }
    };
    let missing = get32(raw, sb::INCOMPAT) & !incompat::SUPPORTED;
    if missing & incompat::RECOVER != 0 {
        return Err(Error::Unsupported(
            "a journal to be replayed (needs_recovery; run e2fsck)".into(),
        ));
    }
    if missing != 0 {
        return Err(Error::Unsupported(name(missing, &incompat::NAMES)));
    }
    let missing = get32(raw, sb::RO_COMPAT) & !ro_compat::SUPPORTED;
    if missing != 0 {
        return Err(Error::Unsupported(name(missing, &ro_compat::NAMES)));
    }
    if get32(raw, sb::RO_COMPAT) & ro_compat::METADATA_CSUM != 0 && raw[sb::CHECKSUM_TYPE] != 1 {
        let kind = raw[sb::CHECKSUM_TYPE];
        return Err(Error::Unsupported(format!("checksums of type {kind}")));
    }
    Ok(())
}

fn checksums(raw: &[u8]) -> Checksums {
    let features = get32(raw, sb::RO_COMPAT);
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&raw[sb::UUID..sb::UUID + 16]);
    if features & ro_compat::METADATA_CSUM != 0 {
        Checksums::All(if get32(raw, sb::INCOMPAT) & incompat::CSUM_SEED != 0 {
            get32(raw, sb::CHECKSUM_SEED)
        } else {
            crc32c(!0, &uuid)
        })
    } else if features & ro_compat::GDT_CSUM != 0 {
        Checksums::Groups(uuid)
    } else {
        Checksums::None
    }
}

fn geometry(raw: &[u8], size: u64) -> Result<Geometry> {
    let log = get32(raw, sb::LOG_BLOCK_SIZE);
    if log > 2 {
        return Err(Error::Unsupported(format!(
            "blocks of 2^{} bytes",
            u64::from(log) + 10
        )));
    }
    let block_size = 1024_u32 << log;
    let is_64 = get32(raw, sb::INCOMPAT) & incompat::BITS_64 != 0;
    let high = if is_64 { get32(raw, sb::BLOCKS_HI) } else { 0 };
    let blocks = u64::from(get32(raw, sb::BLOCKS)) | u64::from(high) << 32;
    let first_block = u64::from(get32(raw, sb::FIRST_DATA_BLOCK));
    let blocks_per_group = get32(raw, sb::BLOCKS_PER_GROUP);
    let inodes_per_group = get32(raw, sb::INODES_PER_GROUP);
    let is_old = get32(raw, sb::REVISION) == 0;
    let (inode_size, first_inode) = if is_old {
        (ino::SIZE_BASE as u16, FIRST_INODE)
    } else {
        (get16(raw, sb::INODE_SIZE), get32(raw, sb::FIRST_INODE))
    };
    let desc_size = if is_64 {
        get16(raw, sb::DESC_SIZE)
    } else {
        gd::SIZE as u16
    };
    let bits = block_size * 8;
    let wrong = |what: &str| corrupt(format!("the superblock's {what} cannot be right"));

    if first_block != u64::from(log == 0) {
        return wrong("first data block");
    }
    if get32(raw, sb::LOG_CLUSTER_SIZE) != log && get32(raw, sb::LOG_CLUSTER_SIZE) != 0 {
        return wrong("cluster size");
    }
    if blocks_per_group == 0 || blocks_per_group > bits || !blocks_per_group.is_multiple_of(8) {
        return wrong("number of blocks in a group");
    }
    if inodes_per_group == 0 || inodes_per_group > bits || !inodes_per_group.is_multiple_of(8) {
        return wrong("number of inodes in a group");
    }
    if !inode_size.is_power_of_two()
        || usize::from(inode_size) < ino::SIZE_BASE
        || u32::from(inode_size) > block_size
    {
        return wrong("inode size");
    }
    if is_64
        && (usize::from(desc_size) < gd::SIZE_64
            || !desc_size.is_power_of_two()
            || u32::from(desc_size) > block_size)
    {
        return wrong("group descriptor size");
    }
    if blocks <= first_block + 1 {
        return wrong("number of blocks");
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
    let groups = groups as u32;
    let inodes = get32(raw, sb::INODES);
    if u64::from(groups) * u64::from(inodes_per_group) != u64::from(inodes) {
        return wrong("number of inodes");
    }
    if first_inode < FIRST_INODE || first_inode > inodes_per_group {
        return wrong("first inode");
    }
    let gdt_blocks = groups.div_ceil(block_size / u32::from(desc_size));
    let reserved_gdt = u32::from(get16(raw, sb::RESERVED_GDT));
    if reserved_gdt > block_size / 4 {
        return wrong("number of reserved descriptor blocks");
    }
    let front = first_block + 1 + u64::from(gdt_blocks);
    if front >= blocks || u64::from(gdt_blocks) >= u64::from(blocks_per_group) {
        return wrong("table of group descriptors");
    }
    Ok(Geometry {
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
