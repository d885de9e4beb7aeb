//! Where a file has data: `SEEK_DATA` and `SEEK_HOLE`.

use fuser::Errno;

use crate::lazy::OpenFile;

/// The next byte from `offset` on that is data, or in a hole, as `whence` says.
pub(super) fn seek(
    file: &OpenFile,
    block_size: u64,
    offset: i64,
    whence: i32,
) -> Result<i64, Errno> {
    let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
    if from >= file.size {
        return Err(Errno::ENXIO);
    }
    let start = |extent: usize| {
        let extent = file.extents.get(extent)?;
        Some(u64::from(extent.logical_block) * block_size)
    };
    let end = |extent: usize| {
        let blocks = file.extents.get(extent).map_or(0, |extent| extent.blocks);
        start(extent).map(|start| start + u64::from(blocks) * block_size)
    };
    let mut next = file.extents.partition_point(|extent| {
        (u64::from(extent.logical_block) + u64::from(extent.blocks)) * block_size <= from
    });
    let found = match whence {
        libc::SEEK_DATA => start(next)
            .map(|start| start.max(from))
            .filter(|at| *at < file.size)
            .ok_or(Errno::ENXIO)?,
        libc::SEEK_HOLE => {
            let mut at = from;
            while start(next).is_some_and(|start| start <= at) {
                at = end(next).unwrap_or(at).max(at);
                next += 1;
            }
            at.min(file.size)
        }
        _ => return Err(Errno::EINVAL),
    };
    i64::try_from(found).map_err(|_| Errno::EOVERFLOW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ext4::FileExtent;

    fn file(size: u64, extents: &[(u32, u32)]) -> OpenFile {
        let extents = extents.iter().map(|(logical_block, blocks)| FileExtent {
            logical_block: *logical_block,
            physical_block: 1000,
            blocks: *blocks,
        });
        OpenFile {
            size,
            extents: extents.collect(),
        }
    }

    #[test]
    fn data_and_holes_alternate() {
        let file = file(50_000, &[(1, 1), (2, 2), (8, 1)]);
        let data = |offset| seek(&file, 4096, offset, libc::SEEK_DATA).ok();
        let hole = |offset| seek(&file, 4096, offset, libc::SEEK_HOLE).ok();
        assert_eq!(data(0), Some(4096));
        assert_eq!(data(5000), Some(5000));
        assert_eq!(hole(0), Some(0));
        assert_eq!(hole(4096), Some(16_384));
        assert_eq!(data(16_384), Some(32_768));
        assert_eq!(hole(40_000), Some(40_000));
        assert_eq!(data(40_000), None);
        assert_eq!(data(50_000), None);
        assert_eq!(hole(-1), None);
    }

    #[test]
    fn the_end_of_a_file_is_a_hole() {
        let file = file(5000, &[(0, 2)]);
        assert_eq!(seek(&file, 4096, 0, libc::SEEK_HOLE).ok(), Some(5000));
        assert_eq!(seek(&file, 4096, 4999, libc::SEEK_DATA).ok(), Some(4999));
    }
}
