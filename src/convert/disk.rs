//! The block device under the filesystem of a chain: writable while a layer is converted, else
//! read-only.

use std::io;
use std::sync::Arc;

use crate::format::blob::{LayerWriter, Stack, TurboWriter};
use crate::format::block::{BlockDevice, BlockDeviceMut, Wanted};

/// The device under the filesystem.
pub(super) enum Disk {
    /// A layer is being written over the layers below.
    Writing(Box<LayerWriter>),
    /// The metadata of a TurboOCI layer is being written over the layers below. Files of more than
    /// `max_stored_file` bytes stay in the tar.
    WritingTurbo {
        /// Where the metadata goes.
        writer: Box<TurboWriter>,
        /// In bytes.
        max_stored_file: u64,
    },
    /// Between layers: the finished ones, read-only.
    Reading(Arc<Stack>),
}

impl Disk {
    /// The writer of the native layer being made.
    pub(super) fn into_writer(self) -> Option<LayerWriter> {
        match self {
            Self::Writing(writer) => Some(*writer),
            Self::WritingTurbo { .. } | Self::Reading(_) => None,
        }
    }

    /// Writes the data of files that are wanted, which was kept.
    pub(super) fn place_wanted(&mut self) -> io::Result<()> {
        match self {
            Self::Writing(writer) => writer.place_wanted(),
            Self::WritingTurbo { .. } | Self::Reading(_) => Ok(()),
        }
    }

    /// The writer of the TurboOCI layer being made.
    pub(super) fn into_turbo_writer(self) -> Option<TurboWriter> {
        match self {
            Self::WritingTurbo { writer, .. } => Some(*writer),
            Self::Writing(_) | Self::Reading(_) => None,
        }
    }

    fn device(&self) -> &dyn BlockDevice {
        match self {
            Self::Writing(writer) => &**writer,
            Self::WritingTurbo { writer, .. } => &**writer,
            Self::Reading(stack) => &**stack,
        }
    }

    fn writer(&mut self) -> io::Result<&mut dyn BlockDeviceMut> {
        match self {
            Self::Writing(writer) => Ok(&mut **writer),
            Self::WritingTurbo { writer, .. } => Ok(&mut **writer),
            Self::Reading(_) => Err(io::Error::new(
                io::ErrorKind::ReadOnlyFilesystem,
                "finished layers are not written to",
            )),
        }
    }
}

impl BlockDevice for Disk {
    fn size(&self) -> u64 {
        self.device().size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.device().read_at(offset, buf)
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

    fn set_wanted(&mut self, file: Option<Wanted>) {
        if let Self::Writing(writer) = self {
            writer.set_wanted(file);
        }
    }

    fn max_stored_file(&self) -> u64 {
        match self {
            Self::WritingTurbo {
                max_stored_file, ..
            } => *max_stored_file,
            Self::Writing(_) | Self::Reading(_) => u64::MAX,
        }
    }

    fn map_target(&mut self, offset: u64, len: u64, target: u64) -> io::Result<()> {
        self.writer()?.map_target(offset, len, target)
    }

    fn copy_at(&mut self, from: u64, to: u64, len: u64) -> io::Result<()> {
        self.writer()?.copy_at(from, to, len)
    }
}
