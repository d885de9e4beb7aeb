//! A file's blocks.

/// Blocks that follow each other in the file and on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The first block in the file.
    pub(super) logical: u32,
    /// Where it is on the disk.
    pub(super) physical: u64,
    pub(super) length: u32,
    /// The blocks are reserved, and read as zero whatever they hold.
    pub(super) unwritten: bool,
}

impl Run {
    /// The first block in the file behind the run.
    pub(super) fn end(&self) -> u64 {
        u64::from(self.logical) + u64::from(self.length)
    }
}

/// All of a file's blocks.
#[derive(Debug, Default)]
pub(super) struct FileBlocks {
    /// Those with data, in the file's order.
    pub(super) runs: Vec<Run>,
    /// Those of the extent tree or the block map itself.
    pub(super) nodes: Vec<u64>,
}
