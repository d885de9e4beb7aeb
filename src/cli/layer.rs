//! A layer of an image, opened by ranges: a native blob, or a TurboOCI layer with the original one
//! that its data is in.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write as _};
use std::sync::Arc;

use crate::format::blob::{LayerBlob, unpack_turbo};
use crate::format::block::{DeviceReader, FileDevice, SharedDevice};
use crate::format::gzip_index::{GzipIndex, GzipTarget};

/// Most bytes of metadata and index of one TurboOCI layer.
const MAX_TURBO_BYTES: u64 = 4 << 30;

/// Where a layer's bytes are. To be opened and read from a thread that may block.
pub struct LayerSource {
    /// The layer's blob.
    pub blob: SharedDevice,
    /// The original layer that a TurboOCI layer points into.
    pub target: Option<SharedDevice>,
}

impl LayerSource {
    /// Opens the layer, also one that overlaybd refuses.
    ///
    /// # Errors
    /// When a part cannot be read, or is not what it should be.
    pub fn open(self) -> anyhow::Result<LayerBlob> {
        let Some(target) = self.target else {
            return Ok(LayerBlob::open_readable(self.blob)?);
        };
        let (meta, index) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let (mut meta_out, mut index_out) = (BufWriter::new(&meta), BufWriter::new(&index));
        let blob = BufReader::new(DeviceReader::new(&self.blob));
        let unpacked = unpack_turbo(blob, "ext4", MAX_TURBO_BYTES, &mut meta_out, &mut index_out)?;
        meta_out.flush()?;
        index_out.flush()?;
        drop((meta_out, index_out));
        let target = if unpacked.is_gzip {
            Arc::new(GzipTarget::new(target, GzipIndex::open(device(index)?)?)?)
        } else {
            target
        };
        Ok(LayerBlob::open_turbo(device(meta)?, target)?)
    }
}

fn device(file: File) -> io::Result<SharedDevice> {
    Ok(Arc::new(FileDevice::new(file)?))
}
