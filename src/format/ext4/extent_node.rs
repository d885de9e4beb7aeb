//! One node of an extent tree (kernel, `ext4_extents.h`).

use super::error::{Result, corrupt, narrow};
use super::layout::{
    self, BLOCK_MAP_LEN, Extent, ExtentHeader, ExtentIndex, ExtentTail, join48, split48,
};
use super::run::Run;

/// Most levels of a tree below the inode (`EXT4_MAX_EXTENT_DEPTH`).
pub(super) const MAX_DEPTH: u16 = 5;
/// Blocks of the longest extent with data.
pub(super) const MAX_EXTENT_BLOCKS: u16 = 32_768;
/// Entries of the node in the inode.
pub(super) const INODE_CAPACITY: usize = capacity(BLOCK_MAP_LEN);

/// Bytes of a header, and of an entry of either kind.
const ENTRY: usize = size_of::<ExtentHeader>();
const _: () = assert!(size_of::<Extent>() == ENTRY && size_of::<ExtentIndex>() == ENTRY);

const fn capacity(length: usize) -> usize {
    (length - ENTRY) / ENTRY
}

/// Entries of a node in a block of its own.
pub(super) fn block_capacity(block_len: usize) -> usize {
    capacity(block_len - size_of::<ExtentTail>())
}

/// A node below another one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Child {
    /// The first block in the file that it covers.
    pub(super) logical: u32,
    /// Where it is on the disk.
    pub(super) block: u64,
}

/// A node's entries.
#[derive(Debug, Clone, Copy)]
pub(super) enum Entries<'a> {
    Leaf(&'a [Extent]),
    Index(&'a [ExtentIndex]),
}

/// A node, of which the header fits its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node<'a> {
    /// Levels below.
    pub(super) depth: u16,
    pub(super) entries: Entries<'a>,
    /// There is room for one more entry.
    pub(super) has_room: bool,
}

/// What a node says of a block of the file.
pub(super) enum Step {
    /// The child that covers it.
    Descend(u64),
    Found(Run),
    Hole,
}

/// The run of a leaf's entry.
pub(super) fn run(extent: &Extent) -> Run {
    let length = extent.len.get();
    let unwritten = length > MAX_EXTENT_BLOCKS;
    Run {
        logical: extent.block.get(),
        physical: join48(extent.start_lo, extent.start_hi),
        length: u32::from(if unwritten {
            length - MAX_EXTENT_BLOCKS
        } else {
            length
        }),
        unwritten,
    }
}

/// The child of an entry above the leaves.
pub(super) fn child(index: &ExtentIndex) -> Child {
    Child {
        logical: index.block.get(),
        block: join48(index.leaf_lo, index.leaf_hi),
    }
}

