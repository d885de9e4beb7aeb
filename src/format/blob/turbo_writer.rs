//! The metadata of a `TurboOCI` layer under construction: a disk of which file data is in the
//! original layer's tar.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::lsmt_writer::{LayerSpec, LsmtWriter, WriterError};
use super::stack::Stack;
use crate::format::block::{BlockDevice, BlockDeviceMut};
use crate::format::zfile::{CompressPool, Finished};

/// A disk over a [`Stack`], whose writes make up the metadata of a `TurboOCI` layer: an
/// `ext4.fs.meta`, which is a `ZFile` with a warp file. The file data is not written but mapped, by
/// [`map_target`](BlockDeviceMut::map_target).
///
/// What this layer wrote or mapped cannot be read back before it is finished.
pub struct TurboWriter(LsmtWriter);

impl std::fmt::Debug for TurboWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TurboWriter")
            .field("spec", self.0.spec())
            .finish_non_exhaustive()
    }
}

impl TurboWriter {
    /// A layer over `lower` into `out`, an empty file that is open for reading and writing.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create(
        lower: Arc<Stack>,
        out: File,
        spec: LayerSpec,
        pool: &CompressPool,
    ) -> io::Result<Self> {
        Ok(Self(LsmtWriter::create(lower, (out, 0), spec, pool)?))
    }

    /// Writes index and trailers. `user_tag` goes into the LSMT's trailer.
    ///
    /// # Errors
    /// When the file cannot be written, or the layer has more mappings than readers take.
    pub fn finish(mut self, user_tag: &str) -> Result<Finished, WriterError> {
        self.0.keep_one_of_its_own()?;
        self.0.finish(user_tag)
    }
}

impl BlockDevice for TurboWriter {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf)
    }
}

impl BlockDeviceMut for TurboWriter {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }

    fn zero_at(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.0.zero_at(offset, len)
    }

    fn discard_at(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.0.discard_at(offset, len)
    }

    fn map_target(&mut self, offset: u64, len: u64, target: u64) -> io::Result<()> {
        self.0.map_target(offset, len, target)
    }

    fn copy_at(&mut self, from: u64, to: u64, len: u64) -> io::Result<()> {
        self.0.copy_at(from, to, len)
    }
}
