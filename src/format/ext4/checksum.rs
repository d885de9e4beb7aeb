//! Checksums of metadata (kernel, `Documentation/filesystems/ext4/checksums.rst`): CRC-32C
//! with `metadata_csum`, CRC-16 of group descriptors with the older `uninit_bg`.

use super::layout::{get16, get32, put32, sb};
use crate::format::crc::crc32c;

/// Bytes of the entry that hides a directory block's checksum.
pub(super) const DIR_TAIL: usize = 12;
const DIR_TAIL_TYPE: u8 = 0xde;
/// Bytes of an index block's.
pub(super) const INDEX_TAIL: usize = 8;

/// What kind of checksum a block carries. Those of directories and extents start from the
/// inode's seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seal {
    /// None in the block itself.
    Plain,
    /// A directory's block with entries.
    Entries(u32),
    /// A directory's block of its index.
    Index(u32),
    /// A block of an extent tree.
    Extents(u32),
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

    /// What checksums that belong to an inode start from.
    pub(super) fn inode_seed(self, ino: u32, generation: u32) -> u32 {
        let seed = self.all().unwrap_or_default();
        crc32c(crc32c(seed, &ino.to_le_bytes()), &generation.to_le_bytes())
    }

    /// The checksum of a group's descriptor; `None` where there is none.
    pub(super) fn descriptor(self, group: u32, raw: &[u8]) -> Option<u16> {
        use super::layout::gd;
        let (before, after) = (&raw[..gd::CHECKSUM], &raw[gd::CHECKSUM + 2..]);
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
                Some(crc32c(crc, after) as u16)
            }
        }
    }

    /// Puts a block's own checksum in it.
    pub(super) fn seal(self, block: &mut [u8], number: u64, seal: Seal) {
        if let Self::All(seed) = self
            && let Some((at, crc)) = block_checksum(seed, block, number, seal)
        {
            put32(block, at, crc);
        }
    }

    /// Whether a block's own checksum is right. A block that says of itself that its checksum
    /// is beyond its end does not have one, as in the kernel.
    pub(super) fn is_right(self, block: &[u8], number: u64, seal: Seal) -> bool {
        match self {
            Self::All(seed) => match block_checksum(seed, block, number, seal) {
                Some((at, crc)) => get32(block, at) == crc,
                None => seal == Seal::Plain,
            },
            _ => true,
        }
    }
}

/// Where a block's checksum is, and what it must be. `None` where there is no room for one.
fn block_checksum(seed: u32, block: &[u8], number: u64, seal: Seal) -> Option<(usize, u32)> {
    match seal {
        Seal::Plain => None,
        Seal::Entries(seed) => {
            let tail = block.len() - DIR_TAIL;
            Some((tail + 8, crc32c(seed, &block[..tail])))
        }
        Seal::Index(seed) => {
            let at = index_at(block);
            let limit = usize::from(get16(block, at));
            let count = usize::from(get16(block, at + 2));
            let tail = at + limit * 8;
            if count > limit || tail + INDEX_TAIL > block.len() {
                return None;
            }
            let crc = crc32c(seed, &block[..at + count * 8]);
            let crc = crc32c(crc, &block[tail..tail + 4]);
            Some((tail + 4, crc32c(crc, &[0; 4])))
        }
        Seal::Extents(seed) => {
            let tail = 12 + usize::from(get16(block, 4)) * 12;
            (tail + 4 <= block.len()).then(|| (tail, crc32c(seed, &block[..tail])))
        }
        Seal::Xattrs => {
            let crc = crc32c(seed, &number.to_le_bytes());
            let crc = crc32c(crc32c(crc, &block[..16]), &[0; 4]);
            Some((16, crc32c(crc, &block[20..])))
        }
    }
}

/// Where in an index block its limit and count are: behind the two entries of the directory
/// and the index's description, or behind the one entry that hides the block.
pub(super) fn index_at(block: &[u8]) -> usize {
    if get16(block, 4) == 12 { 32 } else { 8 }
}

/// Makes a directory block's tail, which reads as an entry of nothing.
pub(super) fn make_tail(block: &mut [u8]) {
    let tail = block.len() - DIR_TAIL;
    block[tail..].fill(0);
    block[tail + 4] = DIR_TAIL as u8;
    block[tail + 7] = DIR_TAIL_TYPE;
}

/// Whether a directory block ends in a tail.
pub(super) fn has_tail(block: &[u8]) -> bool {
    let tail = &block[block.len() - DIR_TAIL..];
    tail[..8] == [0, 0, 0, 0, DIR_TAIL as u8, 0, 0, DIR_TAIL_TYPE]
}

/// The superblock's checksum.
pub(super) fn superblock(raw: &[u8]) -> u32 {
    crc32c(!0, &raw[..sb::CHECKSUM])
}

/// The CRC-16 register after `data`; polynomial 0x8005, reflected (kernel, `lib/crc16.c`).
fn crc16(init: u16, data: &[u8]) -> u16 {
    data.iter().fold(init, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xa001 & 0_u16.wrapping_sub(crc & 1))
        })
    })
}
