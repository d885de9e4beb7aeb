//! Errors of opening a `ZFile`.

use std::io;

use super::layout::LayoutError;

/// Errors of opening a `ZFile`.
#[derive(Debug, thiserror::Error)]
pub enum ZFileError {
    /// The device cannot be read.
    #[error("the ZFile cannot be read: {0}")]
    Io(#[from] io::Error),
    /// Header or trailer.
    #[error("the ZFile's {place} is damaged: {source}")]
    Layout {
        /// Header or trailer.
        place: &'static str,
        /// What is wrong with it.
        source: LayoutError,
    },
    /// The index.
    #[error("the ZFile's index is damaged: {0}")]
    Index(String),
}
