//! A layer tar on a filesystem, by the rules of OCI image-spec `layer.md`; where it is
//! silent, as containerd's `pkg/archive` unpacks (and where that depends on the order of
//! entries or on the clock, so that neither matters).
//!
//! - A name in the layer replaces what is there; only a directory over a directory merges:
//!   it keeps its content and takes all of the new attributes.
//! - Whiteouts hide what lower layers have, never what this layer makes, in any order.
//! - Parents that no entry makes, those of whiteouts too, are 0755, of root, from 1970, and
//!   have what the kernel hands on to new nodes: the group of a directory with the
//!   set-group-id bit, and default access lists. Making or removing an entry leaves its
//!   parent's times alone.
//! - Parents are followed through symbolic links, inside this filesystem as if it were `/`;
//!   the last part of a name, and of a hard link's target, never is.
//! - A hard link's own attributes count for the file it names; its xattrs are added, and
//!   `security.capability` goes if it brings none, as with any change of owner.
//! - What an entry says of the root itself is not heeded.
//! - The owner is the lower 32 bits of what is written; all ones leave it as it was. Times
//!   before 1970, or after 2262-04-11T23:47:16.854775807Z, become 1970.
//! - The mode is set after the xattrs: it changes the owner's, the mask's (or the group's) and
//!   the others' entries of an access list. A list that says what the mode says is none.
//! - Attributes that containerd or Linux do not take are left out: xattrs outside `user.`,
//!   `security.` and the ACLs (so `trusted.`), `user.` ones on what is neither file nor
//!   directory, default ACLs on what is no directory. Malformed ACLs and capabilities are
//!   refused, as they are by the kernel.
//! - What aufs left in its layers is not heeded, but regular files in `.wh..wh.plnk` can be
//!   hard links' targets.

mod acl;
mod attributes;
mod data;
mod links;
mod mapped;
mod names;
mod resolve;
mod whiteout;
mod work;

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};

use crate::format::block::BlockDeviceMut;
use crate::format::ext4::{
    self, Attributes, DirEntry, FileExtent, FileType, Filesystem, Ino, NodeKind, Timestamp,
};
use crate::format::prefetch::DataOrder;
use crate::format::tar::{Entry, EntryKind, TarError, TarReader};

pub(super) use attributes::implicit;
use attributes::{Heritage, described};
use names::{AUFS_LINKS, Name};
use resolve::{Known, Missing};
use work::Work;

/// Blocks written to the disk at once.
const SLICE: u64 = 64;
/// Why a layer could not be put on the filesystem.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The tar itself is wrong, or could not be read.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// One entry cannot be applied.
    #[error("layer tar, byte {offset}, entry {:?}: {problem}", String::from_utf8_lossy(.entry))]
    Entry {
        /// The entry's name.
        entry: Vec<u8>,
        /// Where in the tar its header is.
        offset: u64,
        /// What is wrong with it.
        #[source]
        problem: Problem,
    },
}

impl ApplyError {
    /// Whether the disk under the filesystem failed, and the layer is not to blame.
    pub(super) fn is_of_the_disk(&self) -> bool {
        matches!(
            self,
            Self::Entry {
                problem: Problem::Write(_) | Problem::Filesystem(ext4::Error::Io(_)),
                ..
            }
        )
    }
}

