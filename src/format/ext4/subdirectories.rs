//! What a directory says of the directories in and above it: links are counted up to a limit.

use super::error::{Error, Result, corrupt};
use super::filesystem::Filesystem;
use super::inode::Inode;
use super::layout::{MAX_LINKS, ro_compat};
use super::types::{FileType, Ino, NamedEntry};
use crate::format::block::BlockDevice;

impl<D: BlockDevice> Filesystem<D> {
    /// Adds a directory to those that `dir` counts as its links.
    pub(super) fn add_subdirectory(&mut self, dir: &mut Inode) -> Result<()> {
        if dir.links() == 1 {
            if let Some(count) = self.crowded.get_mut(&dir.ino) {
                *count += 1;
            }
            return Ok(());
        }
        let links = dir.links().saturating_add(1);
        if links < MAX_LINKS {
            dir.set_links(links);
            return Ok(());
        }
        if self.sb.ro_compat() & ro_compat::DIR_NLINK == 0 {
            return Err(Error::TooManyLinks);
        }
        // Or the next removal would have to look at all names, again and again where
        // directories come and go.
        self.crowded.insert(dir.ino, u64::from(links) - 2);
        dir.set_links(1);
        Ok(())
    }

    /// Takes one away that is no longer there.
    pub(super) fn remove_subdirectory(&mut self, dir: &mut Inode) -> Result<()> {
        if dir.links() > 2 {
            dir.set_links(dir.links() - 1);
            return Ok(());
        }
        if dir.links() == 2 {
            return Ok(());
        }
        // Too many to count; are they still?
        let count = if let Some(count) = self.crowded.get(&dir.ino) {
            count.saturating_sub(1)
        } else {
            let names = self.names(dir)?;
            let is_directory = |name: &&NamedEntry| name.file_type == FileType::Directory;
            names.iter().filter(is_directory).count() as u64
        };
        if count + 2 < u64::from(MAX_LINKS) {
            self.crowded.remove(&dir.ino);
            dir.set_links(count as u16 + 2);
        } else {
            self.crowded.insert(dir.ino, count);
        }
        Ok(())
    }

    /// Where a directory's `..` leads.
    pub(super) fn parent_of(&mut self, dir: &Inode) -> Result<Ino> {
        let first = self.directory_block(dir, 0)?;
        let block = self.cache.read(first)?;
        let mut slots = super::dirblock::slots(block);
        let found = slots.nth(1).transpose()?.filter(|slot| slot.name == b"..");
        match found {
            Some(slot) if slot.ino != 0 => Ok(slot.ino),
            _ => corrupt(format!("directory {} has no \"..\"", dir.ino)),
        }
    }
}
