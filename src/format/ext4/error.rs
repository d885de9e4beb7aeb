//! Errors of the engine.

use std::io;

use super::types::Ino;
use crate::sizes::Size;

/// Why a filesystem cannot be opened, made or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk below failed.
    #[error("the disk under the filesystem: {0}")]
    Io(#[from] io::Error),
    /// There is no ext4 filesystem on the disk.
    #[error("there is no ext4 filesystem on the disk: {0}")]
    NotExt4(String),
    /// The filesystem needs something that this engine does not do.
    #[error("the ext4 filesystem has {0}, which is not supported")]
    Unsupported(String),
    /// The filesystem contradicts itself.
    #[error("the ext4 filesystem is damaged: {0}")]
    Corrupt(String),
    /// The disk is too small for a filesystem.
    #[error("a disk of {} is too small for a filesystem: it takes {}", Size(*.size), Size(*.least))]
    TooSmall {
        /// The disk's size in bytes.
        size: u64,
        /// The least that will do.
        least: u64,
    },
    /// The disk is larger than this engine's geometry reaches.
    #[error("a disk of {} is too large: {} is the most", Size(*.size), Size(*.most))]
    TooLarge {
        /// The disk's size in bytes.
        size: u64,
        /// The most that will do.
        most: u64,
    },
    /// No free blocks are left.
    #[error("the disk of {} is full: raise --vsize", Size(*.disk))]
    NoSpace {
        /// The disk's size in bytes.
        disk: u64,
    },
    /// No free inodes are left.
    #[error(
        "the disk of {} has no inode left, of {inodes}: raise --vsize, which adds inodes",
        Size(*.disk)
    )]
    NoInodes {
        /// The disk's size in bytes.
        disk: u64,
        /// How many inodes it has.
        inodes: u32,
    },
    /// Nothing has that name.
    #[error("{:?} does not exist", String::from_utf8_lossy(.0))]
    NotFound(Vec<u8>),
    /// Something has that name already.
    #[error("{:?} exists already", String::from_utf8_lossy(.0))]
    Exists(Vec<u8>),
    /// A directory was needed.
    #[error("inode {0} is not a directory")]
    NotADirectory(Ino),
    /// Anything but a directory was needed.
    #[error("inode {0} is a directory")]
    IsADirectory(Ino),
    /// The inode is of another type than the call needs.
    #[error("inode {0} is not {1}")]
    WrongType(Ino, &'static str),
    /// A name that a directory cannot hold.
    #[error("{:?} cannot be a name: {problem}", String::from_utf8_lossy(.name))]
    Name {
        /// The name.
        name: Vec<u8>,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The file has all the hard links that it can have.
    #[error("the file has 65,000 hard links, the most that ext4 can do")]
    TooManyLinks,
    /// The directory's index can grow no further.
    #[error("the directory is full: its index has all the levels that ext4 can do")]
    DirectoryFull,
    /// A symbolic link's target that ext4 cannot hold.
    #[error("a symbolic link's target of {length} bytes cannot be stored: {problem}")]
    Target {
        /// Its length in bytes.
        length: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The file is longer than ext4 can do.
    #[error("a file of {size} bytes is too long: ext4 takes {most}")]
    FileTooLarge {
        /// Its size in bytes.
        size: u64,
        /// The most that ext4 can do, in bytes.
        most: u64,
    },
    /// Where a file has data was described badly.
    #[error("a file's data ranges must ascend within its {0} bytes")]
    Ranges(u64),
    /// A read past a file's end.
    #[error("{length} bytes at {offset} are past the file's end at {size}")]
    PastEnd {
        /// Where the read starts.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// The file's size.
        size: u64,
    },
    /// The extended attributes do not fit.
    #[error(
        "extended attribute {:?} of {size} bytes does not fit: the inode and one block of {block} \
         bytes hold all of a file's",
        String::from_utf8_lossy(.name)
    )]
    XattrSpace {
        /// The attribute that no room was left for.
        name: Vec<u8>,
        /// Its value's length in bytes.
        size: usize,
        /// Bytes of a block.
        block: u32,
    },
    /// An extended attribute that ext4 cannot hold.
    #[error("extended attribute {:?} cannot be stored: {problem}", String::from_utf8_lossy(.name))]
    Xattr {
        /// Its name.
        name: Vec<u8>,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A device number beyond what ext4 can hold.
    #[error("device {major}:{minor} cannot be stored: major goes to 4095, minor to 1048575")]
    Device {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
}

/// What the engine's functions return.
pub(super) type Result<T> = std::result::Result<T, Error>;

/// An error of a filesystem that contradicts itself.
pub(super) fn corrupt<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::Corrupt(what.into()))
}

/// A number in a narrower type.
///
/// # Errors
/// [`Error::Corrupt`] when it does not fit.
pub(super) fn narrow<N: TryFrom<W>, W: Copy + std::fmt::Display>(number: W) -> Result<N> {
    N::try_from(number).or_else(|_| corrupt(format!("the number {number} is out of range")))
}
