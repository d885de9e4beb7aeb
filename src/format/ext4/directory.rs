//! Directories: names to inodes.

use super::checksum::Seal;
use super::dirblock;
use super::error::{Error, Result, corrupt};
use super::extents::Run;
use super::filesystem::Filesystem;
use super::inode::Inode;
use super::layout::{MAX_NAME, compat, get16, get32, incompat};
use super::types::{FileType, Ino, NamedEntry};
use crate::format::block::{BlockDevice, BlockDeviceMut};

/// Checks that a directory can hold a name.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    let problem = match name {
        b"" | b"." | b".." => "it has a meaning of its own",
        _ if name.len() > MAX_NAME => "it is longer than 255 bytes",
        _ if name.contains(&b'/') || name.contains(&0) => "it has a slash or a NUL in it",
        _ => return Ok(()),
    };
    Err(Error::Name {
        name: name.to_vec(),
        problem,
    })
}

/// An entry that was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) ino: Ino,
    kind: u8,
    block: u64,
    at: usize,
}

impl<D: BlockDevice> Filesystem<D> {
    pub(super) fn entries_seal(&self, dir: &Inode) -> Seal {
        Seal::Entries(self.inode_seed(dir))
    }

    /// A directory's inode.
    pub(super) fn directory(&mut self, ino: Ino) -> Result<Inode> {
        let inode = self.inode(ino)?;
        if inode.is_directory() {
            Ok(inode)
        } else {
            Err(Error::NotADirectory(ino))
        }
    }

    /// A directory's block; it has no holes.
    pub(super) fn directory_block(&mut self, dir: &Inode, logical: u32) -> Result<u64> {
        match self.map(dir, logical)? {
            Some(run) if !run.unwritten => {
                Ok(run.physical + u64::from(logical.saturating_sub(run.logical)))
            }
            _ => corrupt(format!("directory {} has no block {logical}", dir.ino)),
        }
    }

    /// A directory's blocks in order, up to its size.
    fn directory_blocks(&mut self, dir: &Inode) -> Result<Vec<u64>> {
        let count = dir.size() / u64::from(self.sb.geometry.block_size);
        let runs = self.file_blocks(dir)?.runs;
        let within = |run: &Run| run.end().min(count).saturating_sub(u64::from(run.logical));
        Ok(runs
            .iter()
            .filter(|run| !run.unwritten)
            .flat_map(|run| run.physical..run.physical + within(run))
            .collect())
    }

    fn is_indexed(&self, dir: &Inode) -> bool {
        dir.is_indexed() && self.sb.compat() & compat::DIR_INDEX != 0
    }

    /// A block of a directory that is looked at without the index. Blocks of the index are
    /// the first, and those that one entry of nothing fills to the end, over a tail's place.
    fn checked_block(&mut self, dir: &Inode, number: u64, is_first: bool) -> Result<&[u8]> {
        if self.sb.checksums.all().is_none() {
            return self.cache.read(number);
        }
        let seed = self.inode_seed(dir);
        let is_indexed = self.is_indexed(dir);
        let block = self.cache.read(number)?;
        let is_whole = get32(block, 0) == 0 && usize::from(get16(block, 4)) == block.len();
        let seal = if is_indexed && (is_first || is_whole) {
            Seal::Index(seed)
        } else {
            Seal::Entries(seed)
        };
        self.cache.read_sealed(number, seal)
    }

    /// Finds a name.
    pub(super) fn find(&mut self, dir: &Inode, name: &[u8]) -> Result<Option<Found>> {
        if check_name(name).is_err() {
            return Ok(None);
        }
        let found = if self.is_indexed(dir) {
            self.find_indexed(dir, name)?
        } else {
            let mut found = None;
            for (place, number) in self.directory_blocks(dir)?.into_iter().enumerate() {
                let block = self.checked_block(dir, number, place == 0)?;
                if let Some(slot) = dirblock::find(block, name)? {
                    found = Some((number, slot.at, slot.ino, slot.kind));
                    break;
                }
            }
            found
        };
        let Some((block, at, ino, kind)) = found else {
            return Ok(None);
        };
        self.check_entry(dir, ino)?;
        Ok(Some(Found {
            ino,
            kind,
            block,
            at,
        }))
    }

    /// No name leads to an inode that is not there, reserved or the root.
    fn check_entry(&self, dir: &Inode, ino: Ino) -> Result<()> {
        let geometry = &self.sb.geometry;
        if (geometry.first_inode..=geometry.inodes).contains(&ino) {
            Ok(())
        } else {
            corrupt(format!("directory {} has a name for inode {ino}", dir.ino))
        }
    }

