//! The superblock, accepted only where its fields fit each other and the disk.

use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

use super::checksum::{self, Checksums};
use super::error::{Error, Result, corrupt, narrow};
use super::geometry::Geometry;
use super::layout::{
    INODE_BASE_LEN, InodeExtra, MAGIC, RawSuperblock, SUPERBLOCK_LEN, SUPERBLOCK_OFFSET, compat,
    incompat, join32, ro_compat, split16, split32, superblock_flags,
};
use crate::format::block::BlockDevice;
use crate::format::crc::crc32c;

/// The superblock as it is stored, with what it means.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    raw: RawSuperblock,
    geometry: Geometry,
    checksums: Checksums,
}

impl Superblock {
    /// Reads the disk's superblock.
    pub(super) fn read<D: BlockDevice>(device: &D) -> Result<Self> {
        let size = device.size();
        if size < SUPERBLOCK_OFFSET + SUPERBLOCK_LEN as u64 {
            return Err(Error::NotExt4(format!("it has {size} bytes")));
        }
        let mut raw = RawSuperblock::new_zeroed();
        device.read_at(SUPERBLOCK_OFFSET, raw.as_mut_bytes())?;
        Self::parse(raw, size)
    }

    /// Checks a superblock against itself and a disk of `size` bytes.
    pub(super) fn parse(raw: RawSuperblock, size: u64) -> Result<Self> {
        let magic = raw.magic.get();
        if magic != MAGIC {
            return Err(Error::NotExt4(format!(
                "its magic is {magic:#06x}, not {MAGIC:#06x}"
            )));
        }
        check_features(&raw)?;
        let checksums = checksums(&raw);
        if checksums.all().is_some() && raw.checksum != checksum::superblock(raw.as_bytes()) {
            return corrupt("the superblock's checksum is wrong");
        }
        if raw.last_orphan != 0 {
            return Err(Error::Unsupported(
                "orphaned inodes (it was not unmounted; run e2fsck)".into(),
            ));
        }
        Ok(Self {
            geometry: Geometry::new(&raw, size)?,
            raw,
            checksums,
        })
    }

    pub(super) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub(super) fn checksums(&self) -> Checksums {
        self.checksums
    }

    /// The bytes to be stored.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.raw.as_bytes()
    }

    pub(super) fn has_compat(&self, feature: u32) -> bool {
        self.raw.feature_compat.get() & feature != 0
    }

    pub(super) fn has_incompat(&self, feature: u32) -> bool {
        self.raw.feature_incompat.get() & feature != 0
    }

    pub(super) fn has_ro_compat(&self, feature: u32) -> bool {
        self.raw.feature_ro_compat.get() & feature != 0
    }

    /// Turns a compatible feature on, as the kernel does when a file first needs it.
    pub(super) fn add_compat(&mut self, feature: u32) {
        self.raw.feature_compat |= feature;
    }

    /// As [`add_compat`](Self::add_compat), an incompatible feature.
    pub(super) fn add_incompat(&mut self, feature: u32) {
        self.raw.feature_incompat |= feature;
    }

    /// As [`add_compat`](Self::add_compat), a read-only compatible feature.
    pub(super) fn add_ro_compat(&mut self, feature: u32) {
        self.raw.feature_ro_compat |= feature;
    }

    /// The hash that new directory indexes use.
    pub(super) fn default_hash_version(&self) -> u8 {
        self.raw.default_hash_version
    }

    /// Whether bytes of names above 127 are hashed as negative numbers.
    pub(super) fn has_signed_hashes(&self) -> bool {
        self.raw.flags.get() & superblock_flags::UNSIGNED_HASH == 0
    }

    pub(super) fn hash_seed(&self) -> [u32; 4] {
        self.raw.hash_seed.map(U32::get)
    }

    /// Whether a group has a copy of superblock and descriptors.
    pub(super) fn has_copy(&self, group: u32) -> bool {
        if group == 0 {
            return true;
        }
        if self.has_compat(compat::SPARSE_SUPER2) {
            return self.raw.backup_groups.iter().any(|copy| *copy == group);
        }
        group == 1
            || !self.has_ro_compat(ro_compat::SPARSE_SUPER)
            || [3, 5, 7].iter().any(|base| is_power(group, *base))
    }

    /// Bytes behind an inode's oldest form that new inodes use.
    pub(super) fn extra_isize(&self) -> Result<u16> {
        let ours: u16 = narrow(size_of::<InodeExtra>())?;
        let room = usize::from(self.geometry.inode_size) - INODE_BASE_LEN;
        let wanted = self.raw.want_extra_isize.get().max(ours) & !3;
        Ok(if usize::from(wanted) <= room {
            wanted
        } else if room >= usize::from(ours) {
            ours
        } else {
            0
        })
    }

    /// Free blocks and free inodes.
    pub(super) fn free(&self) -> (u64, u32) {
        let low = self.raw.free_blocks_count_lo;
        let blocks = if self.has_incompat(incompat::BITS_64) {
            join32(low, self.raw.free_blocks_count_hi)
        } else {
            u64::from(low.get())
        };
        (blocks, self.raw.free_inodes_count.get())
    }

    pub(super) fn set_free(&mut self, blocks: u64, inodes: u32) {
        let (low, high) = split32(blocks);
        self.raw.free_blocks_count_lo = low;
        if self.has_incompat(incompat::BITS_64) {
            self.raw.free_blocks_count_hi = high;
        }
        self.raw.free_inodes_count.set(inodes);
    }

    pub(super) fn update_checksum(&mut self) {
        if self.checksums.all().is_some() {
            let crc = checksum::superblock(self.raw.as_bytes());
            self.raw.checksum.set(crc);
        }
    }

    /// The copy for a group, of whose number the low 16 bits are stored.
    pub(super) fn copy_for(&self, group: u32) -> Self {
        let mut copy = self.clone();
        copy.raw.block_group = split16(group).0;
        copy.update_checksum();
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

fn check_features(raw: &RawSuperblock) -> Result<()> {
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
    let missing = raw.feature_incompat.get() & !incompat::SUPPORTED;
    if missing & incompat::RECOVER != 0 {
        return Err(Error::Unsupported(
            "a journal to be replayed (needs_recovery; run e2fsck)".into(),
        ));
    }
    if missing != 0 {
        return Err(Error::Unsupported(name(missing, &incompat::NAMES)));
    }
    let ro_features = raw.feature_ro_compat.get();
    let missing = ro_features & !ro_compat::SUPPORTED;
    if missing != 0 {
        return Err(Error::Unsupported(name(missing, &ro_compat::NAMES)));
    }
    let kind = raw.checksum_type;
    if ro_features & ro_compat::METADATA_CSUM != 0 && kind != 1 {
        return Err(Error::Unsupported(format!("checksums of type {kind}")));
    }
    Ok(())
}

fn checksums(raw: &RawSuperblock) -> Checksums {
    let features = raw.feature_ro_compat.get();
    if features & ro_compat::METADATA_CSUM != 0 {
        let has_seed = raw.feature_incompat.get() & incompat::CSUM_SEED != 0;
        Checksums::All(if has_seed {
            raw.checksum_seed.get()
        } else {
            crc32c(!0, &raw.uuid)
        })
    } else if features & ro_compat::GDT_CSUM != 0 {
        Checksums::Groups(raw.uuid)
    } else {
        Checksums::None
    }
}
