//! Errors of gzip layers and of their indexes.

use std::io;

/// Why a gzip stream cannot be indexed.
///
/// From [`Read`](std::io::Read) it comes inside an [`io::Error`]; [`of`](Self::of) finds it.
#[derive(Debug, thiserror::Error)]
pub enum GzipError {
    /// What it is read from, or the index is written to.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It does not begin with a gzip header (RFC 1952 § 2.3).
    #[error("gzip: {0}")]
    Header(String),
    /// It ends inside a header, the deflate data or the trailer.
    #[error("gzip: the compressed data ends too early: it is truncated")]
    Truncated,
    /// The deflate data, at this byte of the compressed stream or up to 64 KiB behind it.
    #[error("gzip: the compressed data is damaged near byte {0}")]
    Damaged(u64),
    /// The trailer says something else of the data than the data.
    #[error("gzip: the trailer's {what} is {stored:#x}, and that of the data is {computed:#x}")]
    Trailer {
        /// `CRC-32` or `length`.
        what: &'static str,
        /// What the trailer says.
        stored: u32,
        /// What the data has.
        computed: u32,
    },
    /// A second member begins at this byte. The index's format has one, and nodes read one.
    #[error("gzip: a second member begins at byte {0}, and an index is of one member")]
    MultipleMembers(u64),
    /// Bytes that are not zero stand behind the member.
    #[error("gzip: byte {0}, behind the end of the data, belongs to no member and is not zero")]
    TrailingData(u64),
    /// Where the block at this byte of the compressed stream begins within its byte could not
    /// be told. No known writer makes such a stream.
    #[error("gzip: it cannot be told at which bit the block near byte {0} begins")]
    Undecided(u64),
}

impl GzipError {
    /// The error that reading from a [`GzipIndexer`](super::GzipIndexer) gave, if it is one of
    /// these.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Whether the layer is a good one that no index can be made for, so that only another form
    /// of image is possible.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::MultipleMembers(_) | Self::Undecided(_))
    }
}

impl From<GzipError> for io::Error {
    fn from(error: GzipError) -> Self {
        let kind = match error {
            GzipError::Io(error) => return error,
            GzipError::Truncated => io::ErrorKind::UnexpectedEof,
            GzipError::MultipleMembers(_) | GzipError::Undecided(_) => io::ErrorKind::Unsupported,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// Why a `gzip.meta` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GzipIndexError {
    /// The file cannot be read.
    #[error("the gzip index cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The header.
    #[error("the gzip index's header is damaged: {0}")]
    Header(String),
    /// The table of entries.
    #[error("the gzip index's table is damaged: {0}")]
    Table(String),
    /// It is the index of another blob.
    #[error("the gzip index is of a blob of {indexed} bytes, and this one has {found}")]
    OtherBlob {
        /// Size in bytes of the blob that was indexed.
        indexed: u64,
        /// Size in bytes of the blob that is to be read.
        found: u64,
    },
}
