//! What can be wrong with a layer tar.

use std::fmt;
use std::io;

/// Where in a layer tar what is wrong.
#[derive(Debug)]
pub struct TarError {
    /// Byte of the tar at which the header starts that is wrong or whose data is.
    pub offset: u64,
    /// The entry's name, as far as it was known.
    pub entry: Option<Vec<u8>>,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a layer tar.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The bytes below could not be had; no fault of the tar.
    #[error("reading failed: {0}")]
    Read(#[source] io::Error),
    /// The tar ends too early.
    #[error("the tar ends within {0}: it is truncated")]
    Truncated(&'static str),
    /// A header whose checksum is wrong, so probably no header at all.
    #[error("the header's checksum is wrong: this is no tar, or a damaged one")]
    Checksum,
    /// A zero block with a header behind it.
    #[error("a single zero block stands between entries: the tar is damaged")]
    LoneZeroBlock,
    /// A header field that should be a number and is not, or not a usable one.
    #[error("{field} {text:?} is not a number that can be used here")]
    Number {
        /// Which field.
        field: &'static str,
        /// What it holds.
        text: String,
    },
    /// An entry of a kind that no layer has.
    #[error("an entry of type {0:?} cannot be unpacked")]
    Type(char),
    /// A PAX record block that is not well formed.
    #[error("PAX records: {0}")]
    Pax(String),
    /// More than a limit allows.
    #[error("{what} of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// Of what there is too much.
        what: &'static str,
        /// How much was asked for.
        size: u64,
        /// How much is taken.
        limit: u64,
    },
    /// A sparse map that contradicts itself or the entry.
    #[error("sparse file: {0}")]
    Sparse(&'static str),
}

impl fmt::Display for TarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer tar, byte {}", self.offset)?;
        if let Some(entry) = &self.entry {
            write!(f, ", entry {:?}", String::from_utf8_lossy(entry))?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for TarError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::Read(error) => Some(error),
            _ => None,
        }
    }
}

/// At most 64 bytes of a field, as text for a message.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..64).unwrap_or(bytes)).into_owned()
}
