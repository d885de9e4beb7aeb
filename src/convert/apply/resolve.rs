//! From the directories of a name to the directory: through symbolic links, inside the image.

use super::Ino;
use super::{FileType, Layer, NodeKind, Problem, implicit};
use crate::format::block::BlockDeviceMut;

/// Links followed for one name; what containerd's `continuity/fs` takes.
const MAX_LINKS: usize = 255;

/// What to do about a directory that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Make it, with the attributes that parents without an entry have.
    Create,
    /// Stop: there is nothing where the name leads.
    Stop,
}

impl<D: BlockDeviceMut> Layer<'_, D> {
    /// The directory that `parts` leads to from the root. `None` only with
    /// [`Missing::Stop`]: it is not there, or something on the way is no directory.
    pub(super) fn directory(
        &mut self,
        parts: &[Vec<u8>],
        missing: Missing,
    ) -> Result<Option<Ino>, Problem> {
        if let Some((_, ino)) = self.last_parent.as_ref().filter(|(last, _)| last == parts) {
            return Ok(Some(*ino));
        }
        // The directories from the root to where we are: the way back for "..".
        let mut trail = vec![self.root];
        let mut here = self.root;
        let mut ahead: Vec<Vec<u8>> = parts.iter().rev().cloned().collect();
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            // Only links bring these; names are clean.
            if part.is_empty() || part == b"." {
                continue;
            }
            if part == b".." {
                if trail.len() > 1 {
                    trail.pop();
                }
                here = trail.last().copied().unwrap_or(self.root);
                continue;
            }
            let next = match self.filesystem.lookup(here, &part)? {
                Some(found) if found.file_type == FileType::Directory => found.ino,
                Some(found) if found.file_type == FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Problem::Loop { limit: MAX_LINKS });
                    }
                    let target = self.filesystem.read_link(found.ino)?;
                    if target.starts_with(b"/") {
                        trail.truncate(1);
                        here = self.root;
                    }
                    let parts = target.split(|&byte| byte == b'/').rev();
                    ahead.extend(parts.map(<[u8]>::to_vec));
                    continue;
                }
                _ if missing == Missing::Stop => return Ok(None),
                Some(_) => return Err(Problem::NotADirectory(part)),
                None => {
                    let kind = NodeKind::Directory;
                    let made = self.filesystem.create(here, &part, &kind, &implicit())?;
                    self.fresh.insert(made);
                    self.note(here, part);
                    made
                }
            };
            trail.push(next);
            here = next;
        }
        self.touched.extend(trail);
        self.last_parent = Some((parts.to_vec(), here));
        Ok(Some(here))
    }
}
