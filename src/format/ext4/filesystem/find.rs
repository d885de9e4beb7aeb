//! Finds files by their paths.

use std::collections::HashSet;

use super::Filesystem;
use crate::format::block::BlockDevice;
use crate::format::ext4::error::Result;
use crate::format::ext4::types::{DirEntry, FileType, Ino};

/// Most symbolic links that one path may lead through, as for the kernel.
const MAX_LINKS: usize = 40;

impl<D: BlockDevice> Filesystem<D> {
    /// What a path from the root leads to, through symbolic links that are read within the
    /// filesystem; `None` when there is nothing, or the links go round.
    ///
    /// # Errors
    /// When the filesystem is damaged, or cannot be read.
    pub fn resolve(&mut self, path: &[u8]) -> Result<Option<DirEntry>> {
        // The directories down to the one that is looked into.
        let mut above: Vec<Ino> = Vec::new();
        let mut rest: Vec<Vec<u8>> = parts(path);
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == b".." {
                above.pop();
                continue;
            }
            let dir = above.last().copied().unwrap_or(self.root());
            let Some(found) = self.lookup(dir, &part)? else {
                return Ok(None);
            };
            match found.file_type {
                FileType::Directory => above.push(found.ino),
                FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Ok(None);
                    }
                    let target = self.read_link(found.ino)?;
                    if target.starts_with(b"/") {
                        above.clear();
                    }
                    rest.extend(parts(&target));
                }
                _ => return Ok(rest.is_empty().then_some(found)),
            }
        }
        Ok(Some(DirEntry {
            ino: above.last().copied().unwrap_or(self.root()),
            file_type: FileType::Directory,
        }))
    }

    /// Calls `visit` with each regular file of a priority list, in the list's order and each once,
    /// until it says that it wants no more. A path that ends in `/` or `*` is a directory with all
    /// that is below it, in the order of names; symbolic links below it are not followed. Paths
    /// that lead nowhere are passed over.
    ///
    /// # Errors
    /// When the filesystem is damaged, or cannot be read, or `visit` fails.
    pub fn visit_files<'a>(
        &mut self,
        paths: impl IntoIterator<Item = &'a [u8]>,
        mut visit: impl FnMut(&mut Self, Ino) -> Result<bool>,
    ) -> Result<()> {
        let (mut seen_files, mut seen_directories) = (HashSet::new(), HashSet::new());
        for path in paths {
            let directory = path.strip_suffix(b"*").or_else(|| path.strip_suffix(b"/"));
            let Some(found) = self.resolve(directory.unwrap_or(path))? else {
                continue;
            };
            let is_directory = found.file_type == FileType::Directory;
            if is_directory != directory.is_some() {
                continue;
            }
            let mut open = vec![(found.ino, found.file_type)];
            while let Some((ino, file_type)) = open.pop() {
                if file_type == FileType::File {
                    if seen_files.insert(ino) && !visit(self, ino)? {
                        return Ok(());
                    }
                } else if file_type == FileType::Directory && seen_directories.insert(ino) {
                    let mut entries = self.entries(ino)?;
                    entries.sort_by(|one, other| other.name.cmp(&one.name));
                    let entries = entries.into_iter();
                    open.extend(entries.map(|entry| (entry.ino, entry.file_type)));
                }
            }
        }
        Ok(())
    }
}

/// The parts of a path, the last one first.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    path.rsplit(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .collect()
}