    /// The type that an entry leads to.
    pub(super) fn entry_type(&mut self, ino: Ino, kind: u8) -> Result<FileType> {
        match dirblock::file_type(kind) {
            Some(file_type) => Ok(file_type),
            None => self.file_type(ino),
        }
    }

    pub(super) fn found_type(&mut self, found: &Found) -> Result<FileType> {
        self.entry_type(found.ino, found.kind)
    }

    fn file_type(&mut self, ino: Ino) -> Result<FileType> {
        match self.inode(ino)?.file_type() {
            Some(file_type) => Ok(file_type),
            None => corrupt(format!("inode {ino} has no type")),
        }
    }

    /// All names but `.` and `..`, in the disk's order.
    pub(super) fn names(&mut self, dir: &Inode) -> Result<Vec<NamedEntry>> {
        let mut raw = Vec::new();
        for (place, number) in self.directory_blocks(dir)?.into_iter().enumerate() {
            for slot in dirblock::slots(self.checked_block(dir, number, place == 0)?) {
                let slot = slot?;
                if slot.ino != 0 && slot.name != b"." && slot.name != b".." {
                    raw.push((slot.ino, slot.kind, slot.name.to_vec()));
                }
            }
        }
        let mut names = Vec::with_capacity(raw.len());
        for (ino, kind, name) in raw {
            self.check_entry(dir, ino)?;
            check_name(&name)
                .or_else(|error| corrupt(format!("directory {}: {error}", dir.ino)))?;
            let file_type = self.entry_type(ino, kind)?;
            names.push(NamedEntry {
                name,
                ino,
                file_type,
            });
        }
        Ok(names)
    }

    /// Adds a block at a directory's end. The caller fills it and stores the inode.
    pub(super) fn add_directory_block(
        &mut self,
        dir: &mut Inode,
        seal: Seal,
    ) -> Result<(u32, u64)> {
        let block_size = u64::from(self.sb.geometry.block_size);
        let Ok(logical) = u32::try_from(dir.size() / block_size) else {
            return Err(Error::DirectoryFull);
        };
        let block = self.take_metadata_block(seal)?;
        self.append_block(dir, logical, block)?;
        self.count_blocks(dir, 1, 0);
        dir.set_size((u64::from(logical) + 1) * block_size);
        Ok((logical, block))
    }

    /// Makes an inode's first block, with `.` and `..`.
    pub(super) fn start_directory(&mut self, dir: &mut Inode, parent: Ino) -> Result<()> {
        let seal = self.entries_seal(dir);
        self.build_tree(dir, &[])?;
        dir.set_size(0);
        let (_, block) = self.add_directory_block(dir, seal)?;
        let has_tail = self.sb.checksums.all().is_some();
        let kind = self.kind_code(FileType::Directory);
        let entries = [(dir.ino, &b"."[..], kind), (parent, &b".."[..], kind)];
        dirblock::fill(
            self.cache.write(block, seal)?,
            has_tail,
            entries.into_iter(),
        );
        Ok(())
    }

    fn kind_code(&self, file_type: FileType) -> u8 {
        if self.sb.incompat() & incompat::FILETYPE != 0 {
            dirblock::code(file_type)
        } else {
            0
        }
    }

    /// Removes an entry that was found, with nothing changed in between.
    pub(super) fn remove_name(&mut self, dir: &Inode, found: &Found) -> Result<()> {
        let seal = self.entries_seal(dir);
        dirblock::remove(self.cache.write(found.block, seal)?, found.at)
    }
}

impl<D: BlockDeviceMut> Filesystem<D> {
    /// Adds a name that is not there. The caller stores the directory's inode.
    pub(super) fn add_name(
        &mut self,
        dir: &mut Inode,
        name: &[u8],
        ino: Ino,
        file_type: FileType,
    ) -> Result<()> {
        let kind = self.kind_code(file_type);
        if self.is_indexed(dir) {
            self.use_extents(dir)?;
            return self.add_indexed(dir, name, ino, kind);
        }
        let seal = self.entries_seal(dir);
        let blocks = self.directory_blocks(dir)?;
        for number in &blocks {
            self.cache.read_sealed(*number, seal)?;
            if dirblock::insert(self.cache.write(*number, seal)?, ino, name, kind)? {
                return Ok(());
            }
        }
        self.use_extents(dir)?;
        if blocks.len() == 1 && self.sb.compat() & compat::DIR_INDEX != 0 {
            self.make_index(dir)?;
            return self.add_indexed(dir, name, ino, kind);
        }
        let (_, block) = self.add_directory_block(dir, seal)?;
        let has_tail = self.sb.checksums.all().is_some();
        let entry = std::iter::once((ino, name, kind));
        dirblock::fill(self.cache.write(block, seal)?, has_tail, entry);
        Ok(())
    }
}
