//! Extent trees: where a file's data is.

use zerocopy::little_endian::U32;

use super::blocks;
use super::checksum::ChecksumKind;
use super::error::{Error, Result, corrupt};
use super::extent_node::{
    self, Child, Entries, INODE_CAPACITY, MAX_DEPTH, MAX_EXTENT_BLOCKS, Node, Step, child, run,
};
use super::inode::Inode;
use super::inode_table::{checksum_seed, count_blocks};
use super::layout::{incompat, inode_flags};
use super::run::{FileBlocks, Run};
use super::volume::Volume;
use crate::format::block::BlockDevice;

/// What is said of a node in errors.
const NODE: &str = "a node of an extent tree";

fn checksum_kind<D: BlockDevice>(volume: &Volume<D>, inode: &Inode) -> ChecksumKind {
    ChecksumKind::ExtentNode(checksum_seed(volume, inode))
}

/// The run with a block of the file; `None` for a hole.
pub(super) fn find<D: BlockDevice>(
    volume: &mut Volume<D>,
    inode: &Inode,
    logical: u32,
) -> Result<Option<Run>> {
    let kind = checksum_kind(volume, inode);
    let root = Node::parse(inode.block(), None)?;
    let mut depth = root.depth;
    let mut step = root.find(logical);
    loop {
        match step {
            Step::Hole => return Ok(None),
            Step::Found(run) => {
                let length = u64::from(run.length);
                volume.geometry().check("an extent", run.physical, length)?;
                return Ok(Some(run));
            }
            Step::Descend(block) => {
                volume.geometry().check(NODE, block, 1)?;
                // Only a node above the leaves has children.
                depth -= 1;
                let node = volume.read_verified(block, kind)?;
                step = Node::parse(node, Some(depth))?.find(logical);
            }
        }
    }
}

/// All of a file's blocks.
pub(super) fn all<D: BlockDevice>(volume: &mut Volume<D>, inode: &Inode) -> Result<FileBlocks> {
    let mut blocks = FileBlocks::default();
    let kind = checksum_kind(volume, inode);
    let root = Node::parse(inode.block(), None)?;
    collect(volume, root, (0, 1 << 32), kind, &mut blocks)?;
    Ok(blocks)
}

/// Collects the blocks below a node, which must lie within `range` of the file. Each entry
/// must begin behind the one before and no node may be empty, so that a tree with loops ends
/// soon.
fn collect<D: BlockDevice>(
    volume: &mut Volume<D>,
    node: Node<'_>,
    range: (u64, u64),
    kind: ChecksumKind,
    blocks: &mut FileBlocks,
) -> Result<()> {
    let mut from = range.0;
    let check_order = |logical: u64, from: u64| {
        if logical < from || logical >= range.1 {
            return corrupt("the entries of an extent tree are not in order");
        }
        Ok(())
    };
    match node.entries {
        Entries::Leaf(extents) => {
            for run in extents.iter().map(run) {
                check_order(u64::from(run.logical), from)?;
                let length = u64::from(run.length);
                volume.geometry().check("an extent", run.physical, length)?;
                if run.length == 0 || run.end() > range.1 {
                    return corrupt("the length of an extent is out of range");
                }
                from = run.end();
                blocks.runs.push(run);
            }
        }
        Entries::Index(indexes) => {
            let mut children = indexes.iter().map(child).peekable();
            while let Some(child) = children.next() {
                let logical = u64::from(child.logical);
                check_order(logical, from)?;
                let next = children.peek();
                let until = next.map_or(range.1, |next| u64::from(next.logical));
                if until <= logical {
                    return corrupt("the entries of an extent tree are not in order");
                }
                volume.geometry().check(NODE, child.block, 1)?;
                let bytes = volume.read_verified(child.block, kind)?.to_vec();
                let below = Node::parse(&bytes, Some(node.depth - 1))?;
                if below.is_empty() {
                    return corrupt("an extent tree has an empty node");
                }
                blocks.nodes.push(child.block);
                collect(volume, below, (logical, until), kind, blocks)?;
                from = until;
            }
        }
    }
    Ok(())
}

