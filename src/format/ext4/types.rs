//! Arguments and results of the engine.

/// An inode's number.
pub type Ino = u32;

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// What a new inode becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    /// An empty regular file.
    File,
    /// An empty directory.
    Directory,
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl NodeKind {
    /// The type alone.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        match self {
            Self::File => FileType::File,
            Self::Directory => FileType::Directory,
            Self::Symlink(_) => FileType::Symlink,
            Self::CharDevice { .. } => FileType::CharDevice,
            Self::BlockDevice { .. } => FileType::BlockDevice,
            Self::Fifo => FileType::Fifo,
            Self::Socket => FileType::Socket,
        }
    }
}

/// A point in time. What ext4 cannot hold (before 1901, after 2446; without large inodes,
/// after 2038 and below a second) comes as near as it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Seconds since 1970, rounded down.
    pub secs: i64,
    /// Nanoseconds after `secs`, below 1,000,000,000.
    pub nanos: u32,
}

/// What can be set on any inode.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permission bits with set-uid, set-gid and sticky: within `0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time; the other times follow it.
    pub mtime: Timestamp,
    /// All extended attributes by full name, POSIX ACLs as `system.posix_acl_*` in the form
    /// that `getxattr` gives.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntry {
    /// The inode.
    pub ino: Ino,
    /// Its type.
    pub file_type: FileType,
}

/// A directory's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedEntry {
    /// The name, any bytes but `/` and NUL.
    pub name: Vec<u8>,
    /// The inode.
    pub ino: Ino,
    /// Its type.
    pub file_type: FileType,
}

/// What of a filesystem is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes in a block.
    pub block_size: u32,
    /// Blocks.
    pub blocks: u64,
    /// Blocks that are free.
    pub free_blocks: u64,
    /// Inodes.
    pub inodes: u32,
    /// Inodes that are free.
    pub free_inodes: u32,
}

/// What an inode says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Its type.
    pub file_type: FileType,
    /// Permission bits with set-uid, set-gid and sticky.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// When it was last read.
    pub atime: Timestamp,
    /// When the inode was last changed.
    pub ctime: Timestamp,
    /// What it takes on the disk, in sectors of 512 bytes.
    pub sectors: u64,
    /// Names of the inode; 1 for a directory with over 64,997 directories.
    pub links: u32,
    /// Device numbers, major and minor; zero for what is no device.
    pub rdev: (u32, u32),
}

/// A table of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    /// The superblock, or a copy of it.
    Superblock,
    /// The table of group descriptors, or a copy of it, and room for its growth.
    GroupDescriptors,
    /// What is free.
    Bitmaps,
    /// Inodes.
    Inodes,
}

/// Blocks of a file that lie together on the disk. All in filesystem blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileExtent {
    /// The first block in the file.
    pub logical_block: u32,
    /// Where it is on the disk.
    pub physical_block: u64,
    /// How many.
    pub blocks: u32,
}
