//! The ext4 engine: opens or makes a filesystem on a block device and edits it.
//!
//! Metadata stays in memory until [`Filesystem::flush`], which writes the blocks that
//! changed, in the disk's order, and no others. File data never passes through: the engine
//! says where it goes, and the caller writes it there.
//!
//! What is on the disk after a flush depends on what was there before and on the calls since,
//! and on nothing else: no clock, no random numbers, and nothing that only memory knows.
//!
//! The format is the one of the kernel's `Documentation/filesystems/ext4`; where that is
//! silent, what `e2fsck` and the kernel's `fs/ext4` accept.
//!
//! Its layers, each of which uses those above it in this table only (`tests/layering.rs`):
//!
//! | modules | what they know |
//! |---|---|
//! | `types`, `error` | arguments, results, errors |
//! | `layout` | structures on the disk, flags, limits |
//! | `bitmap`, `hash`, `acl` | encodings |
//! | `checksum` | where a filesystem has checksums, and how they are computed |
//! | `geometry`, `superblock`, `group`, `system_zone` | validated sizes; what is free |
//! | `cache` | metadata blocks in memory, and what changed |
//! | `cursors`, `volume` | the open filesystem without its files |
//! | `blocks`, `inodes` | the allocators |
//! | `inode`, `inode_table` | a file's attributes |
//! | `run`, `indirect`, `extent_node`, `extents`, `mapping` | where a file's data is |
//! | `dirblock`, `directory_blocks`, `linear`, `htree`, `directory`, `subdirectories` | names |
//! | `xattr` | extended attributes |
//! | `filesystem` | the public calls |
//! | `mkfs` | a new filesystem |

mod acl;
mod bitmap;
mod blocks;
mod cache;
mod checksum;
mod cursors;
mod dirblock;
mod directory;
mod directory_blocks;
mod error;
mod extent_node;
mod extents;
mod filesystem;
mod geometry;
mod group;
mod hash;
mod htree;
mod indirect;
mod inode;
mod inode_table;
mod inodes;
mod layout;
mod linear;
mod mapping;
mod mkfs;
mod run;
mod subdirectories;
mod superblock;
mod system_zone;
mod types;
mod volume;
mod xattr;

pub use error::Error;
pub use filesystem::Filesystem;
pub use mkfs::FormatOptions;
pub use types::{
    Area, Attributes, DirEntry, FileExtent, FileType, Ino, Metadata, NamedEntry, NodeKind, Space,
    Timestamp,
};
