//! The filesystem as a whole: what can be asked of it and done with it.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::blocks::Cursors;
use super::cache::Cache;
use super::checksum::Seal;
use super::directory::check_name;
use super::error::{Error, Result, corrupt};
use super::extents::Run;
use super::groups::{Group, SystemZone};
use super::inode::Inode;
use super::layout::{
    MAGIC, MAX_LINKS, ROOT, SUPERBLOCK_AT, SUPERBLOCK_LEN, get16, ino, ro_compat, sb,
};
use super::superblock::Superblock;
use super::types::{
    Attributes, DirEntry, FileExtent, FileType, Ino, Metadata, NamedEntry, NodeKind,
};
use crate::format::block::{BlockDevice, BlockDeviceMut};
use crate::format::crc::crc32c;

/// An ext4 filesystem on a device.
///
/// After an error from a call that changes something, what is in memory is of no use: it must
/// not be flushed.
pub struct Filesystem<D> {
    pub(super) cache: Cache<D>,
    pub(super) sb: Superblock,
    pub(super) groups: Vec<Group>,
    pub(super) system: SystemZone,
    pub(super) cursors: Cursors,
    /// No group before this one has a free inode.
    pub(super) free_inodes_from: u32,
    /// How many directories are in those that have too many to say so.
    pub(super) crowded: HashMap<Ino, u64>,
}

impl<D: BlockDevice> Filesystem<D> {
    /// Opens the filesystem on `device`. Over a
    /// [`ReadOnly`](crate::format::block::ReadOnly) device it can be read.
    ///
    /// # Errors
    /// When there is none, it is damaged, or it has features that this engine does not know.
    pub fn open(device: D) -> Result<Self> {
        let superblock = Superblock::read(&device)?;
        let geometry = superblock.geometry;
        let block_size = u64::from(geometry.block_size);
        let desc_size = usize::from(geometry.desc_size);
        let mut groups = Vec::with_capacity(geometry.groups as usize);
        let mut table = vec![0; geometry.block_size as usize];
        for block in 0..u64::from(geometry.gdt_blocks) {
            device.read_at((geometry.first_block + 1 + block) * block_size, &mut table)?;
            for raw in table.chunks_exact(desc_size) {
                let number = groups.len() as u32;
                if number < geometry.groups {
                    let checksums = superblock.checksums;
                    groups.push(Group::parse(raw, number, &geometry, checksums)?);
                }
            }
        }
        Ok(Self::assemble(device, superblock, groups))
    }

    pub(super) fn assemble(device: D, sb: Superblock, groups: Vec<Group>) -> Self {
        let geometry = sb.geometry;
        let mut system = Vec::new();
        for (number, group) in groups.iter().enumerate() {
            let number = number as u32;
            system.push((group.block_bitmap, group.block_bitmap + 1));
            system.push((group.inode_bitmap, group.inode_bitmap + 1));
            let table = group.inode_table;
            system.push((table, table + geometry.table_blocks()));
            if sb.has_copy(number) {
                let start = geometry.group_start(number);
                let length = 1 + u64::from(geometry.gdt_blocks + geometry.reserved_gdt);
                system.push((start, (start + length).min(geometry.blocks)));
            }
        }
        Self {
            cache: Cache::new(device, geometry.block_size, sb.checksums),
            system: SystemZone::new(system),
            cursors: Cursors::new(&geometry),
            free_inodes_from: 0,
            crowded: HashMap::new(),
            groups,
            sb,
        }
    }

    /// Sees that the disk holds all of a filesystem, and not just what was changed of one: its
    /// root directory leads to inodes, and what only mkfs writes, the first copy of the
    /// superblock, is there.
    ///
    /// # Errors
    /// What is missing.
    pub fn check_is_whole(&mut self) -> Result<()> {
        let root = self.root();
        for entry in self.entries(root)? {
            self.metadata(entry.ino)?;
        }
        let group = (1..self.sb.geometry.groups).find(|group| self.sb.has_copy(*group));
        let Some(group) = group else { return Ok(()) };
        let mut copy = [0; SUPERBLOCK_LEN];
        let start = self.sb.geometry.group_start(group) * u64::from(self.sb.geometry.block_size);
        self.cache.device.read_at(start, &mut copy)?;
        if get16(&copy, sb::MAGIC) == MAGIC {
            return Ok(());
        }
        corrupt(format!("group {group} has no copy of the superblock"))
    }

    pub(super) fn group(&self, number: u32) -> Result<Group> {
        match self.groups.get(number as usize) {
            Some(group) => Ok(*group),
            None => corrupt(format!("there is no group {number}")),
        }
    }

