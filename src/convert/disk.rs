//! The block device under the filesystem of a chain: writable while a layer is converted, else
//! read-only.

use std::io;
use std::sync::Arc;

use crate::format::blob::{LayerWriter, Stack};
use crate::format::block::{BlockDevice, BlockDeviceMut};

/// The device under the filesystem.
pub(super) enum Disk {
    /// A layer is being written over the layers below.
    Writing(Box<LayerWriter>),
    /// Between layers: the finished ones, read-only.
    Reading(Arc<Stack>),
}

impl Disk {
    /// The writer of the layer being made.
    pub(super) fn into_writer(self) -> Option<LayerWriter> {
        match self {
            Self::Writing(writer) => Some(*writer),
            Self::Reading(_) => None,
        }
    }

    fn writer(&mut self) -> io::Result<&mut LayerWriter> {
        match self {
            Self::Writing(writer) => Ok(writer),
            Self::Reading(_) => Err(io::Error::new(
                io::ErrorKind::ReadOnlyFilesystem,
                "finished layers are not written to",
            )),
        }
    }
}

impl BlockDevice for Disk {
    fn size(&self) -> u64 {
        match self {
            Self::Writing(writer) => writer.size(),
            Self::Reading(stack) => stack.size(),
        }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Writing(writer) => writer.read_at(offset, buf),
            Self::Reading(stack) => stack.read_at(offset, buf),
        }
    }
}

impl BlockDeviceMut for Disk {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.writer()?.write_at(offset, data)
    }

    fn zero_at(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.writer()?.zero_at(offset, len)
    }

    fn discard_at(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.writer()?.discard_at(offset, len)
    }

    fn copy_at(&mut self, from: u64, to: u64, len: u64) -> io::Result<()> {
        self.writer()?.copy_at(from, to, len)
    }
}
