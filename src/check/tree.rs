//! A root filesystem as a tree of metadata: what is compared.

use std::collections::{BTreeMap, HashMap};

use sha2::Digest as _;

/// A root filesystem: all of it but the content of files, of which length and digest are kept.
#[derive(Debug, Clone)]
pub struct Tree {
    /// The root comes first. Nodes that lost their last name stay, unreachable.
    pub(super) nodes: Vec<Node>,
}

/// A node by its place in the tree's list.
pub(super) type NodeId = usize;

/// The root.
pub(super) const ROOT: NodeId = 0;

/// An inode.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) attributes: Attributes,
}

/// What an inode is.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Directory(BTreeMap<Box<[u8]>, NodeId>),
    File(Content),
    Symlink(Box<[u8]>),
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
    Socket,
}

/// What is remembered of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) size: u64,
    /// See [`Hasher`]: no plain SHA-256.
    pub(super) digest: [u8; 32],
}

/// Extended attributes by their full names.
pub(super) type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// What every inode has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attributes {
    /// Permissions with set-uid, set-gid and sticky.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
    pub(super) xattrs: Xattrs,
}

/// A time; `nanos` counts up, also before 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time {
    pub(super) secs: i64,
    pub(super) nanos: u32,
}

impl Attributes {
    /// Those of a directory that nothing describes.
    pub(super) fn implicit() -> Self {
        Self {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Time { secs: 0, nanos: 0 },
            xattrs: BTreeMap::new(),
        }
    }
}

impl Kind {
    /// Its name, for people.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Directory(_) => "a directory",
            Self::File(_) => "a file",
            Self::Symlink(_) => "a symbolic link",
            Self::CharDevice { .. } => "a character device",
            Self::BlockDevice { .. } => "a block device",
            Self::Fifo => "a FIFO",
            Self::Socket => "a socket",
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(self, Self::Directory(_))
    }
}

impl Tree {
    /// An empty root directory.
    pub(super) fn new(attributes: Attributes) -> Self {
        let kind = Kind::Directory(BTreeMap::new());
        Self {
            nodes: vec![Node { kind, attributes }],
        }
    }

