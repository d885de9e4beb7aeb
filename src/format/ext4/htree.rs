//! The index of a directory: hashes of names to the blocks that hold them (kernel,
//! `fs/ext4/namei.c`). Blocks of the index look like empty ones to whoever does not know it.

use super::checksum::{INDEX_TAIL, Seal, index_at};
use super::dirblock;
use super::error::{Error, Result, corrupt};
use super::filesystem::Filesystem;
use super::hash::Hasher;
use super::inode::Inode;
use super::layout::{get16, get32, incompat, ino, put16, put32, sb};
use crate::format::block::BlockDevice;

/// Bytes of an entry: a hash and a block; in the first, limit and count are in the hash's
/// place.
const ENTRY: usize = 8;
/// Where the root says what it is, behind `.` and `..`.
const INFO: usize = 24;
const INFO_LENGTH: u8 = 8;
/// Where entries begin in the root, and in other blocks of the index.
const ROOT_AT: usize = 32;
const NODE_AT: usize = 8;

/// A block of the index on the way to a hash.
#[derive(Debug, Clone, Copy)]
struct Frame {
    block: u64,
    at: usize,
    limit: usize,
    count: usize,
    /// The entry that leads on.
    index: usize,
}

fn entry(block: &[u8], at: usize, index: usize) -> (u32, u32) {
    let place = at + index * ENTRY;
    (get32(block, place), get32(block, place + 4))
}

