//! A part of a blob that cannot be had, in an [`io::Error`].

use std::io;
use std::sync::Arc;

use super::flight::PieceError;
use crate::oci::Digest;
use crate::registry;

/// Why a part of a blob could not be had. Reads of blobs have it in their [`io::Error`]
/// ([`io::Error::get_ref`]).
#[derive(Debug, Clone, thiserror::Error)]
#[error("blob {blob}: {cause}")]
pub struct ReadError {
    blob: Digest,
    cause: Arc<PieceError>,
}

impl ReadError {
    pub(super) fn new(blob: &Digest, cause: Arc<PieceError>) -> Self {
        Self {
            blob: blob.clone(),
            cause,
        }
    }

    /// What the upstream said; `None` where it said nothing, or sent something else.
    #[must_use]
    pub fn upstream(&self) -> Option<&registry::Error> {
        match &*self.cause {
            PieceError::Upstream(error) => Some(error),
            _ => None,
        }
    }

    /// Whether it is only because the program ends.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        matches!(*self.cause, PieceError::Ended)
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        let kind = match &*error.cause {
            PieceError::Slow(_) => io::ErrorKind::TimedOut,
            PieceError::Short { .. } => io::ErrorKind::UnexpectedEof,
            PieceError::Upstream(error) if error.is_not_found() => io::ErrorKind::NotFound,
            PieceError::Upstream(_) | PieceError::Ended => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
