//! An open filesystem without its files: superblock, group descriptors, and metadata blocks.

use super::cache::{Cache, InitialContent};
use super::checksum::ChecksumKind;
use super::cursors::Cursors;
use super::error::{Result, corrupt, narrow};
use super::geometry::Geometry;
use super::group::{BitmapChecksums, Group};
use super::layout::SUPERBLOCK_OFFSET;
use super::superblock::Superblock;
use super::system_zone::SystemZone;
use crate::format::block::{BlockDevice, BlockDeviceMut};
use crate::format::crc::crc32c;

/// What all of a filesystem's structures are read from and written to.
pub(super) struct Volume<D> {
    cache: Cache<D>,
    superblock: Superblock,
    groups: Vec<Group>,
    system_zone: SystemZone,
    cursors: Cursors,
}

impl<D: BlockDevice> Volume<D> {
    /// Reads superblock and group descriptors of the filesystem on `device`.
    pub(super) fn open(device: D) -> Result<Self> {
        let superblock = Superblock::read(&device)?;
        let (geometry, checksums) = (*superblock.geometry(), superblock.checksums());
        let desc_size = usize::from(geometry.desc_size);
        let mut groups = Vec::with_capacity(geometry.groups as usize);
        let mut table = vec![0; geometry.block_len()];
        for block in 0..u64::from(geometry.gdt_blocks) {
            let place = geometry.first_block + 1 + block;
            device.read_at(geometry.offset(place), &mut table)?;
            for raw in table.chunks_exact(desc_size) {
                let number = narrow(groups.len())?;
                if number < geometry.groups {
                    groups.push(Group::parse(raw, number, &geometry, checksums)?);
                }
            }
        }
        Self::new(device, superblock, groups)
    }

    /// A volume of this superblock and these groups, of which the tables are on `device`.
    pub(super) fn new(device: D, superblock: Superblock, groups: Vec<Group>) -> Result<Self> {
        let geometry = superblock.geometry();
        Ok(Self {
            cache: Cache::new(device, geometry.block_size, superblock.checksums()),
            system_zone: SystemZone::new(&superblock, &groups)?,
            cursors: Cursors::new(geometry),
            groups,
            superblock,
        })
    }

    pub(super) fn device(&self) -> &D {
        self.cache.device()
    }

    pub(super) fn device_mut(&mut self) -> &mut D {
        self.cache.device_mut()
    }

    pub(super) fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    pub(super) fn superblock_mut(&mut self) -> &mut Superblock {
        &mut self.superblock
    }

    pub(super) fn geometry(&self) -> &Geometry {
        self.superblock.geometry()
    }

    /// Whether metadata blocks have checksums.
    pub(super) fn has_checksums(&self) -> bool {
        self.superblock.checksums().all().is_some()
    }

    /// The filesystem's own blocks.
    pub(super) fn system_zone(&self) -> &SystemZone {
        &self.system_zone
    }

    pub(super) fn cursors(&self) -> &Cursors {
        &self.cursors
    }

    pub(super) fn cursors_mut(&mut self) -> &mut Cursors {
        &mut self.cursors
    }

    pub(super) fn group(&self, number: u32) -> Result<&Group> {
        match self.groups.get(number as usize) {
            Some(group) => Ok(group),
            None => corrupt(format!("there is no group {number}")),
        }
    }

    /// A group to be changed: what `changed` does not mark is not stored.
    pub(super) fn group_mut(&mut self, number: u32) -> Result<&mut Group> {
        match self.groups.get_mut(number as usize) {
            Some(group) => Ok(group),
            None => corrupt(format!("there is no group {number}")),
        }
    }

    /// A block, whatever its checksum.
    pub(super) fn read(&mut self, block: u64) -> Result<&[u8]> {
        self.cache.read(block)
    }

    /// A block, of which the checksum is verified if it comes from the disk.
    pub(super) fn read_verified(&mut self, block: u64, kind: ChecksumKind) -> Result<&[u8]> {
        self.cache.read_verified(block, kind)
    }