/// Why an entry cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Its name, or its link target's, has more `..` than directories.
    #[error("{:?} leads out of the image", String::from_utf8_lossy(.0))]
    Climbs(Vec<u8>),
    /// Its name, or its link target's, is longer than the kernel takes.
    #[error(
        "a path of {length} bytes is too long: Linux takes {}",
        names::MAX_PATH
    )]
    TooLong {
        /// Its length in bytes, links followed.
        length: usize,
    },
    /// Its parent goes through more links than the kernel follows.
    #[error("its parent directory goes through over {limit} symbolic links: a loop, or too many")]
    Loop {
        /// How many are followed.
        limit: usize,
    },
    /// The layer's names cost more to follow than any layer's need to.
    #[error(
        "the names of the layer up to here lead through more directories and symbolic links \
         than are followed: {at_start} and {per_entry} for each entry"
    )]
    TooMuchWork {
        /// Steps that every layer has.
        at_start: u64,
        /// Steps that each entry adds.
        per_entry: u64,
    },
    /// Files with more hard links than ext4 counts were copied and removed too often.
    #[error("files with over 65,000 hard links take copies of more than the disk's {disk} bytes")]
    TooManyCopies {
        /// The disk's size in bytes.
        disk: u64,
    },
    /// Its parent is no directory.
    #[error("its parent {:?} is not a directory", String::from_utf8_lossy(.0))]
    NotADirectory(Vec<u8>),
    /// A whiteout of nothing that could be.
    #[error("a whiteout of {:?} means nothing", String::from_utf8_lossy(.0))]
    Whiteout(Vec<u8>),
    /// A hard link to what is not there.
    #[error("its hard link target {:?} does not exist", String::from_utf8_lossy(.0))]
    NoTarget(Vec<u8>),
    /// A hard link to a directory.
    #[error("its hard link target {:?} is a directory", String::from_utf8_lossy(.0))]
    TargetIsDirectory(Vec<u8>),
    /// An attribute that the kernel refuses.
    #[error("its attribute {:?} cannot be set: {why}", String::from_utf8_lossy(.name))]
    Attribute {
        /// The attribute's full name.
        name: Vec<u8>,
        /// What is wrong with its value.
        why: &'static str,
    },
    /// A symbolic link to nothing.
    #[error("a symbolic link needs a target")]
    EmptyTarget,
    /// The filesystem cannot take it, or is not in order itself.
    #[error("{0}")]
    Filesystem(#[from] ext4::Error),
    /// Its data could not be written.
    #[error("its data cannot be written: {0}")]
    Write(#[source] io::Error),
    /// Its data could not be read.
    #[error(transparent)]
    Tar(#[from] TarError),
}

/// Applies all entries of `tar`, to its end. `order` says which files are wanted when a container
/// starts, for the device to put their data together.
///
/// # Errors
/// At the first entry that cannot be applied; the filesystem is then of no use.
pub fn apply<R: Read, D: BlockDeviceMut>(
    filesystem: &mut Filesystem<D>,
    tar: &mut TarReader<R>,
    order: &DataOrder,
) -> Result<(), ApplyError> {
    let mut layer = Layer {
        order,
        root: filesystem.root(),
        filesystem,
        fresh: HashSet::new(),
        made: HashMap::new(),
        touched: HashSet::new(),
        known: Known::default(),
        heritage: None,
        has_aufs_links: false,
        continued: HashMap::new(),
        copied: 0,
        slice: Vec::new(),
        work: Work::new(),
    };
    while let Some(entry) = tar.next_entry()? {
        layer.work.add_entry();
        layer.entry(&entry, tar).map_err(|problem| match problem {
            Problem::Tar(error) => ApplyError::Tar(error),
            problem => ApplyError::Entry {
                entry: entry.path,
                offset: entry.offset,
                problem,
            },
        })?;
    }
    layer.remove_aufs_links()
}

/// A layer being applied. Maps and sets are only asked, never walked.
struct Layer<'a, D: BlockDeviceMut> {
    order: &'a DataOrder,
    filesystem: &'a mut Filesystem<D>,
    root: Ino,
    /// Directories that this layer made: all in them is this layer's.
    fresh: HashSet<Ino>,
    /// Names that this layer made in lower layers' directories.
    made: HashMap<Ino, HashSet<Vec<u8>>>,
    /// Directories in or below which this layer may have made something.
    touched: HashSet<Ino>,
    /// Where names lead.
    known: Known,
    /// What the directory hands on in which a node was made last.
    heritage: Option<(Ino, Heritage)>,
    /// Whether there are files that aufs kept for hard links.
    has_aufs_links: bool,
    /// Where hard links to a file go that has all it can have.
    continued: HashMap<Ino, Ino>,
    /// Bytes of files that were copied for that.
    copied: u64,
    slice: Vec<u8>,
    work: Work,
}

impl<D: BlockDeviceMut> Layer<'_, D> {
    fn entry<R: Read>(&mut self, entry: &Entry, tar: &mut TarReader<R>) -> Result<(), Problem> {
        if entry.kind == EntryKind::GlobalHeader {
            return self.global_header(&entry.path);
        }
        let (parents, name) = match Name::of(&entry.path)? {
            Name::Root | Name::AufsMetadata => return Ok(()),
            Name::Whiteout { parents, name } => return self.whiteout(&parents, &name),
            Name::Opaque { directory } => return self.opaque(&directory),
            Name::AufsLink { .. } if entry.kind != EntryKind::File => return Ok(()),
            Name::AufsLink { parents, name } => {
                self.has_aufs_links = true;
                (parents, name)
            }
            Name::Entry { parents, name } => (parents, name),
        };
        let Some(parent) = self.directory(&parents, Missing::Create)? else {
            return Ok(());
        };
        self.known.check_length(parent, &name)?;
        match &entry.kind {
            EntryKind::HardLink(target) => self.hard_link(entry, parent, &name, target)?,
            EntryKind::Directory => self.make_directory(entry, parent, &name)?,
            EntryKind::File => {
                let ino = self.make(entry, parent, &name, &NodeKind::File, FileType::File)?;
                let extents = self.filesystem.allocate(ino, entry.size, &entry.data)?;
                let rank = self.order.rank(&parents, &name, entry.size);
                self.place_data(entry, &extents, rank, tar)?;
            }
            EntryKind::Symlink(target) if target.is_empty() => return Err(Problem::EmptyTarget),
            EntryKind::Symlink(target) => {
                let kind = NodeKind::Symlink(target.clone());
                self.make(entry, parent, &name, &kind, FileType::Symlink)?;
            }
            &EntryKind::CharDevice { major, minor } => {
                let kind = NodeKind::CharDevice { major, minor };
                self.make(entry, parent, &name, &kind, FileType::CharDevice)?;
            }
            &EntryKind::BlockDevice { major, minor } => {
                let kind = NodeKind::BlockDevice { major, minor };
                self.make(entry, parent, &name, &kind, FileType::BlockDevice)?;
            }
            EntryKind::Fifo => {
                self.make(entry, parent, &name, &NodeKind::Fifo, FileType::Fifo)?;
            }
            EntryKind::GlobalHeader => return Ok(()),
        }
        self.note(parent, name);
        Ok(())
    }

    /// Remembers that this layer made `name`.
    fn note(&mut self, parent: Ino, name: Vec<u8>) {
        if !self.fresh.contains(&parent) {
            self.made.entry(parent).or_default().insert(name);
        }
    }

    fn make_directory(&mut self, entry: &Entry, parent: Ino, name: &[u8]) -> Result<(), Problem> {
        let there = self.filesystem.lookup(parent, name)?;
        if let Some(there) = there.filter(|there| there.file_type == FileType::Directory) {
            let made = self.made.get(&parent);
            let is_of_this_layer =
                self.fresh.contains(&there.ino) || made.is_some_and(|made| made.contains(name));
            // Over a lower layer's it is a new one: so it is with overlayfs.
            let node = if is_of_this_layer {
                self.present(there.ino)?
            } else {
                let heritage = self.heritage(parent)?;
                heritage.node(FileType::Directory, entry.mode)
            };
            let attributes = described(entry, FileType::Directory, node)?;
            return self.set_attributes(there.ino, &attributes);
        }
        let ino = self.make(
            entry,
            parent,
            name,
            &NodeKind::Directory,
            FileType::Directory,
        )?;
        self.fresh.insert(ino);
        Ok(())
    }

    /// A new node in place of whatever has the name.
    fn make(
        &mut self,
        entry: &Entry,
        parent: Ino,
        name: &[u8],
        kind: &NodeKind,
        file_type: FileType,
    ) -> Result<Ino, Problem> {
        self.remove(parent, name)?;
        let mode = match file_type {
            FileType::Symlink => 0o777,
            _ => entry.mode,
        };
        let node = self.heritage(parent)?.node(file_type, mode);
        let attributes = described(entry, file_type, node)?;
        Ok(self.filesystem.create(parent, name, kind, &attributes)?)
    }

    /// A directory is about to be removed: paths may have led through it, and the numbers of
    /// inodes in it may come again.
    fn forget(&mut self) {
        self.heritage = None;
        self.known.forget();
        self.continued.clear();
    }

    /// Removes what has this name, with all that is below it.
    fn remove(&mut self, parent: Ino, name: &[u8]) -> Result<(), Problem> {
        let Some(there) = self.filesystem.lookup(parent, name)? else {
            return Ok(());
        };
        if there.file_type == FileType::Directory {
            self.forget();
            return Ok(self.filesystem.remove_tree(parent, name)?);
        }
        if there.file_type == FileType::Symlink {
            self.known.forget();
        }
        self.forget_file(there.ino)?;
        Ok(self.filesystem.unlink(parent, name)?)
    }

    /// A header for all entries that follow is an entry for containerd, which makes nothing
    /// of it but its parents.
    fn global_header(&mut self, path: &[u8]) -> Result<(), Problem> {
        if let Ok(Name::Entry { parents, .. }) = Name::of(path) {
            self.directory(&parents, Missing::CreateOrStop)?;
        }
        Ok(())
    }

    /// Nothing shows of what aufs kept for hard links but the links.
    fn remove_aufs_links(&mut self) -> Result<(), ApplyError> {
        if !self.has_aufs_links {
            return Ok(());
        }
        let removed = self.remove(self.root, AUFS_LINKS);
        removed.map_err(|problem| ApplyError::Entry {
            entry: AUFS_LINKS.to_vec(),
            offset: 0,
            problem,
        })
    }
}

#[cfg(test)]
mod tests;
