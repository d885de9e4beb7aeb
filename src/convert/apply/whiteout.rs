//! Hiding what lower layers have, and nothing that this layer makes.

use super::Ino;
use super::resolve::Missing;
use super::{FileType, Layer, Problem, implicit};
use crate::format::block::BlockDeviceMut;
use crate::format::ext4::NamedEntry;

/// A directory of a lower layer in which this one made something, being gone through.
struct Open {
    directory: Ino,
    entries: std::vec::IntoIter<NamedEntry>,
    /// Whether something in it stays.
    stays: bool,
    /// What is hidden itself, and not its content alone.
    name: Option<HiddenName>,
}

/// The name of a directory that is hidden.
struct HiddenName {
    parent: Ino,
    name: Vec<u8>,
    /// Whether this layer has an entry for it.
    made: bool,
}

/// What became of a name.
enum Hidden {
    /// Nothing is there any more.
    Gone,
    /// It is this layer's.
    Stays,
    /// It depends on what is in the directory.
    Below(Open),
}

impl<D: BlockDeviceMut> Layer<'_, D> {
    /// Hides `name` of the lower layers.
    pub(super) fn whiteout(&mut self, parents: &[Vec<u8>], name: &[u8]) -> Result<(), Problem> {
        let Some(parent) = self.directory(parents, Missing::CreateOrStop)? else {
            return Ok(());
        };
        self.known.check_length(parent, name)?;
        if self.fresh.contains(&parent) {
            return Ok(());
        }
        match self.hide(parent, name)? {
            Hidden::Gone | Hidden::Stays => Ok(()),
            Hidden::Below(open) => self.go_through(open),
        }
    }

    /// Hides all that lower layers have in a directory.
    pub(super) fn opaque(&mut self, directory: &[Vec<u8>]) -> Result<(), Problem> {
        match self.directory(directory, Missing::CreateOrStop)? {
            Some(directory) if !self.fresh.contains(&directory) => {
                let open = self.open(directory, None)?;
                self.go_through(open)
            }
            _ => Ok(()),
        }
    }

    /// Hides one name in a lower layer's directory, if that can be said at once.
    fn hide(&mut self, parent: Ino, name: &[u8]) -> Result<Hidden, Problem> {
        let Some(there) = self.filesystem.lookup(parent, name)? else {
            return Ok(Hidden::Gone);
        };
        let names_here = self.made.get(&parent);
        let made = names_here.is_some_and(|names| names.contains(name));
        let is_lower_directory =
            there.file_type == FileType::Directory && !self.fresh.contains(&there.ino);
        if is_lower_directory && self.touched.contains(&there.ino) {
            let hidden = HiddenName {
                parent,
                name: name.to_vec(),
                made,
            };
            return Ok(Hidden::Below(self.open(there.ino, Some(hidden))?));
        }
        if is_lower_directory && made {
            self.clear(there.ino)?;
        }
        if made {
            return Ok(Hidden::Stays);
        }
        self.remove(parent, name)?;
        Ok(Hidden::Gone)
    }

    fn clear(&mut self, directory: Ino) -> Result<(), Problem> {
        self.forget();
        Ok(self.filesystem.clear_directory(directory)?)
    }

    /// A directory whose content is hidden. One in which this layer made nothing is empty
    /// at once.
    fn open(&mut self, directory: Ino, name: Option<HiddenName>) -> Result<Open, Problem> {
        let mut entries = Vec::new();
        if self.touched.contains(&directory) {
            let size = self.filesystem.metadata(directory)?.size;
            let blocks = size / u64::from(self.filesystem.block_size());
            self.work.spend(blocks)?;
            entries = self.filesystem.entries(directory)?;
        } else {
            self.clear(directory)?;
        }
        Ok(Open {
            directory,
            entries: entries.into_iter(),
            stays: false,
            name,
        })
    }

    /// Hides the content of a directory, and the directory where nothing of it stays.
    fn go_through(&mut self, top: Open) -> Result<(), Problem> {
        // The directories on the way down. What is removed was made before, and is removed
        // once; what stays can be gone through for every whiteout.
        let mut way = vec![top];
        while let Some(open) = way.last_mut() {
            if let Some(entry) = open.entries.next() {
                match self.hide(open.directory, &entry.name)? {
                    Hidden::Gone => {}
                    Hidden::Stays => {
                        open.stays = true;
                        self.work.spend(1)?;
                    }
                    Hidden::Below(below) => way.push(below),
                }
                continue;
            }
            let Some(done) = way.pop() else { break };
            let stays = self.leave(&done)?;
            if let Some(above) = way.last_mut() {
                above.stays |= stays;
            }
        }
        Ok(())
    }

    /// Whether something stays of a directory whose content was gone through.
    fn leave(&mut self, done: &Open) -> Result<bool, Problem> {
        match &done.name {
            None => Ok(done.stays),
            Some(hidden) if hidden.made => Ok(true),
            Some(_) if done.stays => {
                // The entries that stay now have a parent that no layer describes.
                self.set_attributes(done.directory, &implicit())?;
                Ok(true)
            }
            Some(hidden) => {
                self.remove(hidden.parent, &hidden.name)?;
                Ok(false)
            }
        }
    }
}