/// Cuts runs to what an extent can hold.
fn cut(runs: &[Run]) -> Vec<Run> {
    let mut cut = Vec::with_capacity(runs.len());
    for run in runs {
        let most = u32::from(MAX_EXTENT_BLOCKS) - u32::from(run.unwritten);
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

fn block_capacity<D: BlockDevice>(volume: &Volume<D>) -> usize {
    extent_node::block_capacity(volume.geometry().block_len())
}

/// Gives an inode without blocks a tree of these runs. The caller counts their blocks.
pub(super) fn build<D: BlockDevice>(
    volume: &mut Volume<D>,
    inode: &mut Inode,
    runs: &[Run],
) -> Result<()> {
    volume.superblock_mut().add_incompat(incompat::EXTENTS);
    inode.set_flag(inode_flags::EXTENTS, true);
    inode.block_mut().fill(0);
    let runs = cut(runs);
    if runs.len() <= INODE_CAPACITY {
        return extent_node::write_leaf(inode.block_mut(), INODE_CAPACITY, &runs);
    }
    let kind = checksum_kind(volume, inode);
    let capacity = block_capacity(volume);
    let mut nodes = 0;
    let mut level: Vec<Child> = Vec::new();
    for part in runs.chunks(capacity) {
        let block = blocks::allocate_metadata(volume, kind)?;
        nodes += 1;
        extent_node::write_leaf(volume.write(block, kind)?, capacity, part)?;
        let logical = part.first().map(|run| run.logical);
        level.extend(logical.map(|logical| Child { logical, block }));
    }
    let mut depth = 1;
    while level.len() > INODE_CAPACITY {
        let mut above = Vec::new();
        for part in level.chunks(capacity) {
            let block = blocks::allocate_metadata(volume, kind)?;
            nodes += 1;
            extent_node::write_index(volume.write(block, kind)?, capacity, depth, part)?;
            above.extend(part.first().map(|first| Child { block, ..*first }));
        }
        level = above;
        depth += 1;
    }
    extent_node::write_index(inode.block_mut(), INODE_CAPACITY, depth, &level)?;
    count_blocks(volume, inode, nodes, 0);
    Ok(())
}

/// Makes the tree of an inode empty.
pub(super) fn clear(inode: &mut Inode) -> Result<()> {
    inode.block_mut().fill(0);
    extent_node::write_leaf(inode.block_mut(), INODE_CAPACITY, &[])
}

/// The right end of a tree.
struct RightEnd {
    /// The rightmost nodes below the inode, from the top.
    path: Vec<u64>,
    /// The last extent, and its place in its node.
    last: Option<(usize, Run)>,
}

fn right_end<D: BlockDevice>(
    volume: &mut Volume<D>,
    inode: &Inode,
    kind: ChecksumKind,
) -> Result<RightEnd> {
    let mut path = Vec::new();
    let mut bytes = inode.block().to_vec();
    let mut depth = None;
    loop {
        let node = Node::parse(&bytes, depth)?;
        match node.entries {
            Entries::Leaf(extents) => {
                let last = extents.iter().map(run).enumerate().next_back();
                return Ok(RightEnd { path, last });
            }
            Entries::Index(indexes) => {
                let Some(last) = indexes.last() else {
                    return corrupt("an extent tree has an empty node");
                };
                let block = child(last).block;
                volume.geometry().check(NODE, block, 1)?;
                depth = Some(node.depth - 1);
                path.push(block);
                bytes = volume.read_verified(block, kind)?.to_vec();
            }
        }
    }
}

/// Adds a block behind all that the file has. The caller counts it.
pub(super) fn append<D: BlockDevice>(
    volume: &mut Volume<D>,
    inode: &mut Inode,
    logical: u32,
    physical: u64,
) -> Result<()> {
    let kind = checksum_kind(volume, inode);
    let RightEnd { path, last } = right_end(volume, inode, kind)?;
    if let Some((index, mut run)) = last {
        if run.end() > u64::from(logical) {
            return corrupt("an extent tree has blocks behind its file's end");
        }
        if run.end() == u64::from(logical)
            && run.physical + u64::from(run.length) == physical
            && run.length < u32::from(MAX_EXTENT_BLOCKS)
            && !run.unwritten
        {
            run.length += 1;
            let leaf = node_mut(volume, inode, path.last().copied(), kind)?;
            return extent_node::set_run(leaf, index, &run);
        }
    }
    let new = Run {
        logical,
        physical,
        length: 1,
        unwritten: false,
    };
    append_run(volume, inode, path, &new, kind)
}

/// A node to be changed: a block, or the one in the inode.
fn node_mut<'a, D: BlockDevice>(
    volume: &'a mut Volume<D>,
    inode: &'a mut Inode,
    block: Option<u64>,
    kind: ChecksumKind,
) -> Result<&'a mut [u8]> {
    match block {
        Some(block) => volume.write(block, kind),
        None => Ok(inode.block_mut()),
    }
}

