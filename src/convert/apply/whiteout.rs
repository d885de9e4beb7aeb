//! Hiding what lower layers have, and nothing that this layer makes.

use super::Ino;
use super::resolve::Missing;
use super::{FileType, Layer, Problem, implicit};
use crate::format::block::BlockDeviceMut;

impl<D: BlockDeviceMut> Layer<'_, D> {
    /// Hides `name` of the lower layers.
    pub(super) fn whiteout(&mut self, parents: &[Vec<u8>], name: &[u8]) -> Result<(), Problem> {
        match self.directory(parents, Missing::Stop)? {
            Some(parent) if !self.fresh.contains(&parent) => self.hide(parent, name).map(drop),
            _ => Ok(()),
        }
    }

    /// Hides all that lower layers have in a directory.
    pub(super) fn opaque(&mut self, directory: &[Vec<u8>]) -> Result<(), Problem> {
        match self.directory(directory, Missing::Stop)? {
            Some(directory) if !self.fresh.contains(&directory) => {
                self.hide_content(directory).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Hides one name in a lower layer's directory; whether something of this layer's stays.
    fn hide(&mut self, parent: Ino, name: &[u8]) -> Result<bool, Problem> {
        let Some(there) = self.filesystem.lookup(parent, name)? else {
            return Ok(false);
        };
        let names_here = self.made.get(&parent);
        let made = names_here.is_some_and(|names| names.contains(name));
        let is_lower_directory =
            there.file_type == FileType::Directory && !self.fresh.contains(&there.ino);
        if is_lower_directory && (made || self.touched.contains(&there.ino)) {
            let stays = self.hide_content(there.ino)?;
            if made {
                return Ok(true);
            }
            if stays {
                // The entries that stay now have a parent that no layer describes.
                self.filesystem.set_attributes(there.ino, &implicit())?;
                return Ok(true);
            }
        }
        if made {
            return Ok(true);
        }
        self.remove(parent, name)?;
        Ok(false)
    }

    /// Hides the content of a lower layer's directory; whether something stays.
    fn hide_content(&mut self, directory: Ino) -> Result<bool, Problem> {
        if !self.touched.contains(&directory) {
            self.forget();
            self.filesystem.clear_directory(directory)?;
            return Ok(false);
        }
        let mut stays = false;
        for entry in self.filesystem.entries(directory)? {
            stays |= self.hide(directory, &entry.name)?;
        }
        Ok(stays)
    }
}
