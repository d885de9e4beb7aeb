//! Metadata blocks in memory, what they were before, and the way back to the disk.

use std::collections::HashMap;
use std::io;

use super::checksum::{Checksums, Seal};
use super::error::{Result, corrupt};
use super::mkfs::Pristine;
use crate::format::block::{BlockDevice, BlockDeviceMut};

/// Unchanged blocks kept at most.
const MAX_CLEAN: usize = 4096;
/// Changed blocks kept as they are at most: 64 MiB of blocks of 4 KiB. More are compressed.
const MAX_PLAIN: usize = 16_384;

/// A block's bytes, compressed when memory is short: a layer of a million files changes more
/// metadata than anyone wants to hold.
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

    /// The bytes, of which there are `size`; whether they had to be unpacked.
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
            Self::Packed(_) => Err(io::Error::other("a block stayed packed").into()),
        }
    }

    fn is(&self, other: &[u8]) -> Result<bool> {
        match self {
            Self::Plain(plain) => Ok(**plain == *other),
            Self::Packed(packed) => Ok(*Self::unpack(packed, other.len())? == *other),
        }
    }
}

/// What a block was when the disk had it last.
enum Before {
    /// As it is now.
    Same,
    Zero,
    Bytes(Bytes),
    /// It does not matter: the block must be written.
    Unknown,
}

struct Block {
    data: Bytes,
    before: Before,
    seal: Seal,
    /// Used since the last look for blocks to drop or pack.
    used: bool,
}

impl Block {
    fn is_clean(&self) -> bool {
        matches!(self.before, Before::Same)
    }

    fn is_plain(&self) -> bool {
        matches!(self.data, Bytes::Plain(_))
    }

    fn pack(&mut self) {
        self.data.pack();
        if let Before::Bytes(bytes) = &mut self.before {
            bytes.pack();
        }
    }
}

/// The blocks. The map is asked by number and never walked in its own order, but for what
/// does not show.
pub(super) struct Cache<D> {
    pub(super) device: D,
    block_size: u32,
    checksums: Checksums,
    blocks: HashMap<u64, Block>,
    /// Blocks that are not on the disk yet because nobody changed what they start as.
    pristine: Option<Pristine>,
    /// How many unchanged blocks there are, and changed ones that are not packed; never less
    /// than there are.
    clean: usize,
    plain: usize,
    /// How many of the latter make it time to pack.
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
            pristine: None,
            clean: 0,
            plain: 0,
            max_plain: MAX_PLAIN,
        }
    }

    /// Blocks that come from here, and not from the disk, until they are first written.
    pub(super) fn start_from(&mut self, pristine: Pristine) {
        self.pristine = Some(pristine);
    }

    fn zeros(&self) -> Box<[u8]> {
        vec![0; self.block_size as usize].into()
    }

    fn load(&mut self, number: u64) -> Result<()> {
        let mut data = self.zeros();
        let pristine = self.pristine.as_ref();
        let before = if pristine.is_some_and(|all| all.fill(number, &mut data)) {
            self.plain += 1;
            Before::Unknown
        } else {
            let at = number * u64::from(self.block_size);
            self.device.read_at(at, &mut data)?;
            self.clean += 1;
            Before::Same
        };
        let block = Block {
            data: Bytes::Plain(data),
            before,
            seal: Seal::Plain,
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
        let block = self.blocks.get_mut(&number).ok_or_else(gone)?;
        block.used = true;
        if block.data.plain(size)?.1 {
            self.plain += 1;
        }
        Ok(block)
    }

    /// Drops unchanged blocks and packs changed ones that were not used since the last time;
    /// if that is not enough, all.
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
            // What does not compress must not be tried again at once.
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

    /// A block as it is.
    pub(super) fn read(&mut self, number: u64) -> Result<&[u8]> {
        let size = self.block_size as usize;
        Ok(self.entry(number)?.data.plain(size)?.0)
    }

    /// A block whose checksum must be right if it came from the disk.
    pub(super) fn read_sealed(&mut self, number: u64, seal: Seal) -> Result<&[u8]> {
        let (checksums, size) = (self.checksums, self.block_size as usize);
        let block = self.entry(number)?;
        let is_new = block.is_clean() && block.seal != seal;
        let (data, _) = block.data.plain(size)?;
        if is_new {
            if !checksums.is_right(data, number, seal) {
                return corrupt(format!("block {number} does not have its checksum"));
            }
            block.seal = seal;
        }
        Ok(data)
    }

    /// A block to be changed.
    pub(super) fn write(&mut self, number: u64, seal: Seal) -> Result<&mut [u8]> {
        let size = self.block_size as usize;
        let block = self.entry(number)?;
        let was_clean = block.is_clean();
        let (data, _) = block.data.plain(size)?;
        if was_clean {
            block.before = if is_zero(data) {
                Before::Zero
            } else {
                Before::Bytes(Bytes::Plain(data.into()))
            };
        }
        block.seal = seal;
        if was_clean {
            self.clean = self.clean.saturating_sub(1);
            self.plain += 1;
        }
        let block = self.blocks.get_mut(&number).ok_or_else(gone)?;
        Ok(block.data.plain(size)?.0)
    }

    /// A block of zeros in place of whatever the disk has there.
    pub(super) fn fresh(&mut self, number: u64, seal: Seal) -> Result<&mut [u8]> {
        self.make_room();
        let block = Block {
            data: Bytes::Plain(self.zeros()),
            before: Before::Unknown,
            seal,
            used: true,
        };
        self.plain += 1;
        let size = self.block_size as usize;
        let entry = self.blocks.entry(number);
        Ok(entry.insert_entry(block).into_mut().data.plain(size)?.0)
    }

    /// Forgets blocks whose content does not matter any more.
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
        let pristine = self.pristine.take();
        if let Some(pristine) = &pristine {
            numbers.extend(pristine.blocks());
        }
        numbers.sort_unstable();
        numbers.dedup();
        let mut scratch = self.zeros();
        for number in numbers {
            let at = number * u64::from(self.block_size);
            let Some(block) = self.blocks.get_mut(&number) else {
                if let Some(pristine) = &pristine {
                    scratch.fill(0);
                    pristine.fill(number, &mut scratch);
                    put(&mut self.device, at, &scratch)?;
                }
                continue;
            };
            let (data, was_packed) = block.data.plain(scratch.len())?;
            self.checksums.seal(data, number, block.seal);
            let is_same = match &block.before {
                Before::Same => true,
                Before::Zero => is_zero(data),
                Before::Bytes(bytes) => bytes.is(data)?,
                Before::Unknown => false,
            };
            if !is_same {
                put(&mut self.device, at, data)?;
            }
            if was_packed {
                self.blocks.remove(&number);
            } else {
                block.before = Before::Same;
                self.clean += 1;
            }
        }
        self.plain = 0;
        self.max_plain = MAX_PLAIN;
        self.make_room();
        Ok(())
    }
}

fn gone() -> io::Error {
    io::Error::other("a block is gone from memory")
}

fn put<D: BlockDeviceMut>(device: &mut D, at: u64, data: &[u8]) -> Result<()> {
    if is_zero(data) {
        device.zero_at(at, data.len() as u64)?;
    } else {
        device.write_at(at, data)?;
    }
    Ok(())
}
