//! Reading ext4, with nothing shared with the engine that writes it.
//!
//! Just what the filesystems of overlaybd layers have; anything else is refused by name.
//! Source: Linux `Documentation/filesystems/ext4/`.

use std::io;

use super::bytes::{Bytes, damaged};
use crate::format::block::BlockDevice;

pub(super) const ROOT_INODE: u32 = 2;

/// Features that change what is read here, by bit, and those of them that are known.
const FILE_TYPE: u32 = 0x2;
const EXTENTS: u32 = 0x40;
const WIDE: u32 = 0x80;
const FLEX_GROUPS: u32 = 0x200;
const CHECKSUM_SEED: u32 = 0x2000;
const LARGE_DIRECTORIES: u32 = 0x4000;
const KNOWN: u32 = FILE_TYPE | EXTENTS | WIDE | FLEX_GROUPS | CHECKSUM_SEED | LARGE_DIRECTORIES;

/// Flags of an inode.
const HAS_EXTENTS: u32 = 0x8_0000;
/// Levels of an extent tree.
const MAX_DEPTH: u16 = 5;
/// An extent this long, less its own length, is allocated and not written.
const UNWRITTEN: u16 = 32768;

/// Most groups of blocks whose descriptors are read: with blocks of 4 KiB, those of 128 TiB.
const MAX_GROUPS: u32 = 1 << 20;

/// A filesystem.
pub(super) struct Ext4<D> {
    device: D,
    block: u64,
    inodes: u32,
    inodes_per_group: u32,
    inode_size: u64,
    descriptors: u64,
    descriptor_size: u64,
    blocks: u64,
}

/// An inode as it is stored.
pub(super) struct Inode {
    bytes: Vec<u8>,
    pub(super) mode: u16,
    pub(super) links: u16,
    pub(super) size: u64,
    flags: u32,
}

/// A run of a file's blocks, in blocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) logical: u64,
    pub(super) blocks: u64,
    physical: u64,
}

/// An extent tree as it is read.
#[derive(Default)]
struct ExtentTree {
    extents: Vec<Extent>,
    /// Behind the last extent, in the file's blocks.
    end: u64,
}

/// An entry of a directory.
pub(super) struct DirectoryEntry {
    pub(super) name: Vec<u8>,
    pub(super) inode: u32,
    pub(super) file_type: u8,
}

impl<D: BlockDevice> Ext4<D> {
    pub(super) fn open(device: D) -> io::Result<Self> {
        let mut bytes = [0; 1024];
        device.read_at(1024, &mut bytes)?;
        let super_block = Bytes(&bytes);
        if super_block.u16(0x38)? != 0xef53 {
            return Err(damaged("there is no ext4 filesystem on the disk"));
        }
        let features = super_block.u32(0x60)?;
        if features & !KNOWN != 0 || features & FILE_TYPE == 0 {
            return Err(damaged(format!(
                "the ext4 filesystem has features ({features:#x}) that are not read here"
            )));
        }
        let shift = super_block.u32(0x18)?;
        if shift > 6 {
            return Err(damaged(format!("blocks of 2^{shift} KiB")));
        }
        let block = 1024u64 << shift;
        let is_wide = features & WIDE != 0;
        let descriptor_size = if is_wide { super_block.u16(0xfe)? } else { 32 };
        let blocks = if is_wide {
            super_block.halves(0x4, 0x150)?
        } else {
            super_block.u32(0x4)?.into()
        };
        let inode_size = super_block.u16(0x58)?;
        let inodes_per_group = super_block.u32(0x28)?;
        let fits = blocks
            .checked_mul(block)
            .is_some_and(|size| size <= device.size());
        let is_sound = fits
            && inodes_per_group > 0
            && (128..=4096).contains(&inode_size)
            && (if is_wide { 64..=1024 } else { 32..=32 }).contains(&descriptor_size);
        if !is_sound {
            return Err(damaged("a superblock of impossible sizes"));
        }
        Ok(Self {
            device,
            block,
            inodes: super_block.u32(0)?,
            inodes_per_group,
            inode_size: inode_size.into(),
            descriptors: (u64::from(super_block.u32(0x14)?) + 1) * block,
            descriptor_size: descriptor_size.into(),
            blocks,
        })
    }

