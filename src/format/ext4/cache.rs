//! Metadata blocks in memory, with their content on the disk, to write back those that
//! changed.

use std::collections::HashMap;
use std::io;

use super::checksum::{ChecksumKind, Checksums};
use super::error::{Result, corrupt};
use crate::format::block::{BlockDevice, BlockDeviceMut};

/// Most unchanged blocks that are kept.
const MAX_CLEAN: usize = 4096;
/// Most changed blocks that are kept uncompressed: 64 MiB of blocks of 4 KiB.
const MAX_PLAIN: usize = 16_384;

/// Content of blocks that are not on the disk until they are first written, because it can be
/// computed.
pub(super) trait InitialContent: Send + Sync {
    /// Fills a block of zeros; `false` for a block of which the content is on the disk.
    fn fill(&self, number: u64, block: &mut [u8]) -> Result<bool>;

    /// Numbers of the blocks, in ascending order.
    fn blocks(&self) -> Vec<u64>;
}

/// A block's bytes, compressed when there are many: a layer of a million files changes more
/// metadata than should be in memory.
enum Bytes {
    Plain(Box<[u8]>),
    Packed(Box<[u8]>),
}

impl Bytes {
    fn pack(&mut self) {
        if let Self::Plain(plain) = self {
            let packed = lz4_flex::block::compress(plain);
            if packed.len() < plain.len() / 4 * 3 {
                *self = Self::Packed(packed.into());
            }
        }
    }

    fn unpack(packed: &[u8], size: usize) -> Result<Box<[u8]>> {
        let plain = lz4_flex::block::decompress(packed, size).map_err(io::Error::other)?;
        Ok(plain.into())
    }

    /// The `size` bytes, and whether they had to be unpacked.
    fn plain(&mut self, size: usize) -> Result<(&mut [u8], bool)> {
        let was_packed = match self {
            Self::Packed(packed) => {
                *self = Self::Plain(Self::unpack(packed, size)?);
                true
            }
            Self::Plain(_) => false,
        };
        match self {
            Self::Plain(plain) => Ok((plain, was_packed)),
            Self::Packed(_) => Err(io::Error::other("a block is still compressed").into()),
        }
    }

    fn is(&self, other: &[u8]) -> Result<bool> {
        match self {
            Self::Plain(plain) => Ok(**plain == *other),
            Self::Packed(packed) => Ok(*Self::unpack(packed, other.len())? == *other),
        }
    }
}

/// A block's content on the disk.
enum OnDisk {
    /// What is in memory.
    Same,
    Zero,
    Bytes(Bytes),
    /// It does not matter: the block must be written.
    Unknown,
}

struct Block {
    data: Bytes,
    on_disk: OnDisk,
    checksum: ChecksumKind,
    /// Used since blocks were last dropped or packed.
    used: bool,
}

impl Block {
    fn is_clean(&self) -> bool {
        matches!(self.on_disk, OnDisk::Same)
    }

    fn is_plain(&self) -> bool {
        matches!(self.data, Bytes::Plain(_))
    }

    fn pack(&mut self) {
        self.data.pack();
        if let OnDisk::Bytes(bytes) = &mut self.on_disk {
            bytes.pack();
        }
    }
}

/// The blocks. The map's order, which is random, decides nothing that can be seen.
pub(super) struct Cache<D> {
    device: D,
    block_size: u32,
    checksums: Checksums,
    blocks: HashMap<u64, Block>,
    initial: Option<Box<dyn InitialContent>>,
    /// At least as many as there are unchanged blocks.
    clean: usize,
    /// At least as many as there are changed blocks that are not packed.
    plain: usize,
    /// With so many of them, blocks are packed.
    max_plain: usize,
}

fn is_zero(data: &[u8]) -> bool {
    data.iter().all(|byte| *byte == 0)
}

impl<D: BlockDevice> Cache<D> {
    pub(super) fn new(device: D, block_size: u32, checksums: Checksums) -> Self {
        Self {
            device,
            block_size,
            checksums,
            blocks: HashMap::new(),
            initial: None,
            clean: 0,
            plain: 0,
            max_plain: MAX_PLAIN,
        }
    }

    pub(super) fn device(&self) -> &D {
        &self.device
    }

    pub(super) fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// Takes blocks from here, and not from the disk, until the first flush.
    pub(super) fn set_initial(&mut self, initial: Box<dyn InitialContent>) {
        self.initial = Some(initial);
    }

    fn zeros(&self) -> Box<[u8]> {
        vec![0; self.block_size as usize].into()
    }

    fn load(&mut self, number: u64) -> Result<()> {
        let mut data = self.zeros();
        let is_initial = match &self.initial {
            Some(initial) => initial.fill(number, &mut data)?,
            None => false,
        };
        let on_disk = if is_initial {
            self.plain += 1;
            OnDisk::Unknown
        } else {
            let at = number * u64::from(self.block_size);
            self.device.read_at(at, &mut data)?;
            self.clean += 1;
            OnDisk::Same
        };
        let block = Block {
            data: Bytes::Plain(data),
            on_disk,
            checksum: ChecksumKind::None,
            used: true,
        };
        self.blocks.insert(number, block);
        Ok(())
    }

    /// A block, loaded and unpacked.
    fn entry(&mut self, number: u64) -> Result<&mut Block> {
        let known = self.blocks.get(&number).map(Block::is_plain);
        if known != Some(true) {
            // Unpacking takes memory as loading does.
            self.make_room();
        }
        if known.is_none() {
            self.load(number)?;
        }
        let size = self.block_size as usize;
        let block = self.blocks.get_mut(&number).ok_or_else(not_cached)?;
        block.used = true;
        if block.data.plain(size)?.1 {
            self.plain += 1;
        }
        Ok(block)
    }

