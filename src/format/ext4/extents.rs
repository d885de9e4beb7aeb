//! Where a file's data is: the extent tree (kernel, `ext4_extents.h`).

use super::blocks::Purpose;
use super::checksum::Seal;
use super::error::{Error, Result, corrupt};
use super::filesystem::Filesystem;
use super::inode::Inode;
use super::layout::{get16, get32, ino, put16, put32};
use crate::format::block::{BlockDevice, BlockDeviceMut};

const MAGIC: u16 = 0xf30a;
/// Bytes of a node's header, and of each of its entries.
const ENTRY: usize = 12;
/// Bytes behind a node's entries that a checksum may take.
const TAIL: usize = 4;
/// Entries of the node in the inode.
const IN_INODE: usize = (ino::BLOCK_LEN - ENTRY) / ENTRY;
/// Levels that a tree has at most below the inode (`EXT4_MAX_EXTENT_DEPTH`).
const MAX_DEPTH: u16 = 5;
/// Blocks of the longest extent with data; above that, an extent's length says that its
/// blocks were reserved and never written.
const MAX_LENGTH: u32 = 32_768;

/// Blocks that follow each other in the file and on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The first block in the file.
    pub(super) logical: u32,
    /// Where it is on the disk.
    pub(super) physical: u64,
    pub(super) length: u32,
    /// Reads as zero whatever is there.
    pub(super) unwritten: bool,
}

impl Run {
    pub(super) fn end(&self) -> u64 {
        u64::from(self.logical) + u64::from(self.length)
    }
}

/// All of a file's blocks.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// Those with data, in the file's order.
    pub(super) runs: Vec<Run>,
    /// Those of the tree itself.
    pub(super) nodes: Vec<u64>,
}

struct Header {
    entries: usize,
    max: usize,
    depth: u16,
}

fn header(node: &[u8]) -> Result<Header> {
    let header = Header {
        entries: usize::from(get16(node, 2)),
        max: usize::from(get16(node, 4)),
        depth: get16(node, 6),
    };
    if get16(node, 0) != MAGIC
        || header.entries > header.max
        || ENTRY + header.max * ENTRY > node.len()
        || header.depth > MAX_DEPTH
    {
        return corrupt("a node of an extent tree has a header that cannot be right");
    }
    Ok(header)
}

fn entry(node: &[u8], index: usize) -> &[u8] {
    &node[ENTRY + index * ENTRY..ENTRY * 2 + index * ENTRY]
}

fn child(entry: &[u8]) -> u64 {
    u64::from(get32(entry, 4)) | u64::from(get16(entry, 8)) << 32
}

fn run(entry: &[u8]) -> Run {
    let length = u32::from(get16(entry, 4));
    let unwritten = length > MAX_LENGTH;
    Run {
        logical: get32(entry, 0),
        physical: u64::from(get32(entry, 8)) | u64::from(get16(entry, 6)) << 32,
        length: if unwritten {
            length - MAX_LENGTH
        } else {
            length
        },
        unwritten,
    }
}

fn put_header(node: &mut [u8], entries: usize, max: usize, depth: u16) {
    put16(node, 0, MAGIC);
    put16(node, 2, entries as u16);
    put16(node, 4, max as u16);
    put16(node, 6, depth);
    put32(node, 8, 0);
}

fn put_run(node: &mut [u8], index: usize, run: &Run) {
    let at = ENTRY + index * ENTRY;
    let length = run.length + if run.unwritten { MAX_LENGTH } else { 0 };
    put32(node, at, run.logical);
    put16(node, at + 4, length as u16);
    put16(node, at + 6, (run.physical >> 32) as u16);
    put32(node, at + 8, run.physical as u32);
}

fn put_child(node: &mut [u8], index: usize, logical: u32, block: u64) {
    let at = ENTRY + index * ENTRY;
    put32(node, at, logical);
    put32(node, at + 4, block as u32);
    put16(node, at + 8, (block >> 32) as u16);
    put16(node, at + 10, 0);
}

/// Cuts runs to what an extent can hold.
fn cut(runs: &[Run]) -> Vec<Run> {
    let mut cut = Vec::with_capacity(runs.len());
    for run in runs {
        let most = MAX_LENGTH - u32::from(run.unwritten);
        let mut done = 0;
        while done < run.length {
            let length = most.min(run.length - done);
            cut.push(Run {
                logical: run.logical + done,
                physical: run.physical + u64::from(done),
                length,
                ..*run
            });
            done += length;
        }
    }
    cut
}