    fn read(&self, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        self.device.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads what a kernel reads to mount it: the descriptors of all groups.
    pub(super) fn read_descriptors(&self) -> io::Result<()> {
        let groups = self.inodes.div_ceil(self.inodes_per_group);
        if groups > MAX_GROUPS {
            let text = format!("{groups} groups of blocks are more than are read here");
            return Err(damaged(text));
        }
        for group in 0..groups {
            let at = self.descriptors + u64::from(group) * self.descriptor_size;
            self.read(at, self.descriptor_size)?;
        }
        Ok(())
    }

    fn read_block(&self, number: u64) -> io::Result<Vec<u8>> {
        if number == 0 || number >= self.blocks {
            return Err(damaged(format!("block {number} of {}", self.blocks)));
        }
        self.read(number * self.block, self.block)
    }

    pub(super) fn inode(&self, number: u32) -> io::Result<Inode> {
        let from_0 = number.checked_sub(1).filter(|_| number <= self.inodes);
        let from_0 = from_0.ok_or_else(|| damaged(format!("inode {number} of {}", self.inodes)))?;
        let (group, within) = (
            from_0 / self.inodes_per_group,
            from_0 % self.inodes_per_group,
        );
        let at = self.descriptors + u64::from(group) * self.descriptor_size;
        let descriptor = self.read(at, self.descriptor_size)?;
        let descriptor = Bytes(&descriptor);
        let table = match self.descriptor_size {
            32 => descriptor.u32(0x8)?.into(),
            _ => descriptor.halves(0x8, 0x28)?,
        };
        if table == 0 || table >= self.blocks {
            return Err(damaged(format!("an inode table at block {table}")));
        }
        let at = table * self.block + u64::from(within) * self.inode_size;
        let bytes = self.read(at, self.inode_size)?;
        let fields = Bytes(&bytes);
        Ok(Inode {
            mode: fields.u16(0)?,
            links: fields.u16(0x1a)?,
            size: fields.halves(0x4, 0x6c)?,
            flags: fields.u32(0x20)?,
            bytes,
        })
    }

    /// Where the data of an inode is, in order; what is nowhere is zero.
    pub(super) fn extents(&self, inode: &Inode) -> io::Result<Vec<Extent>> {
        if inode.flags & HAS_EXTENTS == 0 {
            let map = Bytes(&inode.bytes).slice(0x28, 60)?;
            if map.iter().all(|byte| *byte == 0) {
                return Ok(Vec::new());
            }
            return Err(damaged(
                "a file mapped without extents, which is not read here",
            ));
        }
        let root = Bytes(&inode.bytes).slice(0x28, 60)?;
        let mut tree = ExtentTree::default();
        self.collect(root, None, &mut tree)?;
        Ok(tree.extents)
    }

    fn collect(&self, node: &[u8], depth: Option<u16>, tree: &mut ExtentTree) -> io::Result<()> {
        let header = Bytes(node);
        let (magic, count) = (header.u16(0)?, header.u16(2)?);
        let (max, level) = (header.u16(4)?, header.u16(6)?);
        let is_sound = magic == 0xf30a
            && count <= max
            && depth.map_or(level <= MAX_DEPTH, |depth| level == depth && count > 0);
        if !is_sound {
            return Err(damaged("a damaged extent tree"));
        }
        for number in 0..usize::from(count) {
            let entry = Bytes(header.slice(12 + number * 12, 12)?);
            let logical = u64::from(entry.u32(0)?);
            // Whatever comes must come behind what was there: this also ends the reading of
            // a tree whose nodes lead to each other.
            if logical < tree.end {
                return Err(damaged("an extent tree out of order"));
            }
            if level > 0 {
                let below = u64::from(entry.u32(4)?) | u64::from(entry.u16(8)?) << 32;
                self.collect(&self.read_block(below)?, Some(level - 1), tree)?;
                continue;
            }
            let len = entry.u16(4)?;
            let is_written = len <= UNWRITTEN;
            let blocks = u64::from(if is_written { len } else { len - UNWRITTEN });
            let physical = u64::from(entry.u16(6)?) << 32 | u64::from(entry.u32(8)?);
            if blocks == 0 || physical == 0 || physical + blocks > self.blocks {
                return Err(damaged(format!("{blocks} blocks from block {physical}")));
            }
            tree.end = logical + blocks;
            // The others read as zeros.
            if is_written {
                tree.extents.push(Extent {
                    logical,
                    blocks,
                    physical,
                });
            }
        }
        Ok(())
    }

    /// Gives the data of a file to `take`, in order, with where it is; holes are left out.
    pub(super) fn data(
        &self,
        inode: &Inode,
        mut take: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; 256 << 10];
        for extent in self.extents(inode)? {
            let start = extent.logical * self.block;
            let end = (start + extent.blocks * self.block).min(inode.size);
            let mut at = start;
            while at < end {
                let count = usize::try_from(end - at).unwrap_or(usize::MAX);
                let part = match buffer.get_mut(..count) {
                    Some(part) => part,
                    None => buffer.as_mut_slice(),
                };
                self.device
                    .read_at(extent.physical * self.block + (at - start), part)?;
                take(at, part)?;
                at += part.len() as u64;
            }
        }
        Ok(())
    }

