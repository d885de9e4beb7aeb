//! Metadata blocks in memory, what they were before, and the way back to the disk.

use std::collections::HashMap;

use super::checksum::{Checksums, Seal};
use super::error::Result;
use super::mkfs::Pristine;
use crate::format::block::{BlockDevice, BlockDeviceMut};

/// Unchanged blocks kept at most.
const MAX_CLEAN: usize = 4096;

/// What a block was when the disk had it last.
enum Before {
    /// As it is now.
    Same,
    Zero,
    Bytes(Box<[u8]>),
    /// It does not matter: the block must be written.
    Unknown,
}

struct Block {
    data: Box<[u8]>,
    before: Before,
    seal: Seal,
    /// Used since the last look for blocks to drop.
    used: bool,
}

impl Block {
    fn is_clean(&self) -> bool {
        matches!(self.before, Before::Same)
    }
}

/// The blocks. The map is asked by number and never walked in its own order.
pub(super) struct Cache<D> {
    pub(super) device: D,
    block_size: u32,
    checksums: Checksums,
    blocks: HashMap<u64, Block>,
    /// Blocks that are not on the disk yet because nobody changed what they start as.
    pristine: Option<Pristine>,
    loaded_clean: usize,
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
            loaded_clean: 0,
        }
    }

    /// Blocks that come from here, and not from the disk, until they are first written.
    pub(super) fn start_from(&mut self, pristine: Pristine) {
        self.pristine = Some(pristine);
    }

    fn zeros(&self) -> Box<[u8]> {
        vec![0; self.block_size as usize].into()
    }

    fn entry(&mut self, number: u64) -> Result<&mut Block> {
        if !self.blocks.contains_key(&number) {
            if self.loaded_clean >= MAX_CLEAN {
                self.drop_clean();
            }
            let mut data = self.zeros();
            let made = self
                .pristine
                .as_ref()
                .is_some_and(|pristine| pristine.fill(number, &mut data));
            let before = if made {
                Before::Unknown
            } else {
                self.device
                    .read_at(number * u64::from(self.block_size), &mut data)?;
                self.loaded_clean += 1;
                Before::Same
            };
            let block = Block {
                data,
                before,
                seal: Seal::Plain,
                used: true,
            };
            self.blocks.insert(number, block);
        }
        let block = self
            .blocks
            .get_mut(&number)
            .ok_or_else(|| std::io::Error::other("a block vanished from memory"))?;
        block.used = true;
        Ok(block)
    }

    /// Drops unchanged blocks that were not used since the last time, or else all.
    fn drop_clean(&mut self) {
        self.blocks.retain(|_, block| {
            let keep = !block.is_clean() || block.used;
            block.used &= !block.is_clean();
            keep
        });
        let count =
            |blocks: &HashMap<u64, Block>| blocks.values().filter(|block| block.is_clean()).count();
        if count(&self.blocks) > MAX_CLEAN / 2 {
            self.blocks.retain(|_, block| !block.is_clean());
        }
        self.loaded_clean = count(&self.blocks);
    }

    /// A block as it is.
    pub(super) fn read(&mut self, number: u64) -> Result<&[u8]> {
        Ok(&self.entry(number)?.data)
    }

    /// A block whose checksum must be right if it came from the disk.
    pub(super) fn read_sealed(&mut self, number: u64, seal: Seal) -> Result<&[u8]> {
        let checksums = self.checksums;
        let block = self.entry(number)?;
        if block.is_clean() && block.seal != seal {
            if !checksums.is_right(&block.data, number, seal) {
                return super::error::corrupt(format!("block {number} does not have its checksum"));
            }
            block.seal = seal;
        }
        Ok(&block.data)
    }

    /// A block to be changed.
    pub(super) fn write(&mut self, number: u64, seal: Seal) -> Result<&mut [u8]> {
        let block = self.entry(number)?;
        if block.is_clean() {
            block.before = if is_zero(&block.data) {
                Before::Zero
            } else {
                Before::Bytes(block.data.clone())
            };
        }
        block.seal = seal;
        Ok(&mut block.data)
    }

    /// A block of zeros in place of whatever the disk has there.
    pub(super) fn fresh(&mut self, number: u64, seal: Seal) -> &mut [u8] {
        let block = Block {
            data: self.zeros(),
            before: Before::Unknown,
            seal,
            used: true,
        };
        let entry = self.blocks.entry(number);
        &mut entry.insert_entry(block).into_mut().data
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
            self.checksums.seal(&mut block.data, number, block.seal);
            let is_same = match &block.before {
                Before::Same => true,
                Before::Zero => is_zero(&block.data),
                Before::Bytes(bytes) => *bytes == block.data,
                Before::Unknown => false,
            };
            if !is_same {
                put(&mut self.device, at, &block.data)?;
            }
            if !block.is_clean() {
                block.before = Before::Same;
                self.loaded_clean += 1;
            }
        }
        if self.loaded_clean > MAX_CLEAN {
            self.drop_clean();
        }
        Ok(())
    }
}

fn put<D: BlockDeviceMut>(device: &mut D, at: u64, data: &[u8]) -> Result<()> {
    if is_zero(data) {
        device.zero_at(at, data.len() as u64)?;
    } else {
        device.write_at(at, data)?;
    }
    Ok(())
}