    pub(super) fn group_mut(&mut self, number: u32) -> Result<&mut Group> {
        match self.groups.get_mut(number as usize) {
            Some(group) => Ok(group),
            None => corrupt(format!("there is no group {number}")),
        }
    }

    /// Puts another device under the filesystem, which must read the same, and gives the old
    /// one back.
    pub fn replace_device(&mut self, device: D) -> D {
        std::mem::replace(&mut self.cache.device, device)
    }

    /// The device, for file data.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.cache.device
    }

    /// Bytes of a block: what [`FileExtent`] counts in.
    pub fn block_size(&self) -> u32 {
        self.sb.geometry.block_size
    }

    /// The root directory.
    // A method, so that nobody relies on the number.
    #[allow(clippy::unused_self)]
    pub fn root(&self) -> Ino {
        ROOT
    }

    /// What a name leads to; `None` when it is not there.
    ///
    /// # Errors
    /// When `dir` is no directory, or the filesystem is damaged.
    pub fn lookup(&mut self, dir: Ino, name: &[u8]) -> Result<Option<DirEntry>> {
        let dir = self.directory(dir)?;
        let Some(found) = self.find(&dir, name)? else {
            return Ok(None);
        };
        Ok(Some(DirEntry {
            ino: found.ino,
            file_type: self.found_type(&found)?,
        }))
    }

    /// All names of a directory but `.` and `..`, in the disk's order.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn entries(&mut self, dir: Ino) -> Result<Vec<NamedEntry>> {
        let dir = self.directory(dir)?;
        self.names(&dir)
    }

    /// What an inode says of itself.
    ///
    /// # Errors
    /// When nothing uses the inode, or the filesystem is damaged.
    pub fn metadata(&mut self, ino: Ino) -> Result<Metadata> {
        let inode = self.inode(ino)?;
        let Some(file_type) = inode.file_type() else {
            return corrupt(format!("inode {ino} has no type"));
        };
        let is_device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
        Ok(Metadata {
            file_type,
            mode: inode.mode() & !ino::TYPE_MASK,
            uid: inode.uid(),
            gid: inode.gid(),
            size: inode.size(),
            mtime: inode.mtime(),
            links: inode.links().into(),
            rdev: if is_device { inode.device() } else { (0, 0) },
        })
    }

    /// A symbolic link's target.
    ///
    /// # Errors
    /// When the inode is no symbolic link, or the filesystem is damaged.
    pub fn read_link(&mut self, ino: Ino) -> Result<Vec<u8>> {
        let inode = self.inode(ino)?;
        if inode.file_type() != Some(FileType::Symlink) {
            return Err(Error::WrongType(ino, "a symbolic link"));
        }
        let size = inode.size();
        if size < ino::BLOCK_LEN as u64 && !inode.has_extents() {
            return Ok(inode.block()[..size as usize].to_vec());
        }
        let block = self.map(&inode, 0)?.filter(|run| !run.unwritten);
        match block {
            Some(run) if size < u64::from(self.sb.geometry.block_size) => {
                Ok(self.cache.read(run.physical)?[..size as usize].to_vec())
            }
            _ => corrupt(format!(
                "symbolic link {ino} of {size} bytes has no block for them"
            )),
        }
    }

    /// All extended attributes by full name, sorted; POSIX ACLs as `getxattr` gives them.
    ///
    /// # Errors
    /// When nothing uses the inode, or the filesystem is damaged.
    pub fn xattrs(&mut self, ino: Ino) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let inode = self.inode(ino)?;
        self.read_xattrs(&inode)
    }

    /// Fills `buf` from byte `offset` of a regular file.
    ///
    /// # Errors
    /// When the inode is no regular file, ends before, or cannot be read.
    pub fn read_file(&mut self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<()> {
        let inode = self.inode(ino)?;
        if inode.file_type() != Some(FileType::File) {
            return Err(Error::WrongType(ino, "a regular file"));
        }
        let (length, size) = (buf.len() as u64, inode.size());
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(Error::PastEnd {
                offset,
                length,
                size,
            });
        }
        let block_size = u64::from(self.sb.geometry.block_size);
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let Ok(logical) = u32::try_from(at / block_size) else {
                return corrupt(format!("file {ino} of {size} bytes is too long"));
            };
            let run = self.map(&inode, logical)?;
            let end = run.map_or(u64::from(logical) + 1, |run| run.end());
            let part = (end * block_size - at).min(rest.len() as u64) as usize;
            let (now, later) = rest.split_at_mut(part);
            match run.filter(|run| !run.unwritten) {
                Some(run) => {
                    let into = at - u64::from(run.logical) * block_size;
                    let place = run.physical * block_size + into;
                    self.cache.device.read_at(place, now)?;
                }
                None => now.fill(0),
            }
            at += part as u64;
            rest = later;
        }
        Ok(())
    }

    /// Stores the superblock with the groups' counts.
    pub(super) fn store_superblock(&mut self) -> Result<()> {
        let blocks = self.groups.iter().map(|group| u64::from(group.free_blocks));
        let inodes = self.groups.iter().map(|group| group.free_inodes);
        let (blocks, inodes) = (blocks.sum(), inodes.fold(0, u32::saturating_add));
        self.sb.set_free(blocks, inodes);
        self.sb.seal();
        let block_size = u64::from(self.sb.geometry.block_size);
        let at = (SUPERBLOCK_AT % block_size) as usize;
        let block = self.cache.write(SUPERBLOCK_AT / block_size, Seal::Plain)?;
        block[at..at + self.sb.raw.len()].copy_from_slice(&self.sb.raw);
        Ok(())
    }

    /// Stores the descriptors that changed.
    pub(super) fn store_groups(&mut self) -> Result<()> {
        let geometry = self.sb.geometry;
        let checksums = self.sb.checksums;
        let desc_size = usize::from(geometry.desc_size);
        let per_block = geometry.block_size as usize / desc_size;
        for number in 0..geometry.groups {
            let group = self.group(number)?;
            if !group.changed {
                continue;
            }
            let bitmaps = match checksums.all().filter(|_| group.bitmaps_changed) {
                Some(seed) => Some(self.bitmap_checksums(&group, seed)?),
                None => None,
            };
            let block = geometry.first_block + 1 + u64::from(number) / per_block as u64;
            let at = number as usize % per_block * desc_size;
            let table = self.cache.write(block, Seal::Plain)?;
            let raw = &mut table[at..at + desc_size];
            group.store(raw);
            if let Some((blocks, inodes)) = bitmaps {
                Group::store_bitmap_checksums(raw, blocks, inodes);
            }
            Group::seal(raw, number, checksums);
            let group = self.group_mut(number)?;
            group.changed = false;
            group.bitmaps_changed = false;
        }
        Ok(())
    }

    fn bitmap_checksums(&mut self, group: &Group, seed: u32) -> Result<(u32, u32)> {
        let geometry = self.sb.geometry;
        let blocks = self.cache.read(group.block_bitmap)?;
        let blocks = crc32c(seed, &blocks[..geometry.blocks_per_group as usize / 8]);
        let inodes = self.cache.read(group.inode_bitmap)?;
        let inodes = crc32c(seed, &inodes[..geometry.inodes_per_group as usize / 8]);
        Ok((blocks, inodes))
    }
}

