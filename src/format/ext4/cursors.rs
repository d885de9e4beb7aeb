//! Where the allocators' next searches begin.
//!
//! Data and metadata are taken from two ends: data from a sixteenth of the disk upward,
//! metadata from its start, each going on from where it was last. So a layer's data lies in
//! one piece, and so does its metadata. After a flush both begin again at the start, because
//! only what the disk holds may decide where the next layer goes.

use super::geometry::Geometry;

/// What blocks are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Metadata,
    Data,
}

/// Where the searches begin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursors {
    metadata: u64,
    data: u64,
    /// No group before this one has a free inode.
    inode_group: u32,
}

impl Cursors {
    pub(super) fn new(geometry: &Geometry) -> Self {
        let data = geometry.blocks / 16;
        let into_group = data % u64::from(geometry.blocks_per_group);
        let data = if data > into_group {
            data - into_group
        } else {
            data
        };
        Self {
            metadata: geometry.first_block,
            data: geometry.first_block + data,
            inode_group: 0,
        }
    }

    /// Has the next blocks searched for from the start.
    pub(super) fn reset_blocks(&mut self, geometry: &Geometry) {
        *self = Self {
            inode_group: self.inode_group,
            ..Self::new(geometry)
        };
    }

    /// The block from which blocks for a purpose are searched.
    pub(super) fn block(&self, purpose: Purpose) -> u64 {
        match purpose {
            Purpose::Metadata => self.metadata,
            Purpose::Data => self.data,
        }
    }

    pub(super) fn set_block(&mut self, purpose: Purpose, block: u64) {
        match purpose {
            Purpose::Metadata => self.metadata = block,
            Purpose::Data => self.data = block,
        }
    }

    /// The group from which inodes are searched.
    pub(super) fn inode_group(&self) -> u32 {
        self.inode_group
    }

    pub(super) fn set_inode_group(&mut self, group: u32) {
        self.inode_group = group;
    }
}
