//! Layer tars, as GNU tar, bsdtar and Go write them.
//!
//! A streaming reader: v7, ustar, star, GNU and PAX headers come out as one [`Entry`] each,
//! extension headers merged in, sparse maps of every kind turned into ranges of the file.
//! What the header of an entry means is POSIX.1-2001 § pax and the GNU tar manual
//! § "Basic Tar Format"; where they leave a choice, Go's `archive/tar` decides, because
//! that is what containerd unpacks layers with.

mod entry;
mod error;
mod header;
mod number;
mod pax;
mod reader;
mod sparse;

pub use entry::{Entry, EntryKind, Timestamp};
pub use error::{Problem, TarError};
pub use header::is_header;
pub use reader::TarReader;

/// Bytes of a tar block: headers are one, data is padded to them.
pub const BLOCK: usize = 512;

/// Most bytes that one extension header (PAX records, a GNU long name) may carry.
pub const MAX_EXTENSION: u64 = 1 << 20;

/// Most data ranges in the map of a sparse file.
pub const MAX_SPARSE_RANGES: usize = 1_000_000;

#[cfg(test)]
mod tests;