impl<D: BlockDeviceMut> Filesystem<D> {
    /// Writes the metadata that changed since the last flush, in the disk's order.
    ///
    /// # Errors
    /// When the device fails; what it holds is then of no use.
    pub fn flush(&mut self) -> Result<()> {
        self.store_groups()?;
        self.store_superblock()?;
        self.cache.flush()?;
        self.cursors = Cursors::new(&self.sb.geometry);
        Ok(())
    }

    /// A new inode under a new name.
    ///
    /// # Errors
    /// When the name exists or cannot be one, the inode cannot be what it is to be, or
    /// nothing is free.
    pub fn create(
        &mut self,
        dir: Ino,
        name: &[u8],
        kind: &NodeKind,
        attributes: &Attributes,
    ) -> Result<Ino> {
        let mut parent = self.directory(dir)?;
        self.check_free(&parent, name)?;
        let file_type = kind.file_type();
        let is_directory = file_type == FileType::Directory;
        let ino = self.take_inode(is_directory)?;
        let mut inode = self.new_inode(ino);
        inode.set_type(file_type);
        inode.set_links(if is_directory { 2 } else { 1 });
        inode.set_attributes(attributes);
        match kind {
            NodeKind::File => self.build_tree(&mut inode, &[])?,
            NodeKind::Directory => self.start_directory(&mut inode, dir)?,
            NodeKind::Symlink(target) => self.start_symlink(&mut inode, target)?,
            &NodeKind::CharDevice { major, minor } | &NodeKind::BlockDevice { major, minor } => {
                if major > 0xfff || minor > 0xf_ffff {
                    return Err(Error::Device { major, minor });
                }
                inode.set_device(major, minor);
            }
            NodeKind::Fifo | NodeKind::Socket => {}
        }
        self.write_xattrs(&mut inode, &attributes.xattrs)?;
        self.put_inode(&mut inode)?;
        self.add_name(&mut parent, name, ino, file_type)?;
        if is_directory {
            self.add_subdirectory(&mut parent)?;
        }
        self.put_inode(&mut parent)?;
        Ok(ino)
    }

