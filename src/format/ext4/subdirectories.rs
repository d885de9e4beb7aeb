//! Links of a directory: one for each subdirectory, up to a limit (feature `dir_nlink`).

use std::collections::HashMap;

use super::directory;
use super::error::{Error, Result, narrow};
use super::inode::Inode;
use super::layout::{MAX_LINKS, ro_compat};
use super::types::{FileType, Ino, NamedEntry};
use super::volume::Volume;
use crate::format::block::BlockDevice;

/// Links that a directory has itself: its name, and its `.`.
const OWN_LINKS: u16 = 2;
/// The number of links that stands for more than the limit.
const UNCOUNTED: u16 = 1;

/// How many subdirectories are in directories of which the inode does not say it. Without
/// them, each removal from such a directory would have to read all of its names.
#[derive(Debug, Default)]
pub(super) struct SubdirectoryCounts(HashMap<Ino, u64>);

impl SubdirectoryCounts {
    /// Counts a subdirectory that was added to `dir`. The caller writes the inode.
    pub(super) fn add<D: BlockDevice>(
        &mut self,
        volume: &Volume<D>,
        dir: &mut Inode,
    ) -> Result<()> {
        if dir.links() == UNCOUNTED {
            if let Some(count) = self.0.get_mut(&dir.ino()) {
                *count += 1;
            }
            return Ok(());
        }
        let links = dir.links().saturating_add(1);
        if links < MAX_LINKS {
            dir.set_links(links);
            return Ok(());
        }
        if !volume.superblock().has_ro_compat(ro_compat::DIR_NLINK) {
            return Err(Error::TooManyLinks);
        }
        self.0.insert(dir.ino(), u64::from(links - OWN_LINKS));
        dir.set_links(UNCOUNTED);
        Ok(())
    }

    /// Counts a subdirectory of `dir` that was removed. The caller writes the inode.
    pub(super) fn remove<D: BlockDevice>(
        &mut self,
        volume: &mut Volume<D>,
        dir: &mut Inode,
    ) -> Result<()> {
        if dir.links() > OWN_LINKS {
            dir.set_links(dir.links() - 1);
            return Ok(());
        }
        if dir.links() == OWN_LINKS {
            return Ok(());
        }
        let count = if let Some(count) = self.0.get(&dir.ino()) {
            count.saturating_sub(1)
        } else {
            let names = directory::entries(volume, dir)?;
            let is_directory = |name: &&NamedEntry| name.file_type == FileType::Directory;
            names.iter().filter(is_directory).count() as u64
        };
        let links = count + u64::from(OWN_LINKS);
        if links < u64::from(MAX_LINKS) {
            self.0.remove(&dir.ino());
            dir.set_links(narrow(links)?);
        } else {
            self.0.insert(dir.ino(), count);
        }
        Ok(())
    }

    /// Drops the count of a directory that is removed or emptied.
    pub(super) fn forget(&mut self, ino: Ino) {
        self.0.remove(&ino);
    }
}