impl<'a> Node<'a> {
    /// Checks a node, which must be of this depth where one is expected.
    pub(super) fn parse(bytes: &'a [u8], expected_depth: Option<u16>) -> Result<Self> {
        let header = layout::get::<ExtentHeader>(bytes, 0)?;
        let (count, max) = (header.entries.get(), header.max.get());
        let depth = header.depth.get();
        if header.magic != ExtentHeader::MAGIC
            || count > max
            || ENTRY + usize::from(max) * ENTRY > bytes.len()
            || depth > MAX_DEPTH
        {
            return corrupt("a node of an extent tree has an invalid header");
        }
        if expected_depth.is_some_and(|expected| expected != depth) {
            return corrupt("a node of an extent tree is not of its level");
        }
        let length = usize::from(count);
        Ok(Self {
            depth,
            entries: if depth == 0 {
                Entries::Leaf(layout::get_slice(bytes, ENTRY, length)?)
            } else {
                Entries::Index(layout::get_slice(bytes, ENTRY, length)?)
            },
            has_room: count < max,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        match self.entries {
            Entries::Leaf(extents) => extents.is_empty(),
            Entries::Index(indexes) => indexes.is_empty(),
        }
    }

    /// What the node says of a block of the file.
    pub(super) fn find(&self, logical: u32) -> Step {
        // The last entry that does not begin behind the block.
        match self.entries {
            Entries::Leaf(extents) => {
                let next = extents.partition_point(|extent| extent.block.get() <= logical);
                let extent = next.checked_sub(1).and_then(|last| extents.get(last));
                match extent.map(run) {
                    Some(run) if u64::from(logical) < run.end() => Step::Found(run),
                    _ => Step::Hole,
                }
            }
            Entries::Index(indexes) => {
                let next = indexes.partition_point(|index| index.block.get() <= logical);
                let index = next.checked_sub(1).and_then(|last| indexes.get(last));
                index.map_or(Step::Hole, |index| Step::Descend(child(index).block))
            }
        }
    }
}

fn set_header(node: &mut [u8], count: usize, max: usize, depth: u16) -> Result<()> {
    let header = layout::get_mut::<ExtentHeader>(node, 0)?;
    header.magic.set(ExtentHeader::MAGIC);
    header.entries.set(narrow(count)?);
    header.max.set(narrow(max)?);
    header.depth.set(depth);
    header.generation.set(0);
    Ok(())
}

/// Writes an entry of a leaf.
pub(super) fn set_run(node: &mut [u8], index: usize, run: &Run) -> Result<()> {
    let extent = layout::get_mut::<Extent>(node, ENTRY + index * ENTRY)?;
    let excess = if run.unwritten {
        u32::from(MAX_EXTENT_BLOCKS)
    } else {
        0
    };
    extent.block.set(run.logical);
    extent.len.set(narrow(run.length + excess)?);
    (extent.start_lo, extent.start_hi) = split48(run.physical);
    Ok(())
}

fn set_child(node: &mut [u8], index: usize, child: Child) -> Result<()> {
    let entry = layout::get_mut::<ExtentIndex>(node, ENTRY + index * ENTRY)?;
    entry.block.set(child.logical);
    (entry.leaf_lo, entry.leaf_hi) = split48(child.block);
    entry.unused.set(0);
    Ok(())
}

/// Writes a leaf with room for `max` entries.
pub(super) fn write_leaf(node: &mut [u8], max: usize, runs: &[Run]) -> Result<()> {
    set_header(node, runs.len(), max, 0)?;
    let mut entries = runs.iter().enumerate();
    entries.try_for_each(|(index, run)| set_run(node, index, run))
}

/// Writes a node above the leaves with room for `max` entries.
pub(super) fn write_index(
    node: &mut [u8],
    max: usize,
    depth: u16,
    children: &[Child],
) -> Result<()> {
    set_header(node, children.len(), max, depth)?;
    let mut entries = children.iter().enumerate();
    entries.try_for_each(|(index, child)| set_child(node, index, *child))
}

fn add_entry(node: &mut [u8]) -> Result<usize> {
    let header = layout::get_mut::<ExtentHeader>(node, 0)?;
    let count = header.entries.get();
    header.entries.set(count + 1);
    Ok(usize::from(count))
}

/// Adds an entry to a leaf that has room.
pub(super) fn push_run(node: &mut [u8], run: &Run) -> Result<()> {
    let index = add_entry(node)?;
    set_run(node, index, run)
}

/// Adds an entry to a node above the leaves that has room.
pub(super) fn push_child(node: &mut [u8], child: Child) -> Result<()> {
    let index = add_entry(node)?;
    set_child(node, index, child)
}

/// Copies a node to a block, where it gets room for `max` entries.
pub(super) fn copy_to_block(node: &[u8], block: &mut [u8], max: usize) -> Result<()> {
    let header = *layout::get::<ExtentHeader>(node, 0)?;
    block[..node.len()].copy_from_slice(node);
    set_header(
        block,
        usize::from(header.entries.get()),
        max,
        header.depth.get(),
    )
}