    fn check_free(&mut self, dir: &Inode, name: &[u8]) -> Result<()> {
        check_name(name)?;
        match self.find(dir, name)? {
            Some(_) => Err(Error::Exists(name.to_vec())),
            None => Ok(()),
        }
    }

    fn start_symlink(&mut self, inode: &mut Inode, target: &[u8]) -> Result<()> {
        let length = target.len();
        let wrong = |problem| Err(Error::Target { length, problem });
        if target.is_empty() {
            return wrong("it is empty");
        }
        if target.contains(&0) {
            return wrong("it has a NUL in it");
        }
        // A NUL must follow it within the block.
        if length >= self.sb.geometry.block_size as usize {
            return wrong("it is longer than 4,095 bytes, or than a block of the filesystem");
        }
        inode.set_size(length as u64);
        if length < ino::BLOCK_LEN {
            inode.block_mut()[..length].copy_from_slice(target);
            return Ok(());
        }
        let block = self.take_metadata_block(Seal::Plain)?;
        self.cache.write(block, Seal::Plain)?[..length].copy_from_slice(target);
        let run = Run {
            logical: 0,
            physical: block,
            length: 1,
            unwritten: false,
        };
        self.build_tree(inode, &[run])?;
        self.count_blocks(inode, 1, 0);
        Ok(())
    }

    /// Gives a regular file its size, and places for its data: `data` are the byte ranges
    /// that have any, ascending; all else is a hole. What the file had before is given up.
    ///
    /// Returns where each block that has data goes, in the file's order. The caller writes
    /// all of those blocks; behind the data they must be zero.
    ///
    /// # Errors
    /// When the inode is no regular file, the size is beyond ext4, or nothing is free.
    pub fn allocate(
        &mut self,
        ino: Ino,
        size: u64,
        data: &[Range<u64>],
    ) -> Result<Vec<FileExtent>> {
        let mut inode = self.inode(ino)?;
        if inode.file_type() != Some(FileType::File) {
            return Err(Error::WrongType(ino, "a regular file"));
        }
        let block_size = u64::from(self.sb.geometry.block_size);
        let most = u64::from(u32::MAX) * block_size;
        if size > most {
            return Err(Error::FileTooLarge { size, most });
        }
        let mut ranges: Vec<(u32, u64)> = Vec::new();
        let (mut end_byte, mut end) = (0, 0);
        for range in data {
            if range.start < end_byte || range.end <= range.start || range.end > size {
                return Err(Error::Ranges(size));
            }
            let first = (range.start / block_size).max(end);
            let next = range.end.div_ceil(block_size);
            end_byte = range.end;
            if next <= first {
                continue;
            }
            match ranges.last_mut() {
                Some(last) if first == end => last.1 += next - first,
                _ => ranges.push((first as u32, next - first)),
            }
            end = next;
        }
        self.free_file_blocks(&mut inode)?;
        let runs = self.place_file(&mut inode, &ranges)?;
        inode.set_size(size);
        if size > i32::MAX as u64 {
            self.sb.require(sb::RO_COMPAT, ro_compat::LARGE_FILE);
        }
        self.put_inode(&mut inode)?;
        Ok(runs
            .iter()
            .map(|run| FileExtent {
                logical_block: run.logical,
                physical_block: run.physical,
                blocks: run.length,
            })
            .collect())
    }

    /// One more name for what is no directory.
    ///
    /// # Errors
    /// [`Error::TooManyLinks`] when it has 65,000; else as [`create`](Self::create).
    pub fn link(&mut self, dir: Ino, name: &[u8], ino: Ino) -> Result<()> {
        let mut parent = self.directory(dir)?;
        let mut inode = self.inode(ino)?;
        let file_type = match inode.file_type() {
            Some(FileType::Directory) | None => return Err(Error::IsADirectory(ino)),
            Some(file_type) => file_type,
        };
        if inode.links() >= MAX_LINKS {
            return Err(Error::TooManyLinks);
        }
        self.check_free(&parent, name)?;
        inode.set_links(inode.links() + 1);
        self.put_inode(&mut inode)?;
        self.add_name(&mut parent, name, ino, file_type)?;
        self.put_inode(&mut parent)
    }