/// Checks a block of the index, and finds the entry for a hash.
fn frame(block: &[u8], number: u64, at: usize, hash: u32) -> Result<Frame> {
    let limit = usize::from(get16(block, at));
    let count = usize::from(get16(block, at + 2));
    if index_at(block) != at || count == 0 || count > limit || at + limit * ENTRY > block.len() {
        return corrupt(format!(
            "block {number} of a directory's index cannot be right"
        ));
    }
    let (mut low, mut high) = (1, count);
    while low < high {
        let middle = low.midpoint(high);
        if entry(block, at, middle).0 <= hash {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(Frame {
        block: number,
        at,
        limit,
        count,
        index: low - 1,
    })
}

impl<D: BlockDevice> Filesystem<D> {
    fn index_seal(&self, dir: &Inode) -> Seal {
        Seal::Index(self.inode_seed(dir))
    }

    fn node_limit(&self, at: usize) -> usize {
        let tail = if self.sb.checksums.all().is_some() {
            INDEX_TAIL
        } else {
            0
        };
        (self.sb.geometry.block_size as usize - at - tail) / ENTRY
    }

    fn hasher(&self, version: u8) -> Result<Hasher> {
        let flags = get32(&self.sb.raw, sb::FLAGS);
        let seed = [0, 4, 8, 12].map(|at| get32(&self.sb.raw, sb::HASH_SEED + at));
        Hasher::new(version, flags & sb::UNSIGNED_HASH == 0, seed)
    }

    /// Levels of index blocks that a directory can have.
    fn max_levels(&self) -> usize {
        if self.sb.incompat() & incompat::LARGE_DIR != 0 {
            3
        } else {
            2
        }
    }

    /// The hasher of an indexed directory, and how many levels of index blocks it has.
    fn index_info(&mut self, dir: &Inode) -> Result<(Hasher, usize)> {
        let seal = self.index_seal(dir);
        let root = self.directory_block(dir, 0)?;
        let block = self.cache.read_sealed(root, seal)?;
        let info = &block[INFO..ROOT_AT];
        let (version, length, levels) = (info[4], info[5], usize::from(info[6]) + 1);
        if length != INFO_LENGTH || levels > self.max_levels() {
            return corrupt(format!(
                "the index of directory {} cannot be right",
                dir.ino
            ));
        }
        Ok((self.hasher(version)?, levels))
    }

    /// The index blocks on the way to a hash, from the root.
    fn index_path(&mut self, dir: &Inode, levels: usize, hash: u32) -> Result<Vec<Frame>> {
        let seal = self.index_seal(dir);
        let mut frames = Vec::with_capacity(levels);
        let mut logical = 0;
        for level in 0..levels {
            let number = self.directory_block(dir, logical)?;
            let block = self.cache.read_sealed(number, seal)?;
            let at = if level == 0 { ROOT_AT } else { NODE_AT };
            let frame = frame(block, number, at, hash)?;
            logical = entry(block, at, frame.index).1;
            frames.push(frame);
        }
        Ok(frames)
    }

    /// The block of entries that a path leads to.
    fn leaf(&mut self, dir: &Inode, frames: &[Frame]) -> Result<u64> {
        let Some(last) = frames.last() else {
            return corrupt("a directory's index has no levels");
        };
        let block = self.cache.read(last.block)?;
        let logical = entry(block, last.at, last.index).1;
        self.directory_block(dir, logical)
    }

    /// Goes on to the next block where names with this hash may be; whether there is one.
    fn next_leaf(&mut self, dir: &Inode, frames: &mut Vec<Frame>, hash: u32) -> Result<bool> {
        let levels = frames.len();
        let Some(level) = frames
            .iter()
            .rposition(|frame| frame.index + 1 < frame.count)
        else {
            return Ok(false);
        };
        let Some(frame) = frames.get_mut(level) else {
            return Ok(false);
        };
        frame.index += 1;
        let (block, at, index) = (frame.block, frame.at, frame.index);
        let (next, mut logical) = entry(self.cache.read(block)?, at, index);
        if next & !1 != hash {
            return Ok(false);
        }
        frames.truncate(level + 1);
        let seal = self.index_seal(dir);
        while frames.len() < levels {
            let number = self.directory_block(dir, logical)?;
            let block = self.cache.read_sealed(number, seal)?;
            let first = Frame {
                index: 0,
                ..self::frame(block, number, NODE_AT, 0)?
            };
            logical = entry(block, NODE_AT, 0).1;
            frames.push(first);
        }
        Ok(true)
    }

    /// Finds a name: its block and its place there, with inode and type code.
    pub(super) fn find_indexed(
        &mut self,
        dir: &Inode,
        name: &[u8],
    ) -> Result<Option<(u64, usize, u32, u8)>> {
        let (hasher, levels) = self.index_info(dir)?;
        let hash = hasher.hash(name);
        let mut frames = self.index_path(dir, levels, hash)?;
        let seal = self.entries_seal(dir);
        loop {
            let number = self.leaf(dir, &frames)?;
            let block = self.cache.read_sealed(number, seal)?;
            if let Some(slot) = dirblock::find(block, name)? {
                return Ok(Some((number, slot.at, slot.ino, slot.kind)));
            }
            if !self.next_leaf(dir, &mut frames, hash)? {
                return Ok(None);
            }
        }
    }

    /// Adds a name that is not there.
    pub(super) fn add_indexed(
        &mut self,
        dir: &mut Inode,
        name: &[u8],
        ino: u32,
        kind: u8,
    ) -> Result<()> {
        let seal = self.entries_seal(dir);
        // Every round makes room; a name needs few.
        for _ in 0..32 {
            let (hasher, levels) = self.index_info(dir)?;
            let hash = hasher.hash(name);
            let frames = self.index_path(dir, levels, hash)?;
            let number = self.leaf(dir, &frames)?;
            self.cache.read_sealed(number, seal)?;
            if dirblock::insert(self.cache.write(number, seal)?, ino, name, kind)? {
                return Ok(());
            }
            match frames.last() {
                Some(last) if last.count < last.limit => {
                    self.split_leaf(dir, hasher, *last, number)?;
                }
                _ => self.make_room(dir, &frames)?,
            }
        }
        corrupt(format!("directory {} does not take a name", dir.ino))
    }

    /// Inserts an entry behind the one that a frame leads on by.
    fn insert_entry(&mut self, seal: Seal, frame: Frame, hash: u32, logical: u32) -> Result<()> {
        let block = self.cache.write(frame.block, seal)?;
        let place = frame.at + (frame.index + 1) * ENTRY;
        let end = frame.at + frame.count * ENTRY;
        block.copy_within(place..end, place + ENTRY);
        put32(block, place, hash);
        put32(block, place + 4, logical);
        put16(block, frame.at + 2, frame.count as u16 + 1);
        Ok(())
    }

    /// Moves the upper half of a block's names, by hash, to a new block.
    fn split_leaf(
        &mut self,
        dir: &mut Inode,
        hasher: Hasher,
        above: Frame,
        number: u64,
    ) -> Result<()> {
        let seal = self.entries_seal(dir);
        let old = self.cache.read_sealed(number, seal)?.to_vec();
        let mut slots = Vec::new();
        for slot in dirblock::slots(&old) {
            let slot = slot?;
            if slot.ino != 0 {
                slots.push((hasher.hash(slot.name), slot));
            }
        }
        slots.sort_by_key(|(hash, slot)| (*hash, slot.at));
        let half = old.len() / 2;
        let mut size = 0;
        let mut split = slots.len();
        while let Some((_, slot)) = split.checked_sub(1).and_then(|last| slots.get(last)) {
            let needed = dirblock::needed(slot.name.len());
            if size + needed / 2 > half {
                break;
            }
            size += needed;
            split -= 1;
        }
        if split == 0 || split == slots.len() {
            split = slots.len() / 2;
        }
        let (Some((before, _)), Some((hash, _))) = (
            split.checked_sub(1).and_then(|n| slots.get(n)),
            slots.get(split),
        ) else {
            return corrupt(format!("block {number} of a directory cannot be split"));
        };
        // Names with one hash in two blocks: the second says so.
        let hash = *hash + u32::from(hash == before);
        let (logical, new) = self.add_directory_block(dir, seal)?;
        let has_tail = self.sb.checksums.all().is_some();
        let (lower, upper) = slots.split_at(split);
        for (target, part) in [(number, lower), (new, upper)] {
            let block = self.cache.write(target, seal)?;
            let entries = part
                .iter()
                .map(|(_, slot)| (slot.ino, slot.name, slot.kind));
            dirblock::fill(block, has_tail, entries);
        }
        let seal = self.index_seal(dir);
        self.insert_entry(seal, above, hash, logical)
    }

    /// Makes room for one more entry in the index: splits the lowest full block that has
    /// room above it, or adds a level.
    fn make_room(&mut self, dir: &mut Inode, frames: &[Frame]) -> Result<()> {
        let seal = self.index_seal(dir);
        let above = frames.iter().rposition(|frame| frame.count < frame.limit);
        if let Some(level) = above {
            let (Some(parent), Some(full)) = (frames.get(level), frames.get(level + 1)) else {
                return corrupt("a directory's index is full and is not");
            };
            let keep = full.count / 2;
            let (logical, new) = self.add_directory_block(dir, seal)?;
            let moved = full.at + keep * ENTRY..full.at + full.count * ENTRY;
            let entries = self.cache.read(full.block)?[moved.clone()].to_vec();
            self.fill_node(new, seal, &entries)?;
            let block = self.cache.write(full.block, seal)?;
            put16(block, full.at + 2, keep as u16);
            // So that what is stored does not depend on what was.
            block[moved].fill(0);
            return self.insert_entry(seal, *parent, get32(&entries, 0), logical);
        }
        if frames.len() >= self.max_levels() {
            return Err(Error::DirectoryFull);
        }
        let Some(root) = frames.first() else {
            return corrupt("a directory's index has no root");
        };
        let (logical, new) = self.add_directory_block(dir, seal)?;
        let end = root.at + root.count * ENTRY;
        let entries = self.cache.read(root.block)?[root.at..end].to_vec();
        self.fill_node(new, seal, &entries)?;
        let block = self.cache.write(root.block, seal)?;
        block[root.at + ENTRY..end].fill(0);
        put16(block, root.at + 2, 1);
        put32(block, root.at + 4, logical);
        block[INFO + 6] += 1;
        Ok(())
    }

    /// Makes a block of the index below the root, of these entries.
    fn fill_node(&mut self, number: u64, seal: Seal, entries: &[u8]) -> Result<()> {
        let limit = self.node_limit(NODE_AT);
        let block = self.cache.write(number, seal)?;
        block.fill(0);
        let length = block.len() as u16;
        put16(block, 4, length);
        block[NODE_AT..NODE_AT + entries.len()].copy_from_slice(entries);
        put16(block, NODE_AT, limit as u16);
        put16(block, NODE_AT + 2, (entries.len() / ENTRY) as u16);
        Ok(())
    }

    /// Gives a directory of one block an index; its names move to a second block.
    pub(super) fn make_index(&mut self, dir: &mut Inode) -> Result<()> {
        let version = self.sb.raw[sb::HASH_VERSION];
        self.hasher(version)?;
        let seal = self.entries_seal(dir);
        let root = self.directory_block(dir, 0)?;
        let old = self.cache.read_sealed(root, seal)?.to_vec();
        let mut slots = Vec::new();
        for slot in dirblock::slots(&old) {
            let slot = slot?;
            if slot.ino != 0 {
                slots.push(slot);
            }
        }
        let [dot, dot_dot, names @ ..] = &slots[..] else {
            return corrupt(format!("directory {} has no \"..\"", dir.ino));
        };
        if dot.name != b"." || dot_dot.name != b".." {
            return corrupt(format!(
                "directory {} does not begin with \".\" and \"..\"",
                dir.ino
            ));
        }
        let (logical, leaf) = self.add_directory_block(dir, seal)?;
        let has_tail = self.sb.checksums.all().is_some();
        let entries = names.iter().map(|slot| (slot.ino, slot.name, slot.kind));
        dirblock::fill(self.cache.write(leaf, seal)?, has_tail, entries);

        let limit = self.node_limit(ROOT_AT);
        let seal = self.index_seal(dir);
        let block = self.cache.write(root, seal)?;
        let both = [dot, dot_dot].map(|slot| (slot.ino, slot.name, slot.kind));
        dirblock::fill(block, false, both.into_iter());
        block[INFO + 4] = version;
        block[INFO + 5] = INFO_LENGTH;
        put16(block, ROOT_AT, limit as u16);
        put16(block, ROOT_AT + 2, 1);
        put32(block, ROOT_AT + 4, logical);
        dir.set_flag(ino::INDEX, true);
        Ok(())
    }
}