    /// A block to be changed.
    pub(super) fn write(&mut self, block: u64, kind: ChecksumKind) -> Result<&mut [u8]> {
        self.cache.write(block, kind)
    }

    /// A block of zeros to be changed, without reading the disk.
    pub(super) fn write_zeroed(&mut self, block: u64, kind: ChecksumKind) -> Result<&mut [u8]> {
        self.cache.write_zeroed(block, kind)
    }

    /// Takes blocks from here, and not from the disk, until the first flush.
    pub(super) fn set_initial(&mut self, initial: Box<dyn InitialContent>) {
        self.cache.set_initial(initial);
    }

    /// Stores the superblock with the groups' counts in its block.
    pub(super) fn store_superblock(&mut self) -> Result<()> {
        let blocks = self.groups.iter().map(|group| u64::from(group.free_blocks));
        let inodes = self.groups.iter().map(|group| group.free_inodes);
        let (blocks, inodes) = (blocks.sum(), inodes.fold(0, u32::saturating_add));
        self.superblock.set_free(blocks, inodes);
        self.superblock.update_checksum();
        let block_size = u64::from(self.geometry().block_size);
        let at: usize = narrow(SUPERBLOCK_OFFSET % block_size)?;
        let number = SUPERBLOCK_OFFSET / block_size;
        let block = self.cache.write(number, ChecksumKind::None)?;
        let raw = self.superblock.as_bytes();
        block[at..at + raw.len()].copy_from_slice(raw);
        Ok(())
    }

    /// Stores the descriptors that changed in their blocks.
    pub(super) fn store_groups(&mut self) -> Result<()> {
        let geometry = *self.geometry();
        let checksums = self.superblock.checksums();
        let desc_size = usize::from(geometry.desc_size);
        let per_block = geometry.block_size / u32::from(geometry.desc_size);
        for number in 0..geometry.groups {
            let group = *self.group(number)?;
            if !group.changed {
                continue;
            }
            let bitmaps = match checksums.all().filter(|_| group.bitmaps_changed) {
                Some(seed) => Some(self.bitmap_checksums(&group, seed)?),
                None => None,
            };
            let block = geometry.first_block + 1 + u64::from(number / per_block);
            let at = (number % per_block) as usize * desc_size;
            let table = self.cache.write(block, ChecksumKind::None)?;
            group.store(&mut table[at..at + desc_size], number, bitmaps, checksums)?;
            let group = self.group_mut(number)?;
            group.changed = false;
            group.bitmaps_changed = false;
        }
        Ok(())
    }

    fn bitmap_checksums(&mut self, group: &Group, seed: u32) -> Result<BitmapChecksums> {
        let geometry = *self.geometry();
        let blocks = self.cache.read(group.block_bitmap)?;
        let blocks = crc32c(seed, &blocks[..geometry.blocks_per_group as usize / 8]);
        let inodes = self.cache.read(group.inode_bitmap)?;
        let inodes = crc32c(seed, &inodes[..geometry.inodes_per_group as usize / 8]);
        Ok(BitmapChecksums { blocks, inodes })
    }
}

impl<D: BlockDeviceMut> Volume<D> {
    /// Drops blocks that are no longer in use from memory and from the device.
    pub(super) fn discard(&mut self, start: u64, count: u64) -> Result<()> {
        self.cache.forget(start, count);
        let geometry = *self.geometry();
        let (at, length) = (geometry.offset(start), geometry.offset(count));
        self.cache.device_mut().discard_at(at, length)?;
        Ok(())
    }

    /// Writes the blocks that changed since the last flush, in the disk's order.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.store_groups()?;
        self.store_superblock()?;
        self.cache.flush()?;
        let geometry = *self.geometry();
        self.cursors.reset_blocks(&geometry);
        Ok(())
    }
}