/// Adds an extent at the right end, to which `path` leads from below the inode.
fn append_run<D: BlockDevice>(
    volume: &mut Volume<D>,
    inode: &mut Inode,
    mut path: Vec<u64>,
    new: &Run,
    kind: ChecksumKind,
) -> Result<()> {
    let capacity = block_capacity(volume);
    loop {
        // The lowest node with room, as levels above the leaf.
        for up in 0..=path.len() {
            let block = path.len().checked_sub(up + 1).map(|index| path[index]);
            let node = node_mut(volume, inode, block, kind)?;
            if !Node::parse(node, None)?.has_room {
                continue;
            }
            // New nodes from the leaf up to below the one with room.
            let mut below = None;
            for level in (0..MAX_DEPTH).take(up) {
                let made = blocks::allocate_metadata(volume, kind)?;
                count_blocks(volume, inode, 1, 0);
                let node = volume.write(made, kind)?;
                match below {
                    None => extent_node::write_leaf(node, capacity, &[*new])?,
                    Some(child) => extent_node::write_index(node, capacity, level, &[child])?,
                }
                below = Some(Child {
                    logical: new.logical,
                    block: made,
                });
            }
            let node = node_mut(volume, inode, block, kind)?;
            return match below {
                None => extent_node::push_run(node, new),
                Some(child) => extent_node::push_child(node, child),
            };
        }
        path.insert(0, deepen(volume, inode, kind)?);
    }
}

/// Moves the node in the inode to a block of its own, below a new one; returns that block.
fn deepen<D: BlockDevice>(
    volume: &mut Volume<D>,
    inode: &mut Inode,
    kind: ChecksumKind,
) -> Result<u64> {
    let root = Node::parse(inode.block(), None)?;
    if root.depth >= MAX_DEPTH {
        return Err(Error::Unsupported(
            "a file in more pieces than an extent tree can hold".into(),
        ));
    }
    let depth = root.depth + 1;
    let logical = match root.entries {
        Entries::Leaf(extents) => extents.first().map(|extent| extent.block),
        Entries::Index(indexes) => indexes.first().map(|index| index.block),
    };
    let logical = logical.map_or(0, U32::get);
    let block = blocks::allocate_metadata(volume, kind)?;
    count_blocks(volume, inode, 1, 0);
    let capacity = block_capacity(volume);
    extent_node::copy_to_block(inode.block(), volume.write(block, kind)?, capacity)?;
    let root = inode.block_mut();
    root.fill(0);
    extent_node::write_index(root, INODE_CAPACITY, depth, &[Child { logical, block }])?;
    Ok(block)
}
