//! Blocks that this program can read and overlaybd's reader cannot.

use super::codec::BlockSize;
use super::layout::MAX_STORED;

/// A stored block that overlaybd cannot read (`zfile/zfile.cpp`, `BlockReader` and
/// `JumpTable`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableBlock {
    /// It does not fit into the reader's buffer.
    #[error("block {block} of the ZFile is stored in {size} bytes, and the limit is {MAX_STORED}")]
    TooLarge {
        /// The block, counted from 0.
        block: u64,
        /// Its stored size, the CRC included.
        size: u32,
    },
    /// It begins where the reader's 16-bit distances do not reach.
    #[error(
        "the blocks of the ZFile up to block {block} are stored in {sum} bytes since the last \
         multiple of 64 KiB of the original, and the limit is {MAX_GROUP_SUM}"
    )]
    TooFar {
        /// The block, counted from 0.
        block: u64,
        /// Stored sizes of its group up to and with it.
        sum: u64,
    },
}

/// Most stored bytes before a block of a group: the reader counts them in 16 bits, of which
/// the largest number is its mark for too many.
const MAX_GROUP_SUM: u64 = 65_534;
/// Bytes of the original in a group.
const GROUP_BYTES: u32 = 65_536;

/// Looks for the first such block among stored sizes as they come.
pub(super) struct Finder {
    /// Blocks of a group.
    group: u64,
    block: u64,
    /// Stored sizes of the group so far.
    sum: u64,
    found: Option<UnreadableBlock>,
}

impl Finder {
    pub(super) fn new(block_size: BlockSize) -> Self {
        Self {
            group: u64::from(GROUP_BYTES / block_size.bytes()),
            block: 0,
            sum: 0,
            found: None,
        }
    }

    /// Takes the stored size of the next block.
    pub(super) fn add(&mut self, size: u32) {
        let block = self.block;
        self.block += 1;
        if self.found.is_some() {
            return;
        }
        if u64::from(size) > MAX_STORED as u64 {
            self.found = Some(UnreadableBlock::TooLarge { block, size });
        }
        self.sum += u64::from(size);
        // Where the group's last block ends, the next one's base says.
        if self.block.is_multiple_of(self.group) {
            self.sum = 0;
        } else if self.sum > MAX_GROUP_SUM && self.found.is_none() {
            let sum = self.sum;
            self.found = Some(UnreadableBlock::TooFar { block, sum });
        }
    }

    /// The first one, if there is any.
    pub(super) fn found(self) -> Option<UnreadableBlock> {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(sizes: &[u32], kib: &str) -> Option<UnreadableBlock> {
        let mut finder = Finder::new(kib.parse().unwrap());
        for size in sizes {
            finder.add(*size);
        }
        finder.found()
    }

    #[test]
    fn a_stored_block_may_fill_the_reader_s_buffer_and_no_more() {
        assert_eq!(find(&[5, 65_536, 5], "64"), None);
        let size = 65_537;
        assert_eq!(
            find(&[5, size, 5], "64"),
            Some(UnreadableBlock::TooLarge { block: 1, size })
        );
    }

    #[test]
    fn distances_within_a_group_stay_below_16_bits() {
        assert_eq!(find(&[65_534, 65_536, 65_534], "32"), None);
        assert_eq!(
            find(&[5, 5, 65_535], "32"),
            Some(UnreadableBlock::TooFar {
                block: 2,
                sum: 65_535
            })
        );
        // Of sixteen blocks of 4 KiB the last one's size does not count.
        let mut sizes = [4_368; 16];
        assert_eq!(find(&sizes, "4"), None);
        sizes[14] += 15;
        assert_eq!(
            find(&sizes, "4"),
            Some(UnreadableBlock::TooFar {
                block: 14,
                sum: 65_535
            })
        );
    }
}
