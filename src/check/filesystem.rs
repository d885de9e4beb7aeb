//! A root filesystem from a disk with an ext4 on it.

use std::collections::{BTreeMap, HashMap};
use std::io;

use super::bytes::damaged;
use super::ext4::{Ext4, Inode, ROOT_INODE};
use super::ext4_xattrs;
use super::tree::{Attributes, Hasher, Kind, NodeId, ROOT, Time, Tree};
use crate::format::block::BlockDevice;

/// Bytes of the longest path that Linux takes.
const MAX_PATH: usize = 4095;

/// Why a filesystem cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}", path.escape_ascii())]
pub struct FilesystemError {
    path: Vec<u8>,
    #[source]
    cause: io::Error,
}

/// An inode that was met, and how often.
struct Met {
    id: NodeId,
    links: u16,
    names: u64,
    path: Vec<u8>,
}

impl Tree {
    /// The root filesystem on an ext4 disk.
    ///
    /// What the filesystem says twice is compared on the way: types in directories and in
    /// inodes, link counts, parents. Its bitmaps of free space are left to `e2fsck`, since
    /// nothing reads them.
    ///
    /// # Errors
    /// When the disk cannot be read, or what is on it is damaged or of a kind that overlaybd
    /// layers do not have.
    pub fn from_filesystem(device: impl BlockDevice) -> Result<Self, FilesystemError> {
        Self::read(device, true)
    }

    /// Reads all of a filesystem but the content of its files.
    ///
    /// # Errors
    /// As [`from_filesystem`](Self::from_filesystem).
    pub(super) fn structure(device: impl BlockDevice) -> Result<(), FilesystemError> {
        Self::read(device, false).map(drop)
    }

    fn read(device: impl BlockDevice, with_content: bool) -> Result<Self, FilesystemError> {
        let at = |path: &[u8], cause| FilesystemError {
            path: path.to_vec(),
            cause,
        };
        let filesystem = Ext4::open(device).map_err(|cause| at(b"/", cause))?;
        if !with_content {
            filesystem
                .read_descriptors()
                .map_err(|cause| at(b"/", cause))?;
        }
        let root = filesystem
            .inode(ROOT_INODE)
            .map_err(|cause| at(b"/", cause))?;
        let attributes = attributes(&filesystem, &root).map_err(|cause| at(b"/", cause))?;
        let mut reader = Reader {
            filesystem,
            with_content,
            tree: Self::new(attributes),
            met: HashMap::new(),
        };
        let mut ahead = vec![(Vec::new(), ROOT_INODE, ROOT_INODE, root, ROOT)];
        while let Some((path, number, parent, inode, id)) = ahead.pop() {
            let shown = if path.is_empty() {
                b"/"
            } else {
                path.as_slice()
            };
            let below = reader
                .directory(&path, number, parent, &inode, id)
                .map_err(|(name, cause)| match name {
                    Some(name) => at(&name, cause),
                    None => at(shown, cause),
                })?;
            ahead.extend(below);
        }
        for met in reader.met.values() {
            if u64::from(met.links) != met.names {
                let text = format!("its inode counts {} names and has {}", met.links, met.names);
                return Err(at(&met.path, damaged(text)));
            }
        }
        Ok(reader.tree)
    }
}

type Ahead = (Vec<u8>, u32, u32, Inode, NodeId);

struct Reader<D> {
    filesystem: Ext4<D>,
    /// Whether files are read, or only where their content is.
    with_content: bool,
    tree: Tree,
    met: HashMap<u32, Met>,
}