/// What a node says of a logical block.
enum Step {
    Down(u64, u16),
    Found(Run),
    Hole,
}

fn step(node: &[u8], logical: u32, depth: Option<u16>) -> Result<Step> {
    let header = header(node)?;
    if depth.is_some_and(|depth| depth != header.depth) {
        return corrupt("an extent tree's levels do not follow each other");
    }
    // The last entry that does not begin behind the block.
    let (mut low, mut high) = (0, header.entries);
    while low < high {
        let middle = low.midpoint(high);
        if get32(entry(node, middle), 0) <= logical {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let Some(index) = low.checked_sub(1) else {
        return Ok(Step::Hole);
    };
    let entry = entry(node, index);
    if header.depth > 0 {
        return Ok(Step::Down(child(entry), header.depth - 1));
    }
    let run = run(entry);
    Ok(if u64::from(logical) < run.end() {
        Step::Found(run)
    } else {
        Step::Hole
    })
}

impl<D: BlockDevice> Filesystem<D> {
    /// The run with a block of the file; `None` for a hole.
    pub(super) fn map(&mut self, inode: &Inode, logical: u32) -> Result<Option<Run>> {
        if !inode.has_extents() {
            return self.map_indirect(inode, logical);
        }
        let seal = Seal::Extents(self.inode_seed(inode));
        let mut next = step(inode.block(), logical, None)?;
        loop {
            match next {
                Step::Hole => return Ok(None),
                Step::Found(run) => {
                    let geometry = self.sb.geometry;
                    geometry.check("an extent", run.physical, u64::from(run.length))?;
                    return Ok(Some(run));
                }
                Step::Down(block, depth) => {
                    self.sb
                        .geometry
                        .check("a node of an extent tree", block, 1)?;
                    let node = self.cache.read_sealed(block, seal)?;
                    next = step(node, logical, Some(depth))?;
                }
            }
        }
    }

    /// All of a file's blocks.
    pub(super) fn file_blocks(&mut self, inode: &Inode) -> Result<Blocks> {
        if !inode.has_extents() {
            return self.indirect_blocks(inode);
        }
        let mut blocks = Blocks::default();
        let root = inode.block().to_vec();
        let depth = header(&root)?.depth;
        let seal = Seal::Extents(self.inode_seed(inode));
        self.walk(&root, depth, (0, 1 << 32), seal, &mut blocks)?;
        Ok(blocks)
    }

    /// Goes through a node whose blocks lie within `range` of the file. Each entry must begin
    /// behind the one before and no node may be empty, so that a tree with loops ends soon.
    fn walk(
        &mut self,
        node: &[u8],
        depth: u16,
        range: (u64, u64),
        seal: Seal,
        blocks: &mut Blocks,
    ) -> Result<()> {
        let header = header(node)?;
        if header.depth != depth {
            return corrupt("an extent tree's levels do not follow each other");
        }
        let geometry = self.sb.geometry;
        let mut from = range.0;
        for index in 0..header.entries {
            let entry = entry(node, index);
            let logical = u64::from(get32(entry, 0));
            if logical < from || logical >= range.1 {
                return corrupt("an extent tree is not in order");
            }
            if depth == 0 {
                let run = run(entry);
                geometry.check("an extent", run.physical, u64::from(run.length))?;
                if run.length == 0 || run.end() > range.1 {
                    return corrupt("an extent's length cannot be right");
                }
                from = run.end();
                blocks.runs.push(run);
                continue;
            }
            let until = if index + 1 < header.entries {
                u64::from(get32(&node[ENTRY + (index + 1) * ENTRY..], 0))
            } else {
                range.1
            };
            if until <= logical {
                return corrupt("an extent tree is not in order");
            }
            let block = child(entry);
            geometry.check("a node of an extent tree", block, 1)?;
            let node = self.cache.read_sealed(block, seal)?.to_vec();
            if get16(&node, 2) == 0 {
                return corrupt("an extent tree has an empty node");
            }
            blocks.nodes.push(block);
            self.walk(&node, depth - 1, (logical, until), seal, blocks)?;
            from = until;
        }
        Ok(())
    }

    fn node_capacity(&self) -> usize {
        (self.sb.geometry.block_size as usize - ENTRY - TAIL) / ENTRY
    }

    /// Gives an inode without blocks a tree of these runs.
    pub(super) fn build_tree(&mut self, inode: &mut Inode, runs: &[Run]) -> Result<()> {
        self.require_extents();
        inode.set_flag(ino::EXTENTS, true);
        inode.block_mut().fill(0);
        let seal = Seal::Extents(self.inode_seed(inode));
        let runs = cut(runs);
        if runs.len() <= IN_INODE {
            let root = inode.block_mut();
            put_header(root, runs.len(), IN_INODE, 0);
            for (index, run) in runs.iter().enumerate() {
                put_run(root, index, run);
            }
            return Ok(());
        }
        let capacity = self.node_capacity();
        let mut taken = 0;
        let mut level: Vec<(u32, u64)> = Vec::new();
        for part in runs.chunks(capacity) {
            let block = self.take_metadata_block(seal)?;
            taken += 1;
            let node = self.cache.write(block, seal)?;
            put_header(node, part.len(), capacity, 0);
            for (index, run) in part.iter().enumerate() {
                put_run(node, index, run);
            }
            level.extend(part.first().map(|run| (run.logical, block)));
        }
        let mut depth = 1;
        while level.len() > IN_INODE {
            let mut above = Vec::new();
            for part in level.chunks(capacity) {
                let block = self.take_metadata_block(seal)?;
                taken += 1;
                let node = self.cache.write(block, seal)?;
                put_header(node, part.len(), capacity, depth);
                for (index, (logical, child)) in part.iter().enumerate() {
                    put_child(node, index, *logical, *child);
                }
                above.extend(part.first().map(|(logical, _)| (*logical, block)));
            }
            level = above;
            depth += 1;
        }
        let root = inode.block_mut();
        put_header(root, level.len(), IN_INODE, depth);
        for (index, (logical, child)) in level.iter().enumerate() {
            put_child(root, index, *logical, *child);
        }
        self.count_blocks(inode, taken, 0);
        Ok(())
    }

    /// Adds a block behind all that the file has. The caller counts it.
    pub(super) fn append_block(
        &mut self,
        inode: &mut Inode,
        logical: u32,
        physical: u64,
    ) -> Result<()> {
        let seal = Seal::Extents(self.inode_seed(inode));
        let new = Run {
            logical,
            physical,
            length: 1,
            unwritten: false,
        };
        // The rightmost nodes below the inode, from the top.
        let mut path: Vec<u64> = Vec::new();
        let root = header(inode.block())?;
        let mut depth = root.depth;
        let mut last = root.entries.checked_sub(1);
        let mut node = inode.block().to_vec();
        while depth > 0 {
            let Some(index) = last else {
                return corrupt("an extent tree has an empty node");
            };
            let block = child(entry(&node, index));
            self.sb
                .geometry
                .check("a node of an extent tree", block, 1)?;
            node = self.cache.read_sealed(block, seal)?.to_vec();
            let below = header(&node)?;
            if below.depth + 1 != depth {
                return corrupt("an extent tree's levels do not follow each other");
            }
            depth = below.depth;
            last = below.entries.checked_sub(1);
            path.push(block);
        }
        if let Some(index) = last {
            let mut run = run(entry(&node, index));
            if run.end() > u64::from(logical) {
                return corrupt("an extent tree goes on behind its file's end");
            }
            if run.end() == u64::from(logical)
                && run.physical + u64::from(run.length) == physical
                && run.length < MAX_LENGTH
                && !run.unwritten
            {
                run.length += 1;
                let leaf = self.tree_node(inode, path.last().copied(), seal)?;
                put_run(leaf, index, &run);
                return Ok(());
            }
        }
        self.append_run(inode, &path, root.depth, new, seal)
    }

    /// A node to be changed: a block, or the one in the inode.
    fn tree_node<'a>(
        &'a mut self,
        inode: &'a mut Inode,
        block: Option<u64>,
        seal: Seal,
    ) -> Result<&'a mut [u8]> {
        match block {
            Some(block) => self.cache.write(block, seal),
            None => Ok(inode.block_mut()),
        }
    }

    /// Adds an extent at the right end, below which `path` leads down.
    fn append_run(
        &mut self,
        inode: &mut Inode,
        path: &[u64],
        depth: u16,
        new: Run,
        seal: Seal,
    ) -> Result<()> {
        // The lowest node with room, counted from the leaf.
        let mut room = None;
        for up in 0..=path.len() {
            let block = path.len().checked_sub(up + 1).map(|index| path[index]);
            let node = self.tree_node(inode, block, seal)?;
            let header = header(node)?;
            if header.entries < header.max {
                room = Some((up, block, header));
                break;
            }
        }
        let Some((up, block, head)) = room else {
            if depth >= MAX_DEPTH {
                return Err(Error::Unsupported(
                    "a file in more pieces than an extent tree can hold".into(),
                ));
            }
            self.deepen(inode, seal)?;
            let top = child(entry(inode.block(), 0));
            let mut longer = vec![top];
            longer.extend_from_slice(path);
            return self.append_run(inode, &longer, depth + 1, new, seal);
        };
        // New nodes from the leaf up to below the one with room.
        let capacity = self.node_capacity();
        let mut below = None;
        for level in 0..up {
            let made = self.take_metadata_block(seal)?;
            self.count_blocks(inode, 1, 0);
            let node = self.cache.write(made, seal)?;
            put_header(node, 1, capacity, level as u16);
            match below {
                None => put_run(node, 0, &new),
                Some(child) => put_child(node, 0, new.logical, child),
            }
            below = Some(made);
        }
        let node = self.tree_node(inode, block, seal)?;
        match below {
            None => put_run(node, head.entries, &new),
            Some(child) => put_child(node, head.entries, new.logical, child),
        }
        put16(node, 2, head.entries as u16 + 1);
        Ok(())
    }

    /// Moves the node in the inode to a block of its own, below a new one.
    fn deepen(&mut self, inode: &mut Inode, seal: Seal) -> Result<()> {
        let head = header(inode.block())?;
        let block = self.take_metadata_block(seal)?;
        self.count_blocks(inode, 1, 0);
        let capacity = self.node_capacity();
        let node = self.cache.write(block, seal)?;
        node[..ino::BLOCK_LEN].copy_from_slice(inode.block());
        put_header(node, head.entries, capacity, head.depth);
        let first = get32(inode.block(), ENTRY);
        let root = inode.block_mut();
        root.fill(0);
        put_header(root, 1, IN_INODE, head.depth + 1);
        put_child(root, 0, first, block);
        Ok(())
    }
}

