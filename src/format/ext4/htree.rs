//! The index of a directory: hashes of names to the blocks that hold them (kernel,
//! `fs/ext4/namei.c`). Readers that do not know it see blocks without entries.

use super::dirblock::{self, Entry};
use super::directory_blocks::{self, Found, entries_checksum, index_checksum};
use super::error::{Error, Result, corrupt, narrow};
use super::hash::Hasher;
use super::inode::Inode;
use super::layout::{
    self, EntryHeader, IndexCount, IndexEntry, IndexInfo, IndexNode, IndexRoot, IndexTail,
    incompat, index_count_offset, inode_flags,
};
use super::volume::Volume;
use crate::format::block::BlockDevice;

/// Where entries begin in the first block, and in other blocks of the index.
const ROOT_ENTRIES: usize = size_of::<IndexRoot>();
const NODE_ENTRIES: usize = size_of::<IndexNode>();
/// Bytes of an entry.
const ENTRY: usize = size_of::<IndexEntry>();
/// Times that inserting one name makes room at most; a few are enough.
const MAX_SPLITS: usize = 32;

/// A block of the index on the way to a hash.
#[derive(Debug, Clone, Copy)]
struct Frame {
    /// Its place on the disk.
    block: u64,
    /// Where its entries begin.
    at: usize,
    /// Entries that it has room for.
    limit: usize,
    count: usize,
    /// The entry that leads on.
    index: usize,
}

impl Frame {
    fn has_room(&self) -> bool {
        self.count < self.limit
    }
}

/// The way through the index to a name.
struct Path {
    hasher: Hasher,
    /// The name's hash.
    hash: u32,
    /// Blocks of the index, from the root.
    frames: Vec<Frame>,
}

fn entry(block: &[u8], at: usize, index: usize) -> Result<&IndexEntry> {
    layout::get(block, at + index * ENTRY)
}

/// Checks a block of the index, and finds the entry for a hash.
fn frame(block: &[u8], number: u64, at: usize, hash: u32) -> Result<Frame> {
    let header = layout::get::<IndexCount>(block, at)?;
    let limit = usize::from(header.limit.get());
    let count = usize::from(header.count.get());
    if index_count_offset(block) != at
        || count == 0
        || count > limit
        || at + limit * ENTRY > block.len()
    {
        return corrupt(format!("block {number} of a directory's index is invalid"));
    }
    // The first entry is for all hashes below the second's.
    let entries = layout::get_slice::<IndexEntry>(block, at + ENTRY, count - 1)?;
    Ok(Frame {
        block: number,
        at,
        limit,
        count,
        index: entries.partition_point(|entry| entry.hash.get() <= hash),
    })
}

/// Entries of a new block of the index.
fn node_limit<D: BlockDevice>(volume: &Volume<D>, at: usize) -> usize {
    let tail = if volume.has_checksums() {
        size_of::<IndexTail>()
    } else {
        0
    };
    (volume.geometry().block_len() - at - tail) / ENTRY
}

fn hasher<D: BlockDevice>(volume: &Volume<D>, version: u8) -> Result<Hasher> {
    let superblock = volume.superblock();
    Hasher::new(
        version,
        superblock.has_signed_hashes(),
        superblock.hash_seed(),
    )
}

/// Levels of index blocks that a directory can have.
fn max_levels<D: BlockDevice>(volume: &Volume<D>) -> usize {
    if volume.superblock().has_incompat(incompat::LARGE_DIR) {
        3
    } else {
        2
    }
}

/// The hasher of an indexed directory, and how many levels of index blocks it has.
fn info<D: BlockDevice>(volume: &mut Volume<D>, dir: &Inode) -> Result<(Hasher, usize)> {
    let kind = index_checksum(volume, dir);
    let root = directory_blocks::find(volume, dir, 0)?;
    let block = volume.read_verified(root, kind)?;
    let info = layout::get::<IndexRoot>(block, 0)?.info;
    let levels = usize::from(info.indirect_levels) + 1;
    let is_known = usize::from(info.info_length) == size_of::<IndexInfo>();
    if !is_known || levels > max_levels(volume) {
        return corrupt(format!("the index of directory {} is invalid", dir.ino()));
    }
    Ok((hasher(volume, info.hash_version)?, levels))
}

