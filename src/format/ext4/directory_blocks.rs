//! The blocks of a directory.

use super::blocks;
use super::checksum::ChecksumKind;
use super::dirblock::{self, Entry};
use super::error::{Error, Result, corrupt};
use super::extents;
use super::inode::Inode;
use super::inode_table::{checksum_seed, count_blocks};
use super::layout::{compat, inode_flags};
use super::mapping;
use super::run::Run;
use super::types::Ino;
use super::volume::Volume;
use crate::format::block::BlockDevice;

/// Most bytes of a directory. Linux gives one 2 GiB, unless the filesystem has large directories
/// (`large_dir`).
const MAX_BYTES: u64 = 8 << 30;

/// An entry that was found, and where it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) ino: Ino,
    /// The file type's code.
    pub(super) kind: u8,
    /// Its block on the disk.
    pub(super) block: u64,
    /// Where it is in the block.
    pub(super) at: usize,
}

impl Found {
    /// The entry with this name in a block.
    pub(super) fn in_block(block: &[u8], number: u64, name: &[u8]) -> Result<Option<Self>> {
        let slot = dirblock::find(block, name)?;
        Ok(slot.map(|slot| Self {
            ino: slot.entry.ino,
            kind: slot.entry.kind,
            block: number,
            at: slot.at,
        }))
    }
}

/// The checksum of a directory's blocks of entries.
pub(super) fn entries_checksum<D: BlockDevice>(volume: &Volume<D>, dir: &Inode) -> ChecksumKind {
    ChecksumKind::DirectoryEntries(checksum_seed(volume, dir))
}

/// The checksum of the blocks of a directory's index.
pub(super) fn index_checksum<D: BlockDevice>(volume: &Volume<D>, dir: &Inode) -> ChecksumKind {
    ChecksumKind::DirectoryIndex(checksum_seed(volume, dir))
}

/// Whether names are found by the directory's index.
pub(super) fn is_indexed<D: BlockDevice>(volume: &Volume<D>, dir: &Inode) -> bool {
    dir.has_flag(inode_flags::INDEX) && volume.superblock().has_compat(compat::DIR_INDEX)
}

/// Where a directory's block is on the disk; it has no holes.
pub(super) fn find<D: BlockDevice>(
    volume: &mut Volume<D>,
    dir: &Inode,
    logical: u32,
) -> Result<u64> {
    match mapping::find(volume, dir, logical)? {
        Some(run) if !run.unwritten => {
            Ok(run.physical + u64::from(logical.saturating_sub(run.logical)))
        }
        _ => corrupt(format!("directory {} has no block {logical}", dir.ino())),
    }
}

/// How many blocks a directory has by its size.
///
/// # Errors
/// When the filesystem has fewer, or they are more than [`MAX_BYTES`]: extents that overlap make
/// any number of blocks of one.
pub(super) fn count<D: BlockDevice>(volume: &Volume<D>, dir: &Inode) -> Result<u64> {
    let geometry = volume.geometry();
    let count = dir.size() / u64::from(geometry.block_size);
    if count > geometry.blocks {
        return corrupt(format!(
            "directory {} has {count} blocks, and the filesystem {}",
            dir.ino(),
            geometry.blocks
        ));
    }
    if dir.size() > MAX_BYTES {
        return Err(Error::Unsupported(format!(
            "a directory of {} bytes, inode {} (the most is {MAX_BYTES})",
            dir.size(),
            dir.ino()
        )));
    }
    Ok(count)
}

/// A directory's blocks on the disk, in order, up to its size.
pub(super) fn all<D: BlockDevice>(
    volume: &mut Volume<D>,
    dir: &Inode,
) -> Result<impl Iterator<Item = u64> + use<D>> {
    let count = count(volume, dir)?;
    let runs = mapping::all(volume, dir)?.runs;
    let within = move |run: &Run| run.end().min(count).saturating_sub(u64::from(run.logical));
    Ok(runs
        .into_iter()
        .filter(|run| !run.unwritten)
        .flat_map(move |run| run.physical..run.physical + within(&run)))
}

/// Reads a block that is not looked up in the index: whether it is one of the index decides
/// where its checksum is.
pub(super) fn read<'a, D: BlockDevice>(
    volume: &'a mut Volume<D>,
    dir: &Inode,
    number: u64,
    is_first: bool,
) -> Result<&'a [u8]> {
    if !volume.has_checksums() {
        return volume.read(number);
    }
    let is_indexed = is_indexed(volume, dir);
    let block = volume.read(number)?;
    let kind = if is_indexed && (is_first || dirblock::is_unused(block)) {
        index_checksum(volume, dir)
    } else {
        entries_checksum(volume, dir)
    };
    volume.read_verified(number, kind)
}

/// Adds a block of zeros at a directory's end; returns its number in the directory, and where
/// it is on the disk. The caller fills it and writes the inode.
pub(super) fn append<D: BlockDevice>(
    volume: &mut Volume<D>,
    dir: &mut Inode,
    kind: ChecksumKind,
) -> Result<(u32, u64)> {
    let block_size = u64::from(volume.geometry().block_size);
    let Ok(logical) = u32::try_from(dir.size() / block_size) else {
        return Err(Error::DirectoryFull);
    };
    let block = blocks::allocate_metadata(volume, kind)?;
    extents::append(volume, dir, logical, block)?;
    count_blocks(volume, dir, 1, 0);
    dir.set_size((u64::from(logical) + 1) * block_size);
    Ok((logical, block))
}

/// Fills a block with these entries and nothing else. They must fit.
pub(super) fn write_entries<'a, D: BlockDevice>(
    volume: &mut Volume<D>,
    number: u64,
    kind: ChecksumKind,
    entries: impl Iterator<Item = Entry<'a>>,
) -> Result<()> {
    let has_tail = volume.has_checksums();
    dirblock::fill(volume.write(number, kind)?, has_tail, entries)
}
