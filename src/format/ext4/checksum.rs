//! Checksums of metadata (kernel, `Documentation/filesystems/ext4/checksums.rst`): CRC-32C
//! with `metadata_csum`, CRC-16 of group descriptors with the older `uninit_bg`.

use core::mem::offset_of;

use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use super::layout::{
    DirectoryTail, ExtentHeader, ExtentTail, GroupDescriptor, IndexCount, IndexEntry, IndexTail,
    RawSuperblock, XattrBlockHeader, index_count_offset, split16,
};
use crate::format::crc::crc32c;

/// Where in a block its checksum is, and what it covers. Checksums of directories and extent
/// trees start from the inode's seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChecksumKind {
    /// The block has none.
    None,
    /// A block of a directory's entries.
    DirectoryEntries(u32),
    /// A block of a directory's index.
    DirectoryIndex(u32),
    /// A node of an extent tree.
    ExtentNode(u32),
    /// A block of extended attributes.
    Xattrs,
}

/// How the filesystem's checksums are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksums {
    None,
    /// Of group descriptors only, from the volume's id.
    Groups([u8; 16]),
    /// Of everything, from this seed.
    All(u32),
}

impl Checksums {
    /// The seed with `metadata_csum`.
    pub(super) fn all(self) -> Option<u32> {
        match self {
            Self::All(seed) => Some(seed),
            _ => None,
        }
    }

    /// Whether descriptors can say that bitmaps and tables are not initialized.
    pub(super) fn has_uninit(self) -> bool {
        self != Self::None
    }

    /// The seed of checksums that belong to an inode.
    pub(super) fn inode_seed(self, ino: u32, generation: u32) -> u32 {
        let seed = self.all().unwrap_or_default();
        crc32c(crc32c(seed, &ino.to_le_bytes()), &generation.to_le_bytes())
    }

    /// The checksum of a group's descriptor; `None` where there is none.
    pub(super) fn descriptor(self, group: u32, raw: &[u8]) -> Option<u16> {
        const AT: usize = offset_of!(GroupDescriptor, checksum);
        let (before, after) = (raw.get(..AT)?, raw.get(AT + 2..)?);
        match self {
            Self::None => None,
            Self::Groups(uuid) => {
                let crc = crc16(!0, &uuid);
                let crc = crc16(crc, &group.to_le_bytes());
                Some(crc16(crc16(crc, before), after))
            }
            Self::All(seed) => {
                let crc = crc32c(seed, &group.to_le_bytes());
                let crc = crc32c(crc32c(crc, before), &[0, 0]);
                Some(split16(crc32c(crc, after)).0.get())
            }
        }
    }

    /// Stores a block's own checksum in it.
    pub(super) fn update(self, block: &mut [u8], number: u64, kind: ChecksumKind) {
        if let Self::All(seed) = self
            && let Some((at, crc)) = block_checksum(seed, block, number, kind)
            && let Some(place) = block.get_mut(at..)
            && let Ok((field, _)) = U32::mut_from_prefix(place)
        {
            field.set(crc);
        }
    }

    /// Whether a block's own checksum is right. A block of which the header puts the checksum
    /// behind its end does not have one, as in the kernel.
    pub(super) fn verify(self, block: &[u8], number: u64, kind: ChecksumKind) -> bool {
        match self {
            Self::All(seed) => match block_checksum(seed, block, number, kind) {
                Some((at, crc)) => {
                    let stored = block.get(at..).map(U32::ref_from_prefix);
                    stored.is_some_and(|stored| stored.is_ok_and(|(stored, _)| *stored == crc))
                }
                None => kind == ChecksumKind::None,
            },
            _ => true,
        }
    }
}

/// Where a block's checksum is, and what it must be. `None` where there is no room for one.
fn block_checksum(
    seed: u32,
    block: &[u8],
    number: u64,
    kind: ChecksumKind,
) -> Option<(usize, u32)> {
    match kind {
        ChecksumKind::None => None,
        ChecksumKind::DirectoryEntries(seed) => {
            let tail = block.len().checked_sub(size_of::<DirectoryTail>())?;
            let at = tail + offset_of!(DirectoryTail, checksum);
            Some((at, crc32c(seed, &block[..tail])))
        }
        ChecksumKind::DirectoryIndex(seed) => {
            let start = index_count_offset(block);
            let (index, _) = IndexCount::ref_from_prefix(block.get(start..)?).ok()?;
            let (limit, count) = (index.limit.get(), index.count.get());
            let tail = start + usize::from(limit) * size_of::<IndexEntry>();
            if count > limit || tail + size_of::<IndexTail>() > block.len() {
                return None;
            }
            let end = start + usize::from(count) * size_of::<IndexEntry>();
            let at = tail + offset_of!(IndexTail, checksum);
            let crc = crc32c(seed, &block[..end]);
            let crc = crc32c(crc, &block[tail..at]);
            Some((at, crc32c(crc, &[0; 4])))
        }
        ChecksumKind::ExtentNode(seed) => {
            let (header, entries) = ExtentHeader::ref_from_prefix(block).ok()?;
            let length = usize::from(header.max.get()) * size_of::<ExtentHeader>();
            let has_room = length + size_of::<ExtentTail>() <= entries.len();
            let tail = size_of::<ExtentHeader>() + length;
            has_room.then(|| (tail, crc32c(seed, &block[..tail])))
        }
        ChecksumKind::Xattrs => {
            const AT: usize = offset_of!(XattrBlockHeader, checksum);
            let crc = crc32c(seed, &number.to_le_bytes());
            let crc = crc32c(crc32c(crc, block.get(..AT)?), &[0; 4]);
            Some((AT, crc32c(crc, block.get(AT + 4..)?)))
        }
    }
}

/// The superblock's checksum.
pub(super) fn superblock(raw: &[u8]) -> u32 {
    crc32c(!0, &raw[..offset_of!(RawSuperblock, checksum)])
}

/// The CRC-16 register after `data`; polynomial 0x8005, reflected (kernel, `lib/crc16.c`).
fn crc16(init: u16, data: &[u8]) -> u16 {
    data.iter().fold(init, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xa001 & 0_u16.wrapping_sub(crc & 1))
        })
    })
}
