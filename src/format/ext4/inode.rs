//! One inode as it is stored, with names for its fields.

use super::checksum::Seal;
use super::error::{Result, corrupt};
use super::filesystem::Filesystem;
use super::layout::{get_split, get16, get32, incompat, ino, put16, put32, ro_compat, sb};
use super::types::{Attributes, FileType, Ino, Timestamp};
use crate::format::block::BlockDevice;
use crate::format::crc::crc32c;

/// Bytes that `i_blocks` counts in.
const SECTOR: u64 = 512;

/// An inode in memory.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub(super) ino: Ino,
    pub(super) raw: Vec<u8>,
}

impl Inode {
    pub(super) fn mode(&self) -> u16 {
        get16(&self.raw, ino::MODE)
    }

    /// The type; `None` where the mode names none.
    pub(super) fn file_type(&self) -> Option<FileType> {
        match self.mode() & ino::TYPE_MASK {
            0o100_000 => Some(FileType::File),
            0o040_000 => Some(FileType::Directory),
            0o120_000 => Some(FileType::Symlink),
            0o020_000 => Some(FileType::CharDevice),
            0o060_000 => Some(FileType::BlockDevice),
            0o010_000 => Some(FileType::Fifo),
            0o140_000 => Some(FileType::Socket),
            _ => None,
        }
    }

    pub(super) fn set_type(&mut self, file_type: FileType) {
        let bits = match file_type {
            FileType::File => 0o100_000,
            FileType::Directory => 0o040_000,
            FileType::Symlink => 0o120_000,
            FileType::CharDevice => 0o020_000,
            FileType::BlockDevice => 0o060_000,
            FileType::Fifo => 0o010_000,
            FileType::Socket => 0o140_000,
        };
        let mode = self.mode() & !ino::TYPE_MASK | bits;
        put16(&mut self.raw, ino::MODE, mode);
    }

    pub(super) fn is_directory(&self) -> bool {
        self.file_type() == Some(FileType::Directory)
    }

    pub(super) fn uid(&self) -> u32 {
        u32::from(get16(&self.raw, ino::UID)) | u32::from(get16(&self.raw, ino::UID_HI)) << 16
    }

    pub(super) fn gid(&self) -> u32 {
        u32::from(get16(&self.raw, ino::GID)) | u32::from(get16(&self.raw, ino::GID_HI)) << 16
    }

    pub(super) fn size(&self) -> u64 {
        get_split(&self.raw, ino::SIZE, ino::SIZE_HI)
    }

    pub(super) fn set_size(&mut self, size: u64) {
        put32(&mut self.raw, ino::SIZE, size as u32);
        put32(&mut self.raw, ino::SIZE_HI, (size >> 32) as u32);
    }

    pub(super) fn links(&self) -> u16 {
        get16(&self.raw, ino::LINKS)
    }

    pub(super) fn set_links(&mut self, links: u16) {
        put16(&mut self.raw, ino::LINKS, links);
    }

    pub(super) fn flags(&self) -> u32 {
        get32(&self.raw, ino::FLAGS)
    }

    pub(super) fn set_flag(&mut self, flag: u32, value: bool) {
        let flags = if value {
            self.flags() | flag
        } else {
            self.flags() & !flag
        };
        put32(&mut self.raw, ino::FLAGS, flags);
    }

    pub(super) fn has_extents(&self) -> bool {
        self.flags() & ino::EXTENTS != 0
    }

    pub(super) fn is_indexed(&self) -> bool {
        self.flags() & ino::INDEX != 0
    }

    pub(super) fn generation(&self) -> u32 {
        get32(&self.raw, ino::GENERATION)
    }

    /// `i_block`: a short link's target, a device's number, or where the data is.
    pub(super) fn block(&self) -> &[u8] {
        &self.raw[ino::BLOCK..ino::BLOCK + ino::BLOCK_LEN]
    }

    pub(super) fn block_mut(&mut self) -> &mut [u8] {
        &mut self.raw[ino::BLOCK..ino::BLOCK + ino::BLOCK_LEN]
    }

    /// The block with extended attributes; 0 for none.
    pub(super) fn xattr_block(&self) -> u64 {
        u64::from(get32(&self.raw, ino::FILE_ACL))
            | u64::from(get16(&self.raw, ino::FILE_ACL_HI)) << 32
    }

    pub(super) fn set_xattr_block(&mut self, block: u64) {
        put32(&mut self.raw, ino::FILE_ACL, block as u32);
        put16(&mut self.raw, ino::FILE_ACL_HI, (block >> 32) as u16);
    }