/// The way to a name.
fn path<D: BlockDevice>(volume: &mut Volume<D>, dir: &Inode, name: &[u8]) -> Result<Path> {
    let (hasher, levels) = info(volume, dir)?;
    let hash = hasher.hash(name);
    let kind = index_checksum(volume, dir);
    let mut frames = Vec::with_capacity(levels);
    let mut logical = 0;
    for level in 0..levels {
        let number = directory_blocks::find(volume, dir, logical)?;
        let block = volume.read_verified(number, kind)?;
        let at = if level == 0 {
            ROOT_ENTRIES
        } else {
            NODE_ENTRIES
        };
        let frame = frame(block, number, at, hash)?;
        logical = entry(block, at, frame.index)?.block.get();
        frames.push(frame);
    }
    Ok(Path {
        hasher,
        hash,
        frames,
    })
}

/// The block of entries that a path leads to.
fn leaf<D: BlockDevice>(volume: &mut Volume<D>, dir: &Inode, frames: &[Frame]) -> Result<u64> {
    let Some(last) = frames.last() else {
        return corrupt("a directory's index has no levels");
    };
    let logical = entry(volume.read(last.block)?, last.at, last.index)?
        .block
        .get();
    directory_blocks::find(volume, dir, logical)
}

/// Goes on to the next block with names of this hash; returns whether there may be one.
fn next_leaf<D: BlockDevice>(volume: &mut Volume<D>, dir: &Inode, path: &mut Path) -> Result<bool> {
    let Path { hash, frames, .. } = path;
    let levels = frames.len();
    let Some(level) = frames
        .iter()
        .rposition(|frame| frame.index + 1 < frame.count)
    else {
        return Ok(false);
    };
    frames.truncate(level + 1);
    let Some(last) = frames.last_mut() else {
        return Ok(false);
    };
    last.index += 1;
    let next = *entry(volume.read(last.block)?, last.at, last.index)?;
    // The lowest bit says that names with this hash begin in the block before.
    if next.hash.get() & !1 != *hash {
        return Ok(false);
    }
    let mut logical = next.block.get();
    let kind = index_checksum(volume, dir);
    while frames.len() < levels {
        let number = directory_blocks::find(volume, dir, logical)?;
        let block = volume.read_verified(number, kind)?;
        let first = Frame {
            index: 0,
            ..frame(block, number, NODE_ENTRIES, 0)?
        };
        logical = entry(block, NODE_ENTRIES, 0)?.block.get();
        frames.push(first);
    }
    Ok(true)
}

/// Finds a name.
pub(super) fn find<D: BlockDevice>(
    volume: &mut Volume<D>,
    dir: &Inode,
    name: &[u8],
) -> Result<Option<Found>> {
    let mut path = path(volume, dir, name)?;
    let kind = entries_checksum(volume, dir);
    loop {
        let number = leaf(volume, dir, &path.frames)?;
        let block = volume.read_verified(number, kind)?;
        if let Some(found) = Found::in_block(block, number, name)? {
            return Ok(Some(found));
        }
        if !next_leaf(volume, dir, &mut path)? {
            return Ok(None);
        }
    }
}

/// Adds a name that does not exist. The caller writes the inode.
pub(super) fn insert<D: BlockDevice>(
    volume: &mut Volume<D>,
    dir: &mut Inode,
    new: &Entry<'_>,
) -> Result<()> {
    let kind = entries_checksum(volume, dir);
    for _ in 0..MAX_SPLITS {
        let Path { hasher, frames, .. } = path(volume, dir, new.name)?;
        let number = leaf(volume, dir, &frames)?;
        volume.read_verified(number, kind)?;
        if dirblock::insert(volume.write(number, kind)?, new)? {
            return Ok(());
        }
        match frames.last() {
            Some(last) if last.has_room() => split_leaf(volume, dir, hasher, *last, number)?,
            _ => split_node(volume, dir, &frames)?,
        }
    }
    corrupt(format!(
        "no room could be made for a name in directory {}",
        dir.ino()
    ))
}

