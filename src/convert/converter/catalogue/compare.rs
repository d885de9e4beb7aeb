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
    // Where data lies in a blob splits mappings, and is none of the disk.
    let mapped = |blob: &LayerBlob| -> Vec<(u64, u64, bool)> {
        let mut joined: Vec<(u64, u64, bool)> = Vec::new();
        for mapping in blob.mappings() {
            match joined.last_mut() {
                Some((offset, length, zeroed))
                    if *offset + *length == mapping.offset && *zeroed == mapping.zeroed =>
                {
                    *length += mapping.length;
                }
                _ => joined.push((mapping.offset, mapping.length, mapping.zeroed)),
            }
        }
        joined
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::layer::{Algorithm, BlockSize, CompressPool};
    use crate::format::blob::{LayerSpec, LayerWriter};
    use crate::format::block::{BlockDeviceMut as _, FileDevice};

    /// A layer of blocks that are written in this order, each its place and its byte.
    fn layer(blocks: &[(u64, u8)]) -> Arc<LayerBlob> {
        let spec = LayerSpec {
            virtual_size: 1 << 20,
            algorithm: Algorithm::Lz4,
            block_size: BlockSize::KIB_4,
            uuid: String::new(),
            parent_uuid: String::new(),
        };
        let file = tempfile::tempfile().unwrap();
        let lower = Arc::new(Stack::empty(spec.virtual_size));
        let pool = CompressPool::new(1).unwrap();
        let out = file.try_clone().unwrap();
        let mut writer = LayerWriter::create(lower, out, spec, &pool).unwrap();
        for (place, byte) in blocks {
            writer.write_at(place * 4096, &[*byte; 4096]).unwrap();
        }
        writer.finish("").unwrap().seal().unwrap();
        Arc::new(LayerBlob::open(Arc::new(FileDevice::new(file).unwrap())).unwrap())
    }

    #[test]
    fn the_order_of_data_in_a_blob_is_none_of_its_disk() {
        let one = layer(&[(1, 1), (2, 2), (3, 3)]);
        let other = layer(&[(1, 1), (3, 3), (2, 2)]);
        assert_ne!(one.mappings().len(), other.mappings().len());
        assert!(is_same(&one, &other).unwrap());
        for different in [
            &[(1, 1), (2, 2), (3, 4)][..],
            &[(1, 1), (2, 2)],
            &[(1, 1), (3, 3)],
        ] {
            assert!(!is_same(&one, &layer(different)).unwrap(), "{different:?}");
        }
    }
}