    /// Removes a name that does not lead to a directory; with the last one goes the inode.
    ///
    /// # Errors
    /// When the name is not there or leads to a directory.
    pub fn unlink(&mut self, dir: Ino, name: &[u8]) -> Result<()> {
        let mut parent = self.directory(dir)?;
        let Some(found) = self.find(&parent, name)? else {
            return Err(Error::NotFound(name.to_vec()));
        };
        let inode = self.inode(found.ino)?;
        if inode.is_directory() {
            return Err(Error::IsADirectory(found.ino));
        }
        self.remove_name(&parent, &found)?;
        self.put_inode(&mut parent)?;
        self.drop_link(inode)
    }

    fn drop_link(&mut self, mut inode: Inode) -> Result<()> {
        if inode.links() > 1 {
            inode.set_links(inode.links() - 1);
            return self.put_inode(&mut inode);
        }
        self.release(inode)
    }

    /// Gives back an inode and all that it has.
    fn release(&mut self, mut inode: Inode) -> Result<()> {
        let has_blocks = match inode.file_type() {
            Some(FileType::File | FileType::Directory) => true,
            Some(FileType::Symlink) => inode.size() >= ino::BLOCK_LEN as u64 || inode.has_extents(),
            _ => false,
        };
        if has_blocks {
            self.free_file_blocks(&mut inode)?;
        }
        self.drop_xattr_block(&mut inode)?;
        self.mark_inode(inode.ino, inode.is_directory(), false)?;
        self.crowded.remove(&inode.ino);
        self.clear_inode(inode.ino)
    }

    /// Removes a name with all that is below it, be it a directory or not.
    ///
    /// # Errors
    /// When the name is not there, or the filesystem is damaged.
    pub fn remove_tree(&mut self, dir: Ino, name: &[u8]) -> Result<()> {
        let mut parent = self.directory(dir)?;
        let Some(found) = self.find(&parent, name)? else {
            return Err(Error::NotFound(name.to_vec()));
        };
        let inode = self.inode(found.ino)?;
        if !inode.is_directory() {
            return self.unlink(dir, name);
        }
        self.remove_name(&parent, &found)?;
        self.remove_subdirectory(&mut parent)?;
        self.put_inode(&mut parent)?;
        self.release_tree(inode, dir)
    }

    /// Gives back a directory and all below it. Names in it are not removed one by one: all
    /// of it goes.
    fn release_tree(&mut self, top: Inode, parent: Ino) -> Result<()> {
        // A directory that is met twice would be in itself.
        let mut seen = HashSet::from([ROOT, parent, top.ino]);
        let mut ahead = vec![top];
        while let Some(dir) = ahead.pop() {
            for entry in self.names(&dir)? {
                let inode = self.inode(entry.ino)?;
                if !inode.is_directory() {
                    self.drop_link(inode)?;
                } else if seen.insert(inode.ino) {
                    ahead.push(inode);
                } else {
                    return corrupt(format!("directory {} has two names", inode.ino));
                }
            }
            self.release(dir)?;
        }
        Ok(())
    }

    /// Removes all that is in a directory; it is then as if new.
    ///
    /// # Errors
    /// When `ino` is no directory, or the filesystem is damaged.
    pub fn clear_directory(&mut self, ino: Ino) -> Result<()> {
        let mut dir = self.directory(ino)?;
        let parent = self.parent_of(&dir)?;
        let names = self.names(&dir)?;
        if names.is_empty() && dir.size() == u64::from(self.sb.geometry.block_size) {
            return Ok(());
        }
        for entry in names {
            let inode = self.inode(entry.ino)?;
            if inode.is_directory() {
                self.release_tree(inode, ino)?;
            } else {
                self.drop_link(inode)?;
            }
        }
        self.free_file_blocks(&mut dir)?;
        dir.set_flag(ino::INDEX, false);
        dir.set_links(2);
        self.crowded.remove(&dir.ino);
        self.start_directory(&mut dir, parent)?;
        self.put_inode(&mut dir)
    }

    /// Sets mode, owner, times and all extended attributes: those that are not named go.
    ///
    /// # Errors
    /// When an attribute cannot be stored.
    pub fn set_attributes(&mut self, ino: Ino, attributes: &Attributes) -> Result<()> {
        let mut inode = self.inode(ino)?;
        inode.set_attributes(attributes);
        self.write_xattrs(&mut inode, &attributes.xattrs)?;
        self.put_inode(&mut inode)
    }
}
