//! Where the parts of a `ZFile` are stored.

use std::io;
use std::ops::Range;

use super::ZFileReader;
use crate::format::block::check_range;

impl ZFileReader {
    /// The stored bytes of the blocks that hold a range of the original, in bytes.
    ///
    /// # Errors
    /// When the range reaches beyond the original.
    pub fn stored(&self, original: Range<u64>) -> io::Result<Range<u64>> {
        let length = original.end.saturating_sub(original.start);
        check_range(self.geometry.original_size, original.start, length)?;
        let block = u64::from(self.geometry.block_size.bytes());
        let start = self.offsets.of(original.start / block)?;
        let end = self.offsets.of(original.end.div_ceil(block))?;
        Ok(start..end.max(start))
    }

    /// The bytes of the index and the trailer.
    #[must_use]
    pub fn stored_index(&self) -> Range<u64> {
        self.geometry.index_offset..self.device.size()
    }
}
