//! File data onto the disk, and hard links beyond what one file can have.

use std::io::Read;

use super::{
    Attributes, Entry, FileExtent, FileType, Ino, Layer, NodeKind, Problem, SLICE, TarReader, ext4,
};
use crate::format::block::BlockDeviceMut;

impl<D: BlockDeviceMut> Layer<'_, D> {
    /// Streams the entry's data to its extents, which ascend; zeros where they hold more.
    pub(super) fn write_data<R: Read>(
        &mut self,
        entry: &Entry,
        extents: &[FileExtent],
        tar: &mut TarReader<R>,
    ) -> Result<(), Problem> {
        let block_size = u64::from(self.filesystem.block_size());
        let mut ranges = entry.data.iter().cloned();
        let mut range = ranges.next();
        for extent in extents {
            let mut done = 0;
            let blocks = u64::from(extent.blocks);
            while done < blocks {
                let count = SLICE.min(blocks - done);
                let start = (u64::from(extent.logical_block) + done) * block_size;
                let end = start + count * block_size;
                self.slice.clear();
                while let Some(next) = range.clone().filter(|next| next.start < end) {
                    self.pad(next.start - start);
                    let stop = next.end.min(end);
                    let from = self.slice.len();
                    self.pad(stop - start);
                    let part = self.slice.get_mut(from..).unwrap_or_default();
                    tar.read_data(part)?;
                    range = if stop < next.end {
                        Some(stop..next.end)
                    } else {
                        ranges.next()
                    };
                }
                self.pad(end - start);
                self.filesystem
                    .device_mut()
                    .write_at((extent.physical_block + done) * block_size, &self.slice)
                    .map_err(Problem::Write)?;
                done += count;
            }
        }
        Ok(())
    }

    /// Another name for a file. One that has all the links it can have is continued by a
    /// copy of it, to which later links go: so says the kernel's `EMLINK` to tools that
    /// unpack by linking, and they copy.
    ///
    /// Returns the file that the name leads to.
    pub(super) fn link(&mut self, parent: Ino, name: &[u8], target: Ino) -> Result<Ino, Problem> {
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
        let attributes = Attributes {
            mode: metadata.mode,
            uid: metadata.uid,
            gid: metadata.gid,
            mtime: metadata.mtime,
            xattrs: self.filesystem.xattrs(ino)?,
        };
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
        if metadata.file_type != FileType::File {
            return Ok(copy);
        }
        let block_size = u64::from(self.filesystem.block_size());
        let whole = (metadata.size > 0).then_some(0..metadata.size);
        let extents = self
            .filesystem
            .allocate(copy, metadata.size, whole.as_slice())?;
        for extent in extents {
            for block in 0..u64::from(extent.blocks) {
                let start = (u64::from(extent.logical_block) + block) * block_size;
                let length = block_size.min(metadata.size.saturating_sub(start));
                self.slice.clear();
                self.pad(length);
                self.filesystem.read_file(ino, start, &mut self.slice)?;
                self.pad(block_size);
                self.filesystem
                    .device_mut()
                    .write_at((extent.physical_block + block) * block_size, &self.slice)
                    .map_err(Problem::Write)?;
            }
        }
        Ok(copy)
    }

    /// Zeros up to this length, which is at most a slice's.
    fn pad(&mut self, length: u64) {
        let length = usize::try_from(length).unwrap_or_default();
        if length > self.slice.len() {
            self.slice.resize(length, 0);
        }
    }
}
