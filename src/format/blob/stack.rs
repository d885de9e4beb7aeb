//! Layers upon each other: the topmost mapping of a sector wins.

mod located;
mod visible;

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::layer::LayerBlob;
use crate::format::block::{BlockDevice, SECTOR, check_range};
use crate::sizes::Size;

pub use located::Located;
pub use visible::Visible;

/// Most layers that readers stack (overlaybd `lsmt/file.cpp`).
pub const MAX_LAYERS: usize = 255;

/// Errors of stacking layers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StackError {
    /// More than readers take.
    #[error("{0} layers are more than the {MAX_LAYERS} that readers stack: squash some of them")]
    TooMany(usize),
    /// Disks of two sizes.
    #[error("layer {layer} is of a disk of {} and those below of {}", Size(*.found), Size(*.below))]
    Sizes {
        /// The layer, counted from 0 at the bottom.
        layer: usize,
        /// Size of its disk in bytes.
        found: u64,
        /// Size of the disk below in bytes.
        below: u64,
    },
}

/// Layers upon each other, read as one disk. What no layer maps reads as zero.
#[derive(Debug, Clone, Default)]
pub struct Stack {
    layers: Vec<Arc<LayerBlob>>,
    size: u64,
}

impl Stack {
    /// The disk that these layers make, bottom first.
    ///
    /// # Errors
    /// When there are too many, or they are of different disks.
    pub fn new(layers: Vec<Arc<LayerBlob>>) -> Result<Self, StackError> {
        let mut stack = Self::default();
        layers.into_iter().try_for_each(|layer| stack.push(layer))?;
        Ok(stack)
    }

    /// A disk of `size` bytes without layers: all zero.
    #[must_use]
    pub fn empty(size: u64) -> Self {
        Self {
            layers: Vec::new(),
            size,
        }
    }

    /// Puts a layer on top.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn push(&mut self, layer: Arc<LayerBlob>) -> Result<(), StackError> {
        let (count, found) = (self.layers.len(), layer.virtual_size());
        if count == MAX_LAYERS {
            return Err(StackError::TooMany(count + 1));
        }
        if (count > 0 || self.size > 0) && found != self.size {
            return Err(StackError::Sizes {
                layer: count,
                found,
                below: self.size,
            });
        }
        self.size = found;
        self.layers.push(layer);
        Ok(())
    }

    /// The layers, bottom first.
    #[must_use]
    pub fn layers(&self) -> &[Arc<LayerBlob>] {
        &self.layers
    }

    fn read(&self, depth: usize, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let Some(layer) = depth.checked_sub(1).and_then(|n| self.layers.get(n)) else {
            buf.fill(0);
            return Ok(());
        };
        let end = offset + buf.len() as u64;
        let mut at = offset;
        let mut rest = buf;
        let mappings = layer
            .layer()
            .overlapping(offset / SECTOR, end.div_ceil(SECTOR));
        for mapping in mappings {
            let from = (mapping.offset * SECTOR).max(at);
            let to = (mapping.end() * SECTOR).min(end);
            let gap = usize::try_from(from - at).map_err(io::Error::other)?;
            let (below, mapped) = std::mem::take(&mut rest).split_at_mut(gap);
            if !below.is_empty() {
                self.read(depth - 1, at, below)?;
            }
            let len = usize::try_from(to - from).map_err(io::Error::other)?;
            let (mapped, later) = mapped.split_at_mut(len);
            layer
                .layer()
                .read(mapping, from - mapping.offset * SECTOR, mapped)?;
            rest = later;
            at = to;
        }
        if rest.is_empty() {
            Ok(())
        } else {
            self.read(depth - 1, at, rest)
        }
    }

    /// Says to the layers which of their data is in a range of sectors.
    fn announce(&self, depth: usize, range: Range<u64>) {
        let Some(layer) = depth.checked_sub(1).and_then(|n| self.layers.get(n)) else {
            return;
        };
        let mut at = range.start;
        for mapping in layer.layer().overlapping(range.start, range.end) {
            let (from, to) = (mapping.offset.max(at), mapping.end().min(range.end));
            if at < from {
                self.announce(depth - 1, at..from);
            }
            layer
                .layer()
                .will_read(mapping, from - mapping.offset, to - from);
            at = to;
        }
        if at < range.end {
            self.announce(depth - 1, at..range.end);
        }
    }

    /// The sectors of a range that some layer maps to data and none above hides, in order;
    /// neighbours are not joined.
    #[must_use]
    pub fn data(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let visible = self.visible(range.start * SECTOR..range.end * SECTOR);
        let sectors = |part: Visible| part.disk.start / SECTOR..part.disk.end / SECTOR;
        visible.into_iter().map(sectors).collect()
    }
}

impl BlockDevice for Stack {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        self.read(self.layers.len(), offset, buf)
    }

    fn will_read(&self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.size);
        if offset < end {
            self.announce(self.layers.len(), offset / SECTOR..end.div_ceil(SECTOR));
        }
    }
}
