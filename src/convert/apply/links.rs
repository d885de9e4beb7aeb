//! Hard links, also beyond what one file can have.

use super::attributes::CAPABILITY;
use super::names::Name;
use super::resolve::Missing;
use super::{DirEntry, Entry, FileType, Ino, Layer, NodeKind, Problem, described, ext4};
use crate::format::block::BlockDeviceMut;

impl<D: BlockDeviceMut> Layer<'_, D> {
    pub(super) fn hard_link(
        &mut self,
        entry: &Entry,
        parent: Ino,
        name: &[u8],
        target: &[u8],
    ) -> Result<(), Problem> {
        let Name::Entry {
            parents: target_parents,
            name: target_name,
        } = Name::plain(target)?
        else {
            return Err(Problem::TargetIsDirectory(target.to_vec()));
        };
        let missing = || Problem::NoTarget(target.to_vec());
        let find = |layer: &mut Self| -> Result<DirEntry, Problem> {
            let directory = layer.directory(&target_parents, Missing::Stop)?;
            let directory = directory.ok_or_else(missing)?;
            layer.known.check_length(directory, &target_name)?;
            let found = layer.filesystem.lookup(directory, &target_name)?;
            found.ok_or_else(missing)
        };
        let mut found = find(self)?;
        if found.file_type == FileType::Directory {
            return Err(Problem::TargetIsDirectory(target.to_vec()));
        }
        let there = self.filesystem.lookup(parent, name)?;
        // GNU tar names a file that it packs twice as a link to itself.
        if there.is_none_or(|there| there.ino != found.ino) {
            self.remove(parent, name)?;
            // It may have been below what was just removed.
            found = find(self)?;
            found.ino = self.link(parent, name, found.ino)?;
        }
        let mut present = self.present(found.ino)?;
        // Setting the owner takes them away, be it the same.
        present.xattrs.retain(|(name, _)| name != CAPABILITY);
        let attributes = described(entry, found.file_type, present)?;
        self.set_attributes(found.ino, &attributes)
    }

    /// Another name for a file. One that has all the links it can have is continued by a
    /// copy of it, to which later links go: so says the kernel's `EMLINK` to tools that
    /// unpack by linking, and they copy.
    ///
    /// Returns the file that the name leads to.
    fn link(&mut self, parent: Ino, name: &[u8], target: Ino) -> Result<Ino, Problem> {
        let mut ino = target;
        while let Some(&next) = self.continued.get(&ino) {
            ino = next;
        }
        match self.filesystem.link(parent, name, ino) {
            Err(ext4::Error::TooManyLinks) => {}
            Err(error) => return Err(error.into()),
            Ok(()) => return Ok(ino),
        }
        let copy = self.copy(parent, name, ino)?;
        self.continued.insert(ino, copy);
        Ok(copy)
    }

    /// A file, or what else is no directory, once more under another name.
    fn copy(&mut self, parent: Ino, name: &[u8], ino: Ino) -> Result<Ino, Problem> {
        let metadata = self.filesystem.metadata(ino)?;
        let attributes = self.present(ino)?;
        let (major, minor) = metadata.rdev;
        let kind = match metadata.file_type {
            FileType::File | FileType::Directory => NodeKind::File,
            FileType::Symlink => NodeKind::Symlink(self.filesystem.read_link(ino)?),
            FileType::CharDevice => NodeKind::CharDevice { major, minor },
            FileType::BlockDevice => NodeKind::BlockDevice { major, minor },
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
        };
        let copy = self.filesystem.create(parent, name, &kind, &attributes)?;
        if metadata.file_type == FileType::File {
            let ranges = self.filesystem.data_ranges(ino)?;
            self.count_copied(ranges.iter().map(|range| range.end - range.start).sum())?;
            let extents = self.filesystem.allocate(copy, metadata.size, &ranges)?;
            self.filesystem.copy_data(ino, &extents)?;
        }
        Ok(copy)
    }

    /// Copies can be removed and made again, by few entries and as often as they like, so all
    /// of a layer's together are at most what fits on the disk.
    fn count_copied(&mut self, bytes: u64) -> Result<(), Problem> {
        let disk = self.filesystem.device_mut().size();
        self.copied = self.copied.saturating_add(bytes);
        if self.copied > disk {
            return Err(Problem::TooManyCopies { disk });
        }
        Ok(())
    }

    /// The last name of a file may be about to go, and its inode's number to come again.
    pub(super) fn forget_file(&mut self, ino: Ino) -> Result<(), Problem> {
        if !self.continued.is_empty() && self.filesystem.metadata(ino)?.links == 1 {
            self.continued
                .retain(|full, next| *full != ino && *next != ino);
        }
        Ok(())
    }
}
