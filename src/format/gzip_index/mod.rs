//! `gzip.meta`: the index with which a gzip layer can be read from the middle.
//!
//! Deflate is a chain of blocks, each of which may refer to the 32 KiB before it. The index keeps,
//! about once a MiB, a block's position in both streams and these 32 KiB. Whoever has it begins
//! there instead of at the front.
//! Source: containerd/overlaybd `src/overlaybd/gzindex` and zlib's `examples/zran.c`.
//!
//! Making one takes one pass: [`GzipIndexer`] gives the tar and writes the index meanwhile.
//! [`GzipTarget`] reads the tar through it.

mod error;
mod index;
mod indexer;
mod inflater;
mod layout;
mod member;
mod point_thread;
mod points;
mod raw;
mod resume;
mod sparse;
mod target;
mod trial;
mod writer;

pub use error::{GzipError, GzipIndexError};
pub use index::GzipIndex;
pub use indexer::{GzipIndexer, Indexed};
pub use inflater::{Boundary, BoundaryInflater, Step};
pub use layout::{DEFAULT_SPAN, Entry, Header, MAX_ENTRIES, MIN_SPAN, WINDOW, Window};
pub use target::GzipTarget;
pub use writer::GzipIndexWriter;
