//! Compares the disks of two blobs of a layer: if they are the same, layers that were built on one
//! are right on the other.

use std::io;
use std::sync::Arc;

use crate::convert::layer::LayerBlob;
use crate::format::blob::Stack;
use crate::format::block::BlockDevice as _;

const SECTOR_BYTES: u64 = 512;
/// Bytes that are compared at a time.
const PART_BYTES: u64 = 1 << 20;

/// Whether both map the same sectors to the same content, however that is stored.
///
/// # Errors
/// When one of them cannot be read.
pub(super) fn is_same(one: &Arc<LayerBlob>, other: &Arc<LayerBlob>) -> io::Result<bool> {
    let mapped = |blob: &LayerBlob| -> Vec<(u64, u64, bool)> {
        let mappings = blob.mappings().iter();
        mappings
            .map(|mapping| (mapping.offset, mapping.length, mapping.zeroed))
            .collect()
    };
    let sectors = mapped(one);
    if one.virtual_size() != other.virtual_size() || sectors != mapped(other) {
        return Ok(false);
    }
    let alone =
        |blob: &Arc<LayerBlob>| Stack::new(vec![Arc::clone(blob)]).map_err(io::Error::other);
    let (one, other) = (alone(one)?, alone(other)?);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for (offset, length, _) in sectors.into_iter().filter(|(.., zeroed)| !zeroed) {
        let (mut at, end) = (offset * SECTOR_BYTES, (offset + length) * SECTOR_BYTES);
        while at < end {
            let part = usize::try_from(PART_BYTES.min(end - at)).map_err(io::Error::other)?;
            for (disk, into) in [(&one, &mut a), (&other, &mut b)] {
                into.resize(part, 0);
                disk.read_at(at, into)?;
            }
            if a != b {
                return Ok(false);
            }
            at += part as u64;
        }
    }
    Ok(true)
}
