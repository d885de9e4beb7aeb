//! What one entry of a layer says.

use std::ops::Range;

/// A point in time as tar knows it; before 1970 `secs` is negative, `nanos` always counts up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Seconds since 1970, rounded down.
    pub secs: i64,
    /// Nanoseconds after `secs`, below 1,000,000,000.
    pub nanos: u32,
}

/// What an entry makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file, sparse or not.
    File,
    /// A directory.
    Directory,
    /// A symbolic link with this target, to the byte.
    Symlink(Vec<u8>),
    /// Another name for the entry at this path.
    HardLink(Vec<u8>),
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
    /// Nothing: records for all entries that follow, which nobody heeds. Only the
    /// directories of its name are made.
    GlobalHeader,
}

/// One entry, with everything its headers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as written: bytes, not cleaned, maybe absolute, maybe climbing.
    pub path: Vec<u8>,
    /// What it makes.
    pub kind: EntryKind,
    /// Permission bits with set-uid, set-gid and sticky: within `0o7777`.
    pub mode: u16,
    /// Owner: the lower 32 bits of what is written, as `chown` takes it. `None` for all ones,
    /// which `chown` takes for "as it is".
    pub uid: Option<u32>,
    /// Group, likewise.
    pub gid: Option<u32>,
    /// Modification time.
    pub mtime: Timestamp,
    /// Extended attributes by full name, sorted by it, each name once.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Length of the file in bytes, holes included; 0 for all but files.
    pub size: u64,
    /// Where the file has data: ascending, disjoint, none empty, all within `size`. The tar
    /// stores these ranges one after the other; what lies between them is zero.
    pub data: Vec<Range<u64>>,
    /// Byte of the tar at which the entry's own header starts.
    pub offset: u64,
}