impl<D: BlockDeviceMut> Filesystem<D> {
    /// Gives back all of an inode's data blocks and those of its tree.
    pub(super) fn free_file_blocks(&mut self, inode: &mut Inode) -> Result<()> {
        let blocks = self.file_blocks(inode)?;
        let mut count = blocks.nodes.len() as u64;
        for run in &blocks.runs {
            self.free_blocks(run.physical, u64::from(run.length))?;
            count += u64::from(run.length);
        }
        for node in &blocks.nodes {
            self.free_blocks(*node, 1)?;
        }
        self.count_blocks(inode, 0, count);
        inode.block_mut().fill(0);
        if inode.has_extents() {
            put_header(inode.block_mut(), 0, IN_INODE, 0);
        }
        Ok(())
    }

    /// Gives an inode in the old block map an extent tree of the same blocks.
    pub(super) fn use_extents(&mut self, inode: &mut Inode) -> Result<()> {
        if inode.has_extents() {
            return Ok(());
        }
        let blocks = self.file_blocks(inode)?;
        for node in &blocks.nodes {
            self.free_blocks(*node, 1)?;
        }
        self.count_blocks(inode, 0, blocks.nodes.len() as u64);
        self.build_tree(inode, &blocks.runs)
    }

    /// Takes blocks for these ranges of a file's blocks, which ascend, and makes its tree.
    pub(super) fn place_file(
        &mut self,
        inode: &mut Inode,
        ranges: &[(u32, u64)],
    ) -> Result<Vec<Run>> {
        let total = ranges.iter().map(|(_, count)| count).sum();
        let taken = self.take_blocks(total, Purpose::Data)?;
        let mut runs = Vec::new();
        let mut pieces = taken.into_iter();
        let mut piece = (0, 0);
        for &(start, count) in ranges {
            let mut done = 0;
            while done < count {
                if piece.1 == 0 {
                    let Some(next) = pieces.next() else {
                        return corrupt("fewer blocks came than were asked for");
                    };
                    piece = next;
                }
                let length = piece.1.min(count - done).min(u64::from(MAX_LENGTH));
                runs.push(Run {
                    logical: start + done as u32,
                    physical: piece.0,
                    length: length as u32,
                    unwritten: false,
                });
                piece = (piece.0 + length, piece.1 - length);
                done += length;
            }
        }
        self.build_tree(inode, &runs)?;
        self.count_blocks(inode, total, 0);
        Ok(runs)
    }
}
