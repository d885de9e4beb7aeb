//! One inode in memory, with names for its fields.

use core::mem::offset_of;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, IntoBytes, transmute_mut, transmute_ref};

use super::checksum::Checksums;
use super::error::{Error, Result};
use super::layout::{
    BLOCK_MAP_LEN, INODE_BASE_LEN, InodeBase, InodeExtra, MODE_TYPE_MASK, inode_flags, join16,
    join32, join48, split16, split32, split48,
};
use super::types::{Attributes, FileType, Ino, Timestamp};
use crate::format::crc::crc32c;

/// An inode in memory.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    ino: Ino,
    base: InodeBase,
    /// What follows the oldest form: fields of [`InodeExtra`], then extended attributes.
    rest: Vec<u8>,
}

/// An inode's checksum: the high half is stored where there is room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct InodeChecksum {
    low: u16,
    high: Option<u16>,
}

impl Inode {
    /// An inode from its bytes on the disk, all of which are `raw`.
    pub(super) fn from_bytes(ino: Ino, raw: &[u8]) -> Result<Self> {
        let (base, rest) = InodeBase::read_from_prefix(raw)
            .map_err(|_| Error::Corrupt(format!("inode {ino} is cut off")))?;
        let rest = rest.to_vec();
        Ok(Self { ino, base, rest })
    }

    /// An inode of zeros, `size` bytes long, of which `extra_isize` bytes behind the oldest
    /// form are in use.
    pub(super) fn new(ino: Ino, size: u16, extra_isize: u16) -> Self {
        let mut rest = vec![0; usize::from(size).saturating_sub(INODE_BASE_LEN)];
        if let Ok((extra, _)) = InodeExtra::mut_from_prefix(&mut rest) {
            extra.extra_isize.set(extra_isize);
        }
        let base = InodeBase::new_zeroed();
        Self { ino, base, rest }
    }

    /// Writes the inode to its place, which is as long as the inode.
    pub(super) fn store(&self, place: &mut [u8]) {
        let (base, rest) = place.split_at_mut(INODE_BASE_LEN);
        base.copy_from_slice(self.base.as_bytes());
        rest.copy_from_slice(&self.rest);
    }

    pub(super) fn ino(&self) -> Ino {
        self.ino
    }

    pub(super) fn mode(&self) -> u16 {
        self.base.mode.get()
    }

