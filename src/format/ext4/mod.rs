//! The ext4 engine: opens or makes a filesystem on a block device and edits it.
//!
//! Metadata stays in memory until [`Filesystem::flush`], which writes the blocks that
//! changed, in the disk's order, and no others. File data never passes through: the engine
//! says where it goes, and whoever has it writes it there.
//!
//! What is on the disk after a flush depends on what was there before and on the calls since,
//! and on nothing else: no clock, no random numbers, and nothing that only memory knows.
//!
//! The format is the one of the kernel's `Documentation/filesystems/ext4`; where that is
//! silent, what `e2fsck` and the kernel's `fs/ext4` accept.
//!
//! | module | what it knows |
//! |---|---|
//! | `layout` | offsets, flags, limits |
//! | `superblock`, `groups` | geometry, validated; group descriptors |
//! | `cache` | metadata blocks in memory, and what changed |
//! | `checksum` | where a filesystem has them |
//! | `bitmap`, `blocks`, `inodes` | who is free |
//! | `inode`, `extents`, `indirect` | a file's attributes and where its data is |
//! | `dirblock`, `hash`, `htree`, `directory`, `subdirectories` | names |
//! | `copy` | a file's data once more |
//! | `acl`, `xattr` | extended attributes |
//! | `mkfs`, `filesystem` | the whole |

// Fields on the disk are halves of wider numbers; what does not fit is refused before.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod acl;
mod bitmap;
mod blocks;
mod cache;
mod checksum;
mod copy;
mod dirblock;
mod directory;
mod error;
mod extents;
mod filesystem;
mod groups;
mod hash;
mod htree;
mod indirect;
mod inode;
mod inodes;
mod layout;
mod mkfs;
mod subdirectories;
mod superblock;
mod types;
mod xattr;

pub use error::Error;
pub use filesystem::Filesystem;
pub use mkfs::FormatOptions;
pub use types::{
    Attributes, DirEntry, FileExtent, FileType, Ino, Metadata, NamedEntry, NodeKind, Timestamp,
};