    /// Bytes behind the oldest form that are in use.
    pub(super) fn extra_isize(&self) -> usize {
        if self.raw.len() <= ino::SIZE_BASE {
            return 0;
        }
        let extra = usize::from(get16(&self.raw, ino::EXTRA_ISIZE));
        if extra.is_multiple_of(4) && ino::SIZE_BASE + extra <= self.raw.len() {
            extra
        } else {
            0
        }
    }

    /// Where extended attributes in the inode are.
    pub(super) fn xattr_space(&self) -> Option<std::ops::Range<usize>> {
        let start = ino::SIZE_BASE + self.extra_isize();
        let has_room = self.extra_isize() > 0 && start + 4 + 4 <= self.raw.len();
        has_room.then_some(start..self.raw.len())
    }

    fn has_field(&self, end: usize) -> bool {
        ino::SIZE_BASE + self.extra_isize() >= end
    }

    pub(super) fn mtime(&self) -> Timestamp {
        let low = i64::from(get32(&self.raw, ino::MTIME).cast_signed());
        let extra = if self.has_field(ino::MTIME_EXTRA + 4) {
            get32(&self.raw, ino::MTIME_EXTRA)
        } else {
            0
        };
        Timestamp {
            secs: low + (i64::from(extra & 3) << 32),
            // What is no number of nanoseconds is none.
            nanos: Some(extra >> 2)
                .filter(|nanos| *nanos < 1_000_000_000)
                .unwrap_or(0),
        }
    }

    fn set_time(&mut self, at: usize, extra_at: usize, time: Timestamp) {
        let has_extra = self.has_field(extra_at + 4);
        let earliest = i64::from(i32::MIN);
        let latest = earliest
            + if has_extra {
                (1 << 34) - 1
            } else {
                (1 << 32) - 1
            };
        let secs = time.secs.clamp(earliest, latest);
        put32(&mut self.raw, at, secs as u32);
        if has_extra {
            let epoch = (secs - i64::from(secs as i32)) >> 32;
            let nanos = if secs == time.secs { time.nanos } else { 0 };
            put32(&mut self.raw, extra_at, nanos << 2 | epoch as u32 & 3);
        }
    }

    /// Sets mode, owner and times.
    pub(super) fn set_attributes(&mut self, attributes: &Attributes) {
        let mode = self.mode() & ino::TYPE_MASK | attributes.mode & !ino::TYPE_MASK;
        put16(&mut self.raw, ino::MODE, mode);
        put16(&mut self.raw, ino::UID, attributes.uid as u16);
        put16(&mut self.raw, ino::UID_HI, (attributes.uid >> 16) as u16);
        put16(&mut self.raw, ino::GID, attributes.gid as u16);
        put16(&mut self.raw, ino::GID_HI, (attributes.gid >> 16) as u16);
        for (at, extra_at) in [
            (ino::ATIME, ino::ATIME_EXTRA),
            (ino::CTIME, ino::CTIME_EXTRA),
            (ino::MTIME, ino::MTIME_EXTRA),
        ] {
            self.set_time(at, extra_at, attributes.mtime);
        }
        if self.has_field(ino::CRTIME_EXTRA + 4) {
            self.set_time(ino::CRTIME, ino::CRTIME_EXTRA, attributes.mtime);
        }
    }

    /// A device's major and minor number.
    pub(super) fn device(&self) -> (u32, u32) {
        let (old, new) = (get32(self.block(), 0), get32(self.block(), 4));
        if old != 0 {
            (old >> 8 & 0xff, old & 0xff)
        } else {
            (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00)
        }
    }

    /// Stores a device's number, in the old form where that holds it.
    pub(super) fn set_device(&mut self, major: u32, minor: u32) {
        let (old, new) = if major < 256 && minor < 256 {
            (major << 8 | minor, 0)
        } else {
            (0, minor & 0xff | major << 8 | (minor & !0xff) << 12)
        };
        put32(self.block_mut(), 0, old);
        put32(self.block_mut(), 4, new);
    }
}

impl<D: BlockDevice> Filesystem<D> {
    /// Where an inode is: its block, and its place in it.
    fn inode_place(&self, ino: Ino) -> Result<(u64, usize)> {
        let geometry = &self.sb.geometry;
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
        let block = self.group(group)?.inode_table + offset / block_size;
        Ok((block, (offset % block_size) as usize))
    }

    /// An inode that somebody uses.
    pub(super) fn inode(&mut self, ino: Ino) -> Result<Inode> {
        let (block, at) = self.inode_place(ino)?;
        let size = usize::from(self.sb.geometry.inode_size);
        let raw = self.cache.read(block)?[at..at + size].to_vec();
        let inode = Inode { ino, raw };
        if inode.links() == 0 || inode.file_type().is_none() {
            return corrupt(format!("inode {ino} is not in use, and has a name"));
        }
        if let Some((low, high)) = self.inode_checksum(&inode)
            && (get16(&inode.raw, ino::CHECKSUM) != low
                || high.is_some_and(|high| get16(&inode.raw, ino::CHECKSUM_HI) != high))
        {
            return corrupt(format!("inode {ino} does not have its checksum"));
        }
        Ok(inode)
    }

