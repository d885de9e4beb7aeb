//! A layer of an image, opened by ranges: a native blob, or a TurboOCI layer with the original one
//! that its data is in.

use std::io::BufReader;

use crate::format::blob::{LayerBlob, unpack_trace};
use crate::format::block::{DeviceReader, SharedDevice};
use crate::lazy::open_layer;

/// Bytes of a trace that are fetched at once.
const PIECE: usize = 256 << 10;

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
        Ok(open_layer(self.blob, self.target)?)
    }

    /// The trace in it, of an acceleration layer that has one.
    ///
    /// # Errors
    /// When it cannot be read, or is no such layer.
    pub fn trace(self) -> anyhow::Result<Option<Vec<u8>>> {
        let blob = BufReader::with_capacity(PIECE, DeviceReader::new(&self.blob));
        Ok(unpack_trace(blob)?)
    }
}