    /// The type; `None` where the mode names none.
    pub(super) fn file_type(&self) -> Option<FileType> {
        match self.mode() & MODE_TYPE_MASK {
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
        self.base.mode.set(self.mode() & !MODE_TYPE_MASK | bits);
    }

    pub(super) fn is_directory(&self) -> bool {
        self.file_type() == Some(FileType::Directory)
    }

    pub(super) fn uid(&self) -> u32 {
        join16(self.base.uid_lo, self.base.uid_hi)
    }

    pub(super) fn gid(&self) -> u32 {
        join16(self.base.gid_lo, self.base.gid_hi)
    }

    pub(super) fn size(&self) -> u64 {
        join32(self.base.size_lo, self.base.size_hi)
    }

    pub(super) fn set_size(&mut self, size: u64) {
        (self.base.size_lo, self.base.size_hi) = split32(size);
    }

    pub(super) fn links(&self) -> u16 {
        self.base.links_count.get()
    }

    pub(super) fn set_links(&mut self, links: u16) {
        self.base.links_count.set(links);
    }

    pub(super) fn has_flag(&self, flag: u32) -> bool {
        self.base.flags.get() & flag != 0
    }

    pub(super) fn set_flag(&mut self, flag: u32, value: bool) {
        if value {
            self.base.flags |= flag;
        } else {
            self.base.flags &= !flag;
        }
    }

    pub(super) fn has_extents(&self) -> bool {
        self.has_flag(inode_flags::EXTENTS)
    }

    /// `i_block`: a short link's target, a device's number, or where the data is.
    pub(super) fn block(&self) -> &[u8; BLOCK_MAP_LEN] {
        &self.base.block
    }

    pub(super) fn block_mut(&mut self) -> &mut [u8; BLOCK_MAP_LEN] {
        &mut self.base.block
    }

    /// `i_block` as numbers.
    pub(super) fn block_map(&self) -> &[U32; BLOCK_MAP_LEN / 4] {
        transmute_ref!(&self.base.block)
    }

    /// The stored count of blocks: in sectors, or filesystem blocks with the flag
    /// `HUGE_FILE`.
    pub(super) fn blocks(&self) -> u64 {
        join48(self.base.blocks_lo, self.base.blocks_hi)
    }

    /// What the inode takes on the disk, in sectors of 512 bytes.
    pub(super) fn sectors(&self, block_size: u32) -> u64 {
        if self.has_flag(inode_flags::HUGE_FILE) {
            self.blocks().saturating_mul(u64::from(block_size) / 512)
        } else {
            self.blocks()
        }
    }

    pub(super) fn set_blocks(&mut self, blocks: u64) {
        (self.base.blocks_lo, self.base.blocks_hi) = split48(blocks);
    }

    /// The block with extended attributes; 0 for none.
    pub(super) fn xattr_block(&self) -> u64 {
        join48(self.base.file_acl_lo, self.base.file_acl_hi)
    }

    pub(super) fn set_xattr_block(&mut self, block: u64) {
        (self.base.file_acl_lo, self.base.file_acl_hi) = split48(block);
    }

    fn extra(&self) -> Option<&InodeExtra> {
        InodeExtra::ref_from_prefix(&self.rest)
            .ok()
            .map(|(extra, _)| extra)
    }

    /// Bytes behind the oldest form that are in use.
    fn extra_isize(&self) -> usize {
        let stored = self.extra().map_or(0, |extra| extra.extra_isize.get());
        let stored = usize::from(stored);
        if stored.is_multiple_of(4) && stored <= self.rest.len() {
            stored
        } else {
            0
        }
    }

    fn xattr_start(&self) -> Option<usize> {
        let start = self.extra_isize();
        (start > 0 && start + 4 + 4 <= self.rest.len()).then_some(start)
    }

    /// The inode's room for extended attributes.
    pub(super) fn xattr_area(&self) -> Option<&[u8]> {
        self.rest.get(self.xattr_start()?..)
    }

    pub(super) fn xattr_area_mut(&mut self) -> Option<&mut [u8]> {
        let start = self.xattr_start()?;
        self.rest.get_mut(start..)
    }

    pub(super) fn mtime(&self) -> Timestamp {
        let offset = offset_of!(InodeExtra, mtime_extra);
        self.time(self.base.mtime, offset, |extra| extra.mtime_extra)
    }

    pub(super) fn atime(&self) -> Timestamp {
        let offset = offset_of!(InodeExtra, atime_extra);
        self.time(self.base.atime, offset, |extra| extra.atime_extra)
    }

    pub(super) fn ctime(&self) -> Timestamp {
        let offset = offset_of!(InodeExtra, ctime_extra);
        self.time(self.base.ctime, offset, |extra| extra.ctime_extra)
    }

    /// A time of which `extra`, if it is in use, has the nanoseconds and two more bits.
    fn time(&self, base: U32, offset: usize, extra: impl Fn(&InodeExtra) -> U32) -> Timestamp {
        let has_extra = self.extra_isize() >= offset + 4;
        let more = match self.extra() {
            Some(fields) if has_extra => extra(fields).get(),
            _ => 0,
        };
        let nanos = more >> 2;
        Timestamp {
            secs: i64::from(base.get().cast_signed()) + (i64::from(more & 3) << 32),
            nanos: if nanos < 1_000_000_000 { nanos } else { 0 },
        }
    }

    /// Sets mode, owner and times.
    pub(super) fn set_attributes(&mut self, attributes: &Attributes) {
        let mode = self.mode() & MODE_TYPE_MASK | attributes.mode & !MODE_TYPE_MASK;
        self.base.mode.set(mode);
        (self.base.uid_lo, self.base.uid_hi) = split16(attributes.uid);
        (self.base.gid_lo, self.base.gid_hi) = split16(attributes.gid);

        let time = attributes.mtime;
        let in_use = self.extra_isize();
        let has_extra = |offset: usize| in_use >= offset + 4;
        // An inode without room for them has no extra fields in use.
        let mut none = InodeExtra::new_zeroed();
        let extra = match InodeExtra::mut_from_prefix(&mut self.rest) {
            Ok((extra, _)) => extra,
            Err(_) => &mut none,
        };
        let base = &mut self.base;
        let has_atime = has_extra(offset_of!(InodeExtra, atime_extra));
        set_time(&mut base.atime, &mut extra.atime_extra, has_atime, time);
        let has_ctime = has_extra(offset_of!(InodeExtra, ctime_extra));
        set_time(&mut base.ctime, &mut extra.ctime_extra, has_ctime, time);
        let has_mtime = has_extra(offset_of!(InodeExtra, mtime_extra));
        set_time(&mut base.mtime, &mut extra.mtime_extra, has_mtime, time);
        if has_extra(offset_of!(InodeExtra, crtime_extra)) {
            set_time(&mut extra.crtime, &mut extra.crtime_extra, true, time);
        }
    }

    /// A device's major and minor number.
    pub(super) fn device(&self) -> (u32, u32) {
        let [old, new, ..] = self.block_map().map(U32::get);
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
        let map: &mut [U32; BLOCK_MAP_LEN / 4] = transmute_mut!(&mut self.base.block);
        map[0].set(old);
        map[1].set(new);
    }

    /// The seed of checksums of the inode and its blocks; 0 where there are none.
    pub(super) fn checksum_seed(&self, checksums: Checksums) -> u32 {
        match checksums.all() {
            Some(_) => checksums.inode_seed(self.ino, self.base.generation.get()),
            None => 0,
        }
    }

    fn checksum(&self, checksums: Checksums) -> Option<InodeChecksum> {
        const LOW: usize = offset_of!(InodeBase, checksum_lo);
        const HIGH: usize = offset_of!(InodeExtra, checksum_hi);
        checksums.all()?;
        let base = self.base.as_bytes();
        let crc = crc32c(self.checksum_seed(checksums), &base[..LOW]);
        let crc = crc32c(crc, &[0; 2]);
        let crc = crc32c(crc, &base[LOW + 2..]);
        let (Some(before), Some(high), Some(behind)) = (
            self.rest.get(..HIGH),
            self.rest.get(HIGH..HIGH + 2),
            self.rest.get(HIGH + 2..),
        ) else {
            let low = split16(crc).0.get();
            return Some(InodeChecksum { low, high: None });
        };
        let has_high = self.extra_isize() >= HIGH + 2;
        let crc = crc32c(crc, before);
        let crc = crc32c(crc, if has_high { &[0; 2] } else { high });
        let (low, high) = split16(crc32c(crc, behind));
        Some(InodeChecksum {
            low: low.get(),
            high: has_high.then_some(high.get()),
        })
    }

    /// Whether the checksum is right.
    pub(super) fn verify_checksum(&self, checksums: Checksums) -> bool {
        self.checksum(checksums).is_none_or(|crc| {
            let stored = self.extra().map(|extra| extra.checksum_hi.get());
            self.base.checksum_lo == crc.low && crc.high.is_none_or(|high| stored == Some(high))
        })
    }

    /// Stores the checksum.
    pub(super) fn update_checksum(&mut self, checksums: Checksums) {
        let Some(crc) = self.checksum(checksums) else {
            return;
        };
        self.base.checksum_lo.set(crc.low);
        if let Some(high) = crc.high
            && let Ok((extra, _)) = InodeExtra::mut_from_prefix(&mut self.rest)
        {
            extra.checksum_hi.set(high);
        }
    }
}

/// Stores a time in its two fields, the second of which may not be in use.
fn set_time(field: &mut U32, extra: &mut U32, has_extra: bool, time: Timestamp) {
    let earliest = i64::from(i32::MIN);
    let bits = if has_extra { 34 } else { 32 };
    let secs = time.secs.clamp(earliest, earliest + (1 << bits) - 1);
    *field = split32(secs.cast_unsigned()).0;
    if has_extra {
        let epoch = (secs - i64::from(field.get().cast_signed())) >> 32;
        let epoch = split32(epoch.cast_unsigned()).0.get() & 3;
        let nanos = if secs == time.secs { time.nanos } else { 0 };
        extra.set(nanos << 2 | epoch);
    }
}