/// Inserts an entry behind the one that a frame leads on by.
fn insert_entry<D: BlockDevice>(
    volume: &mut Volume<D>,
    dir: &Inode,
    frame: Frame,
    hash: u32,
    logical: u32,
) -> Result<()> {
    let kind = index_checksum(volume, dir);
    let block = volume.write(frame.block, kind)?;
    let place = frame.index + 1;
    let entries = layout::get_slice_mut::<IndexEntry>(block, frame.at, frame.count + 1)?;
    entries.copy_within(place..frame.count, place + 1);
    if let Some(entry) = entries.get_mut(place) {
        entry.hash.set(hash);
        entry.block.set(logical);
    }
    set_count(block, frame.at, frame.count + 1)
}

fn set_count(block: &mut [u8], at: usize, count: usize) -> Result<()> {
    let header = layout::get_mut::<IndexCount>(block, at)?;
    header.count.set(narrow(count)?);
    Ok(())
}

/// The first of the entries, sorted by hash, that go to a new block: those of the upper half,
/// by size.
fn split_point(slots: &[(u32, dirblock::Slot<'_>)], block_len: usize) -> usize {
    let half = block_len / 2;
    let mut size = 0;
    let mut split = slots.len();
    while let Some((_, slot)) = split.checked_sub(1).and_then(|last| slots.get(last)) {
        let needed = dirblock::needed(slot.entry.name.len());
        if size + needed / 2 > half {
            break;
        }
        size += needed;
        split -= 1;
    }
    if split == 0 || split == slots.len() {
        split = slots.len() / 2;
    }
    split
}

/// Moves the upper half of a block's names, by hash, to a new block.
fn split_leaf<D: BlockDevice>(
    volume: &mut Volume<D>,
    dir: &mut Inode,
    hasher: Hasher,
    above: Frame,
    number: u64,
) -> Result<()> {
    let kind = entries_checksum(volume, dir);
    let old = volume.read_verified(number, kind)?.to_vec();
    let mut slots = Vec::new();
    for slot in dirblock::used(&old) {
        let slot = slot?;
        slots.push((hasher.hash(slot.entry.name), slot));
    }
    slots.sort_by_key(|(hash, slot)| (*hash, slot.at));
    let split = split_point(&slots, old.len());
    let (Some((before, _)), Some((hash, _))) = (
        split.checked_sub(1).and_then(|n| slots.get(n)),
        slots.get(split),
    ) else {
        return corrupt(format!(
            "block {number} of a directory is full with fewer than two names"
        ));
    };
    // The lowest bit says that names with this hash begin in the block before.
    let hash = *hash + u32::from(hash == before);
    let (logical, new) = directory_blocks::append(volume, dir, kind)?;
    let (lower, upper) = slots.split_at(split);
    for (target, part) in [(number, lower), (new, upper)] {
        let entries = part.iter().map(|(_, slot)| slot.entry);
        directory_blocks::write_entries(volume, target, kind, entries)?;
    }
    insert_entry(volume, dir, above, hash, logical)
}

/// The entries of a block of the index, without the first `skip`.
fn copy_entries<D: BlockDevice>(
    volume: &mut Volume<D>,
    frame: &Frame,
    skip: usize,
) -> Result<Vec<IndexEntry>> {
    let block = volume.read(frame.block)?;
    let entries = layout::get_slice::<IndexEntry>(block, frame.at, frame.count)?;
    Ok(entries.get(skip..).unwrap_or_default().to_vec())
}

/// Drops all but the first `keep` entries of a block. They are filled with zeros: what is stored
/// depends on the entries alone.
fn truncate_entries(block: &mut [u8], frame: &Frame, keep: usize) -> Result<()> {
    let start = frame.at + keep * ENTRY;
    let end = frame.at + frame.count * ENTRY;
    block[start..end].fill(0);
    set_count(block, frame.at, keep)
}

/// Makes room for one more entry in the index: splits the lowest full block that has room
/// above it, or adds a level.
fn split_node<D: BlockDevice>(
    volume: &mut Volume<D>,
    dir: &mut Inode,
    frames: &[Frame],
) -> Result<()> {
    let kind = index_checksum(volume, dir);
    if let Some(level) = frames.iter().rposition(Frame::has_room) {
        let (Some(parent), Some(full)) = (frames.get(level), frames.get(level + 1)) else {
            return corrupt("a full block of a directory's index has room");
        };
        let keep = full.count / 2;
        let (logical, new) = directory_blocks::append(volume, dir, kind)?;
        let entries = copy_entries(volume, full, keep)?;
        write_node(volume, dir, new, &entries)?;
        truncate_entries(volume.write(full.block, kind)?, full, keep)?;
        let hash = entries.first().map_or(0, |first| first.hash.get());
        return insert_entry(volume, dir, *parent, hash, logical);
    }
    if frames.len() >= max_levels(volume) {
        return Err(Error::DirectoryFull);
    }
    let Some(root) = frames.first() else {
        return corrupt("a directory's index has no root");
    };
    let (logical, new) = directory_blocks::append(volume, dir, kind)?;
    let entries = copy_entries(volume, root, 0)?;
    write_node(volume, dir, new, &entries)?;
    let block = volume.write(root.block, kind)?;
    truncate_entries(block, root, 1)?;
    let first = layout::get_mut::<IndexEntry>(block, root.at)?;
    first.block.set(logical);
    layout::get_mut::<IndexRoot>(block, 0)?.info.indirect_levels += 1;
    Ok(())
}

/// Fills a block of the index below the root with these entries.
fn write_node<D: BlockDevice>(
    volume: &mut Volume<D>,
    dir: &Inode,
    number: u64,
    entries: &[IndexEntry],
) -> Result<()> {
    let limit = node_limit(volume, NODE_ENTRIES);
    let kind = index_checksum(volume, dir);
    let block = volume.write(number, kind)?;
    block.fill(0);
    let length = narrow(block.len())?;
    let whole = layout::get_mut::<EntryHeader>(block, 0)?;
    whole.record_len.set(length);
    layout::get_slice_mut::<IndexEntry>(block, NODE_ENTRIES, entries.len())?
        .copy_from_slice(entries);
    let header = layout::get_mut::<IndexCount>(block, NODE_ENTRIES)?;
    header.limit.set(narrow(limit)?);
    header.count.set(narrow(entries.len())?);
    Ok(())
}

/// Gives a directory of one block an index; its names move to a second block. The caller
/// writes the inode.
pub(super) fn create<D: BlockDevice>(volume: &mut Volume<D>, dir: &mut Inode) -> Result<()> {
    let version = volume.superblock().default_hash_version();
    hasher(volume, version)?;
    let kind = entries_checksum(volume, dir);
    let root = directory_blocks::find(volume, dir, 0)?;
    let old = volume.read_verified(root, kind)?.to_vec();
    let used = dirblock::used(&old).map(|slot| slot.map(|slot| slot.entry));
    let entries = used.collect::<Result<Vec<_>>>()?;
    let [dot, dot_dot, names @ ..] = &entries[..] else {
        return corrupt(format!("directory {} has no \"..\"", dir.ino()));
    };
    if dot.name != b"." || dot_dot.name != b".." {
        return corrupt(format!(
            "directory {} does not begin with \".\" and \"..\"",
            dir.ino()
        ));
    }
    let (logical, leaf) = directory_blocks::append(volume, dir, kind)?;
    directory_blocks::write_entries(volume, leaf, kind, names.iter().copied())?;

    let limit = node_limit(volume, ROOT_ENTRIES);
    let kind = index_checksum(volume, dir);
    let block = volume.write(root, kind)?;
    dirblock::fill(block, false, [*dot, *dot_dot].into_iter())?;
    let info = &mut layout::get_mut::<IndexRoot>(block, 0)?.info;
    info.hash_version = version;
    info.info_length = narrow(size_of::<IndexInfo>())?;
    let first = layout::get_mut::<IndexEntry>(block, ROOT_ENTRIES)?;
    first.block.set(logical);
    let header = layout::get_mut::<IndexCount>(block, ROOT_ENTRIES)?;
    header.limit.set(narrow(limit)?);
    header.count.set(1);
    dir.set_flag(inode_flags::INDEX, true);
    Ok(())
}