    /// All entries of a directory, `.` and `..` among them. Hashed directories read as plain
    /// ones: their inner nodes look like empty blocks.
    pub(super) fn directory(&self, inode: &Inode) -> io::Result<Vec<DirectoryEntry>> {
        let mut entries = Vec::new();
        let mut seen = 0;
        for extent in self.extents(inode)? {
            for number in 0..extent.blocks {
                if (extent.logical + number) * self.block >= inode.size {
                    break;
                }
                seen += 1;
                let block = self.read_block(extent.physical + number)?;
                directory_block(&block, &mut entries)?;
            }
        }
        if seen * self.block != inode.size {
            return Err(damaged("a directory with holes"));
        }
        Ok(entries)
    }

    /// The target of a symbolic link.
    pub(super) fn link(&self, inode: &Inode) -> io::Result<Vec<u8>> {
        let len = usize::try_from(inode.size).ok().filter(|len| *len < 4096);
        let len = len.ok_or_else(|| damaged("a symbolic link of an impossible length"))?;
        if inode.flags & HAS_EXTENTS == 0 {
            if len >= 60 {
                return Err(damaged("a symbolic link that does not fit its inode"));
            }
            return Bytes(&inode.bytes).slice(0x28, len).map(<[u8]>::to_vec);
        }
        let mut target = Vec::new();
        self.data(inode, |_, part| {
            target.extend_from_slice(part);
            Ok(())
        })?;
        if target.len() == len {
            Ok(target)
        } else {
            Err(damaged("a symbolic link with a hole"))
        }
    }

    /// The block with an inode's further attributes, if it has one.
    pub(super) fn attribute_block(&self, inode: &Inode) -> io::Result<Option<Vec<u8>>> {
        let fields = Bytes(&inode.bytes);
        let number = u64::from(fields.u32(0x68)?) | u64::from(fields.u16(0x76)?) << 32;
        match number {
            0 => Ok(None),
            number => self.read_block(number).map(Some),
        }
    }
}

impl Inode {
    pub(super) fn uid(&self) -> io::Result<u32> {
        self.id(0x2, 0x78)
    }

    pub(super) fn gid(&self) -> io::Result<u32> {
        self.id(0x18, 0x7a)
    }

    fn id(&self, low: usize, high: usize) -> io::Result<u32> {
        let fields = Bytes(&self.bytes);
        Ok(u32::from(fields.u16(low)?) | u32::from(fields.u16(high)?) << 16)
    }

    /// How many bytes behind the first 128 are fields.
    fn extra(&self) -> io::Result<usize> {
        match self.bytes.len() {
            128 => Ok(0),
            _ => Bytes(&self.bytes).u16(0x80).map(usize::from),
        }
    }

    /// Seconds and nanoseconds of the last change to the content.
    pub(super) fn mtime(&self) -> io::Result<(i64, u32)> {
        let fields = Bytes(&self.bytes);
        let seconds = i64::from(i32::from_le_bytes(fields.array(0x10)?));
        if self.extra()? < 0x8c - 0x80 {
            return Ok((seconds, 0));
        }
        let more = fields.u32(0x88)?;
        Ok((seconds + (i64::from(more & 3) << 32), more >> 2))
    }

    /// The numbers of a device.
    pub(super) fn device(&self) -> io::Result<(u32, u32)> {
        let fields = Bytes(&self.bytes);
        let (old, new) = (fields.u32(0x28)?, fields.u32(0x2c)?);
        Ok(if old != 0 {
            (old >> 8 & 0xff, old & 0xff)
        } else {
            (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00)
        })
    }

    /// The part of the inode that holds attributes.
    pub(super) fn attribute_space(&self) -> io::Result<&[u8]> {
        let start = 128 + self.extra()?;
        Ok(self.bytes.get(start..).unwrap_or_default())
    }
}

fn directory_block(block: &[u8], entries: &mut Vec<DirectoryEntry>) -> io::Result<()> {
    let mut at = 0;
    while at < block.len() {
        let entry = Bytes(block);
        let inode = entry.u32(at)?;
        // Blocks of 64 KiB have no room for their own length.
        let len = match entry.u16(at + 4)? {
            0 | u16::MAX => block.len() - at,
            len => len.into(),
        };
        let name_len = usize::from(entry.u8(at + 6)?);
        if len < 8 + name_len || !len.is_multiple_of(4) || at + len > block.len() {
            return Err(damaged("a damaged directory block"));
        }
        if inode != 0 {
            entries.push(DirectoryEntry {
                name: entry.slice(at + 8, name_len)?.to_vec(),
                inode,
                file_type: entry.u8(at + 7)?,
            });
        }
        at += len;
    }
    Ok(())
}