    /// An inode of which only the number is known; nothing reads it before it is stored.
    pub(super) fn new_inode(&self, ino: Ino) -> Inode {
        let mut raw = vec![0; usize::from(self.sb.geometry.inode_size)];
        let extra = self.sb.extra_isize();
        if extra > 0 {
            put16(&mut raw, ino::EXTRA_ISIZE, extra);
        }
        Inode { ino, raw }
    }

    /// Low half of an inode's checksum, and the high one where there is room for it.
    fn inode_checksum(&self, inode: &Inode) -> Option<(u16, Option<u16>)> {
        self.sb.checksums.all()?;
        let seed = self.inode_seed(inode);
        let raw = &inode.raw;
        let crc = crc32c(seed, &raw[..ino::CHECKSUM]);
        let crc = crc32c(crc, &[0; 2]);
        let crc = crc32c(crc, &raw[ino::CHECKSUM + 2..ino::SIZE_BASE]);
        if raw.len() == ino::SIZE_BASE {
            return Some((crc as u16, None));
        }
        let has_high = inode.extra_isize() >= 4;
        let crc = crc32c(crc, &raw[ino::SIZE_BASE..ino::CHECKSUM_HI]);
        let high = &raw[ino::CHECKSUM_HI..ino::CHECKSUM_HI + 2];
        let crc = crc32c(crc, if has_high { &[0; 2] } else { high });
        let crc = crc32c(crc, &raw[ino::CHECKSUM_HI + 2..]);
        Some((crc as u16, has_high.then_some((crc >> 16) as u16)))
    }

    /// What checksums of an inode's blocks start from.
    pub(super) fn inode_seed(&self, inode: &Inode) -> u32 {
        match self.sb.checksums.all() {
            Some(_) => self.sb.checksums.inode_seed(inode.ino, inode.generation()),
            None => 0,
        }
    }

    /// Stores an inode.
    pub(super) fn put_inode(&mut self, inode: &mut Inode) -> Result<()> {
        if let Some((low, high)) = self.inode_checksum(inode) {
            put16(&mut inode.raw, ino::CHECKSUM, low);
            if let Some(high) = high {
                put16(&mut inode.raw, ino::CHECKSUM_HI, high);
            }
        }
        let (block, at) = self.inode_place(inode.ino)?;
        let place = self.cache.write(block, Seal::Plain)?;
        place[at..at + inode.raw.len()].copy_from_slice(&inode.raw);
        Ok(())
    }

    /// Makes an inode's place in its table zero.
    pub(super) fn clear_inode(&mut self, ino: Ino) -> Result<()> {
        let (block, at) = self.inode_place(ino)?;
        let size = usize::from(self.sb.geometry.inode_size);
        self.cache.write(block, Seal::Plain)?[at..at + size].fill(0);
        Ok(())
    }

    /// Filesystem blocks that an inode takes, as it says.
    fn counted_blocks(&self, inode: &Inode) -> u64 {
        let low = u64::from(get32(&inode.raw, ino::BLOCKS));
        let per_block = u64::from(self.sb.geometry.block_size) / SECTOR;
        if self.sb.ro_compat() & ro_compat::HUGE_FILE == 0 {
            return low / per_block;
        }
        let count = low | u64::from(get16(&inode.raw, ino::BLOCKS_HI)) << 32;
        if inode.flags() & ino::HUGE_FILE != 0 {
            count
        } else {
            count / per_block
        }
    }

    /// Adds to the blocks that an inode takes, and subtracts.
    pub(super) fn count_blocks(&mut self, inode: &mut Inode, more: u64, less: u64) {
        let count = (self.counted_blocks(inode) + more).saturating_sub(less);
        let sectors = count * (u64::from(self.sb.geometry.block_size) / SECTOR);
        let is_huge = sectors >> 48 != 0;
        if sectors >> 32 != 0 {
            self.sb.require(sb::RO_COMPAT, ro_compat::HUGE_FILE);
        }
        inode.set_flag(ino::HUGE_FILE, is_huge);
        let stored = if is_huge { count } else { sectors };
        put32(&mut inode.raw, ino::BLOCKS, stored as u32);
        put16(&mut inode.raw, ino::BLOCKS_HI, (stored >> 32) as u16);
    }

    /// Makes sure that the superblock knows of extents.
    pub(super) fn require_extents(&mut self) {
        self.sb.require(sb::INCOMPAT, incompat::EXTENTS);
    }
}