impl<D: BlockDevice> Reader<D> {
    /// Reads what is in a directory; the directories in it are still to be read.
    #[allow(clippy::type_complexity)]
    fn directory(
        &mut self,
        path: &[u8],
        number: u32,
        parent: u32,
        inode: &Inode,
        id: NodeId,
    ) -> Result<Vec<Ahead>, (Option<Vec<u8>>, io::Error)> {
        let here = |cause| (None, cause);
        let mut ahead = Vec::new();
        let (mut dots, mut directories) = (0, 0u64);
        for entry in self.filesystem.directory(inode).map_err(here)? {
            if let Some(expected) = match entry.name.as_slice() {
                b"." => Some(number),
                b".." => Some(parent),
                _ => None,
            } {
                dots += 1;
                if entry.inode != expected {
                    let name = String::from_utf8_lossy(&entry.name).into_owned();
                    let text = format!("its {name:?} is inode {}, not {expected}", entry.inode);
                    return Err(here(damaged(text)));
                }
                continue;
            }
            let below = [path, b"/", &entry.name].concat();
            let failed = |cause| (Some(below.clone()), cause);
            if entry.name.is_empty() || entry.name.contains(&b'/') || entry.name.contains(&0) {
                return Err(failed(damaged("an impossible name")));
            }
            // With the slash in front it has one byte more.
            if below.len() > MAX_PATH + 1 {
                return Err(here(damaged("a name in it is deeper than Linux reaches")));
            }
            if self.tree.lookup(id, &entry.name).is_some() {
                return Err(failed(damaged("a name that is there twice")));
            }
            let child = match self.met.get_mut(&entry.inode) {
                Some(met) if self.tree.entries(met.id).is_some() => {
                    return Err(failed(damaged("a directory with two names")));
                }
                Some(met) => {
                    met.names += 1;
                    met.id
                }
                None => {
                    let inode = self.filesystem.inode(entry.inode).map_err(failed)?;
                    let kind = self.kind(&inode).map_err(failed)?;
                    if stored_type(&kind) != entry.file_type {
                        let text = format!("its directory calls it type {}", entry.file_type);
                        return Err(failed(damaged(format!(
                            "{text}, and it is {}",
                            kind.name()
                        ))));
                    }
                    let attributes = attributes(&self.filesystem, &inode).map_err(failed)?;
                    let is_directory = kind.is_directory();
                    let child = self.tree.add(kind, attributes);
                    // A directory's links are counted with its content.
                    let links = if is_directory { 1 } else { inode.links };
                    let met = Met {
                        id: child,
                        links,
                        names: 1,
                        path: below.clone(),
                    };
                    self.met.insert(entry.inode, met);
                    if is_directory {
                        directories += 1;
                        ahead.push((below.clone(), entry.inode, number, inode, child));
                    }
                    child
                }
            };
            self.tree.link(id, &entry.name, child);
        }
        if dots != 2 {
            return Err(here(damaged("a directory without \".\" or \"..\"")));
        }
        // With very many directories in it, ext4 stops counting and says 1.
        let counted = u64::from(inode.links);
        if counted != directories + 2 && (counted != 1 || directories < 64_000) {
            let text =
                format!("it counts {counted} links, and {directories} directories are in it");
            return Err(here(damaged(text)));
        }
        Ok(ahead)
    }

    fn kind(&self, inode: &Inode) -> io::Result<Kind> {
        Ok(match inode.mode >> 12 {
            0o04 => Kind::Directory(BTreeMap::new()),
            0o10 if !self.with_content => {
                self.filesystem.extents(inode)?;
                let mut hasher = Hasher::default();
                hasher.zeros_to(inode.size);
                Kind::File(hasher.finish())
            }
            0o10 => {
                let mut hasher = Hasher::default();
                self.filesystem.data(inode, |at, part| {
                    hasher.zeros_to(at);
                    hasher.data(part);
                    Ok(())
                })?;
                hasher.zeros_to(inode.size);
                Kind::File(hasher.finish())
            }
            0o12 => Kind::Symlink(self.filesystem.link(inode)?.into()),
            0o02 => {
                let (major, minor) = inode.device()?;
                Kind::CharDevice { major, minor }
            }
            0o06 => {
                let (major, minor) = inode.device()?;
                Kind::BlockDevice { major, minor }
            }
            0o01 => Kind::Fifo,
            0o14 => Kind::Socket,
            _ => return Err(damaged(format!("an inode of mode {:o}", inode.mode))),
        })
    }
}

/// What a directory entry says of a node of this kind.
fn stored_type(kind: &Kind) -> u8 {
    match kind {
        Kind::File(_) => 1,
        Kind::Directory(_) => 2,
        Kind::CharDevice { .. } => 3,
        Kind::BlockDevice { .. } => 4,
        Kind::Fifo => 5,
        Kind::Socket => 6,
        Kind::Symlink(_) => 7,
    }
}

fn attributes<D: BlockDevice>(filesystem: &Ext4<D>, inode: &Inode) -> io::Result<Attributes> {
    let mut xattrs = BTreeMap::new();
    ext4_xattrs::in_inode(inode.attribute_space()?, &mut xattrs)?;
    if let Some(block) = filesystem.attribute_block(inode)? {
        ext4_xattrs::in_block(&block, &mut xattrs)?;
    }
    let (secs, nanos) = inode.mtime()?;
    Ok(Attributes {
        mode: inode.mode & 0o7777,
        uid: inode.uid()?,
        gid: inode.gid()?,
        mtime: Time { secs, nanos },
        xattrs,
    })
}