    /// Drops unchanged blocks and packs changed ones that were not used since the last time,
    /// and all of them if that is not enough.
    fn make_room(&mut self) {
        if self.clean >= MAX_CLEAN {
            self.blocks
                .retain(|_, block| !block.is_clean() || block.used);
            let clean = self.blocks.values_mut().filter(|block| block.is_clean());
            self.clean = clean.map(|block| block.used = false).count();
            if self.clean > MAX_CLEAN / 2 {
                self.blocks.retain(|_, block| !block.is_clean());
                self.clean = 0;
            }
        }
        if self.plain >= self.max_plain {
            self.pack(true);
            if self.plain > MAX_PLAIN / 2 {
                self.pack(false);
            }
            // Blocks that do not compress are not tried again at once.
            self.max_plain = MAX_PLAIN.max(self.plain + MAX_PLAIN / 2);
        }
    }

    /// Packs changed blocks: all, or those that were not used since the last time.
    fn pack(&mut self, only_unused: bool) {
        self.plain = 0;
        for block in self.blocks.values_mut().filter(|block| !block.is_clean()) {
            if !(only_unused && block.used) {
                block.pack();
            }
            block.used = false;
            self.plain += usize::from(block.is_plain());
        }
    }

    /// A block, whatever its checksum.
    pub(super) fn read(&mut self, number: u64) -> Result<&[u8]> {
        let size = self.block_size as usize;
        Ok(self.entry(number)?.data.plain(size)?.0)
    }

    /// A block, of which the checksum is verified if it comes from the disk.
    pub(super) fn read_verified(&mut self, number: u64, kind: ChecksumKind) -> Result<&[u8]> {
        let (checksums, size) = (self.checksums, self.block_size as usize);
        let block = self.entry(number)?;
        let is_new = block.is_clean() && block.checksum != kind;
        let (data, _) = block.data.plain(size)?;
        if is_new {
            if !checksums.verify(data, number, kind) {
                return corrupt(format!("the checksum of block {number} is wrong"));
            }
            block.checksum = kind;
        }
        Ok(data)
    }

    /// A block to be changed.
    pub(super) fn write(&mut self, number: u64, kind: ChecksumKind) -> Result<&mut [u8]> {
        let size = self.block_size as usize;
        let block = self.entry(number)?;
        let was_clean = block.is_clean();
        let (data, _) = block.data.plain(size)?;
        if was_clean {
            block.on_disk = if is_zero(data) {
                OnDisk::Zero
            } else {
                OnDisk::Bytes(Bytes::Plain(data.into()))
            };
        }
        block.checksum = kind;
        if was_clean {
            self.clean = self.clean.saturating_sub(1);
            self.plain += 1;
        }
        let block = self.blocks.get_mut(&number).ok_or_else(not_cached)?;
        Ok(block.data.plain(size)?.0)
    }

    /// A block of zeros to be changed, without reading the disk.
    pub(super) fn write_zeroed(&mut self, number: u64, kind: ChecksumKind) -> Result<&mut [u8]> {
        self.make_room();
        let block = Block {
            data: Bytes::Plain(self.zeros()),
            on_disk: OnDisk::Unknown,
            checksum: kind,
            used: true,
        };
        self.plain += 1;
        let size = self.block_size as usize;
        let entry = self.blocks.entry(number);
        Ok(entry.insert_entry(block).into_mut().data.plain(size)?.0)
    }

    /// Drops blocks that are no longer in use, changed or not.
    pub(super) fn forget(&mut self, start: u64, count: u64) {
        if count > self.blocks.len() as u64 {
            self.blocks
                .retain(|number, _| !(start..start + count).contains(number));
        } else {
            for number in start..start + count {
                self.blocks.remove(&number);
            }
        }
    }
}

impl<D: BlockDeviceMut> Cache<D> {
    /// Writes what changed, in the disk's order.
    pub(super) fn flush(&mut self) -> Result<()> {
        let changed = self.blocks.iter().filter(|(_, block)| !block.is_clean());
        let mut numbers: Vec<u64> = changed.map(|(number, _)| *number).collect();
        let initial = self.initial.take();
        if let Some(initial) = &initial {
            numbers.extend(initial.blocks());
        }
        numbers.sort_unstable();
        numbers.dedup();
        let mut scratch = self.zeros();
        for number in numbers {
            let at = number * u64::from(self.block_size);
            let Some(block) = self.blocks.get_mut(&number) else {
                if let Some(initial) = &initial {
                    scratch.fill(0);
                    initial.fill(number, &mut scratch)?;
                    put(&mut self.device, at, &scratch)?;
                }
                continue;
            };
            let (data, was_packed) = block.data.plain(scratch.len())?;
            self.checksums.update(data, number, block.checksum);
            let is_same = match &block.on_disk {
                OnDisk::Same => true,
                OnDisk::Zero => is_zero(data),
                OnDisk::Bytes(bytes) => bytes.is(data)?,
                OnDisk::Unknown => false,
            };
            if !is_same {
                put(&mut self.device, at, data)?;
            }
            if was_packed {
                self.blocks.remove(&number);
            } else {
                block.on_disk = OnDisk::Same;
                self.clean += 1;
            }
        }
        self.plain = 0;
        self.max_plain = MAX_PLAIN;
        self.make_room();
        Ok(())
    }
}

fn not_cached() -> io::Error {
    io::Error::other("a block is not in the cache")
}

fn put<D: BlockDeviceMut>(device: &mut D, at: u64, data: &[u8]) -> Result<()> {
    if is_zero(data) {
        device.zero_at(at, data.len() as u64)?;
    } else {
        device.write_at(at, data)?;
    }
    Ok(())
}
