//! A root filesystem as a tree of metadata: what is compared.

use std::collections::BTreeMap;
use std::io::{self, Read};

use sha2::Digest as _;

/// Seconds that ext4 can keep, 34 bits around 1970 (kernel, `fs/ext4/ext4.h`,
/// "Extended time fields").
const SECONDS: std::ops::RangeInclusive<i64> = -(1 << 31)..=(1 << 34) - (1 << 31) - 1;

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
    pub(super) sha256: [u8; 32],
}

/// What every inode has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attributes {
    /// Permissions with set-uid, set-gid and sticky.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
    pub(super) xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
}

/// A time; `nanos` counts up, also before 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time {
    pub(super) secs: i64,
    pub(super) nanos: u32,
}

impl Time {
    /// The time as a filesystem keeps it.
    pub(super) fn kept(self) -> Self {
        match self.secs {
            secs if secs < *SECONDS.start() => Self {
                secs: *SECONDS.start(),
                nanos: 0,
            },
            secs if secs > *SECONDS.end() => Self {
                secs: *SECONDS.end(),
                nanos: 0,
            },
            _ => self,
        }
    }
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

/// Length and digest of a content as it is read.
#[derive(Default)]
pub(super) struct Hasher {
    size: u64,
    hash: sha2::Sha256,
}

impl Hasher {
    pub(super) fn data(&mut self, bytes: &[u8]) {
        self.size = self.size.saturating_add(bytes.len() as u64);
        self.hash.update(bytes);
    }

    /// Zeros up to this length.
    pub(super) fn zeros_to(&mut self, size: u64) {
        const ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        while self.size < size {
            let count = usize::try_from(size - self.size).unwrap_or(usize::MAX);
            self.data(ZEROS.get(..count).unwrap_or(&ZEROS));
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn finish(self) -> Content {
        Content {
            size: self.size,
            sha256: self.hash.finalize().into(),
        }
    }

    /// All of a stream.
    pub(super) fn read(mut stream: impl Read) -> io::Result<Content> {
        let mut hasher = Self::default();
        let mut buffer = vec![0; 256 << 10];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(count) => hasher.data(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