    pub(super) fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id)
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(id)
    }

    /// A new node without a name.
    pub(super) fn add(&mut self, kind: Kind, attributes: Attributes) -> NodeId {
        self.nodes.push(Node { kind, attributes });
        self.nodes.len() - 1
    }

    /// The entries of a directory; `None` of anything else.
    pub(super) fn entries(&self, id: NodeId) -> Option<&BTreeMap<Box<[u8]>, NodeId>> {
        match &self.node(id)?.kind {
            Kind::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    pub(super) fn entries_mut(&mut self, id: NodeId) -> Option<&mut BTreeMap<Box<[u8]>, NodeId>> {
        match &mut self.node_mut(id)?.kind {
            Kind::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    /// What has this name in a directory.
    pub(super) fn lookup(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        self.entries(directory)?.get(name).copied()
    }

    /// Gives a node a name, in place of what has it.
    pub(super) fn link(&mut self, directory: NodeId, name: &[u8], id: NodeId) {
        if let Some(entries) = self.entries_mut(directory) {
            entries.insert(name.into(), id);
        }
    }

    /// How often each node has a name.
    pub(super) fn names(&self) -> HashMap<NodeId, u32> {
        let (mut names, mut ahead) = (HashMap::new(), vec![ROOT]);
        while let Some(id) = ahead.pop() {
            for &below in self.entries(id).into_iter().flat_map(BTreeMap::values) {
                let count = names.entry(below).or_insert(0_u32);
                *count = count.saturating_add(1);
                if *count == 1 {
                    ahead.push(below);
                }
            }
        }
        names
    }

    /// How many names there are, the root's not counted.
    #[must_use]
    pub fn len(&self) -> u64 {
        let (mut count, mut ahead) = (0, vec![ROOT]);
        while let Some(id) = ahead.pop() {
            for (_, &below) in self.entries(id).into_iter().flatten() {
                count += 1;
                ahead.push(below);
            }
        }
        count
    }

    /// Whether there is nothing below the root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Bytes of a file that are hashed together, if there is anything but zeros among them.
const PIECE: usize = 4096;
static ZEROS: [u8; PIECE] = [0; PIECE];

/// Length and digest of a content as it is read.
///
/// The digest is of what is not zero: each piece of 4096 bytes that has something, with its
/// place before it. So a hole of terabytes, which anyone can claim, costs nothing, and equal
/// contents have equal digests however their zeros came about.
pub(super) struct Hasher {
    size: u64,
    hash: sha2::Sha256,
    /// The piece that is not yet full.
    piece: Vec<u8>,
}

impl Default for Hasher {
    fn default() -> Self {
        Self {
            size: 0,
            hash: sha2::Sha256::default(),
            piece: Vec::with_capacity(PIECE),
        }
    }
}

impl Hasher {
    pub(super) fn data(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.piece.is_empty()
                && let Some((piece, rest)) = bytes.split_first_chunk::<PIECE>()
            {
                Self::hash(&mut self.hash, self.size, piece);
                self.size = self.size.saturating_add(PIECE as u64);
                bytes = rest;
                continue;
            }
            let (now, rest) = bytes.split_at(bytes.len().min(PIECE - self.piece.len()));
            self.piece.extend_from_slice(now);
            self.size = self.size.saturating_add(now.len() as u64);
            bytes = rest;
            self.close_if(PIECE);
        }
    }

    /// Zeros up to this length.
    pub(super) fn zeros_to(&mut self, size: u64) {
        let room = (PIECE - self.piece.len()) % PIECE;
        let wanted = usize::try_from(size.saturating_sub(self.size)).unwrap_or(usize::MAX);
        self.data(ZEROS.get(..room.min(wanted)).unwrap_or_default());
        if self.size < size {
            let part = usize::try_from(size % PIECE as u64).unwrap_or(0);
            self.size = size - part as u64;
            self.data(ZEROS.get(..part).unwrap_or_default());
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn finish(mut self) -> Content {
        self.close_if(self.piece.len());
        Content {
            size: self.size,
            digest: self.hash.finalize().into(),
        }
    }

    fn close_if(&mut self, len: usize) {
        if self.piece.len() == len {
            let start = self.size.saturating_sub(len as u64);
            Self::hash(&mut self.hash, start, &self.piece);
            self.piece.clear();
        }
    }

    fn hash(hash: &mut sha2::Sha256, start: u64, piece: &[u8]) {
        if ZEROS.get(..piece.len()) != Some(piece) {
            hash.update(start.to_le_bytes());
            hash.update(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(bytes: &[u8]) -> Content {
        let mut hasher = Hasher::default();
        hasher.data(bytes);
        hasher.finish()
    }

    #[test]
    fn a_hole_of_any_size_can_be_hashed() {
        let mut hasher = Hasher::default();
        hasher.zeros_to(u64::MAX - 5000);
        hasher.data(b"x");
        hasher.zeros_to(u64::MAX - 9);
        assert_eq!(hasher.finish().size, u64::MAX - 9);
    }

    #[test]
    fn data_at_another_offset_is_different_content() {
        let at = |place: usize| {
            let mut bytes = [0; 9000];
            bytes[place] = 1;
            plain(&bytes)
        };
        assert_ne!(at(4095), at(4096));
        assert_ne!(at(0), at(4096));
        assert_ne!(plain(&[0; 8192]), plain(&[0; 8193]));
    }

    proptest! {
        #[test]
        fn the_hash_does_not_depend_on_how_data_is_split(
            runs in prop::collection::vec((any::<bool>(), 1..10_000usize), 1..12),
            cut in 1..5000usize,
        ) {
            let mut bytes = Vec::new();
            let mut by_runs = Hasher::default();
            for (is_hole, len) in runs {
                let start = bytes.len();
                bytes.resize(start + len, if is_hole { 0 } else { 0x5a });
                if is_hole {
                    by_runs.zeros_to(bytes.len() as u64);
                } else {
                    by_runs.data(&bytes[start..]);
                }
            }
            let mut by_parts = Hasher::default();
            bytes.chunks(cut).for_each(|part| by_parts.data(part));
            prop_assert_eq!(by_parts.finish(), plain(&bytes));
            prop_assert_eq!(by_runs.finish(), plain(&bytes));
        }
    }
}
