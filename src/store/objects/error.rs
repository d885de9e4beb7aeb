//! Errors of object storage.

use std::path::PathBuf;

use crate::oci::Digest;
use crate::store::error::BlobError;

/// Most characters of what the storage said.
const MAX_TEXT: usize = 600;

/// Why an object could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// A setting cannot be used.
    #[error("{option}: {problem}")]
    Setting {
        /// The option.
        option: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The storage refuses for good: another attempt fails the same way.
    #[error("{what} {place} was refused: {remedy} ({cause})")]
    Refused {
        /// What was being done.
        what: &'static str,
        /// The bucket and the prefix.
        place: String,
        /// What to do about it.
        remedy: &'static str,
        /// What the storage said.
        cause: String,
    },
    /// There is no such bucket.
    #[error(
        "{what} {place} failed: there is no such bucket, or it is in another region: see \
         --blob-store, --blob-store-endpoint and --blob-store-region ({cause})"
    )]
    NoBucket {
        /// What was being done.
        what: &'static str,
        /// The bucket and the prefix.
        place: String,
        /// What the storage said.
        cause: String,
    },
    /// The storage writes over what is there although it is asked not to.
    #[error(
        "{place}: this storage does not know conditional writes (If-None-Match), so that objects \
         could be replaced: use one that does, as Amazon S3"
    )]
    Unconditional {
        /// The bucket and the prefix.
        place: String,
    },
    /// The storage does not answer, or with an error that may pass.
    #[error("{what} {place} failed: {cause}")]
    Unavailable {
        /// What was being done.
        what: &'static str,
        /// The bucket and the prefix.
        place: String,
        /// What was seen.
        cause: String,
    },
    /// The blob directory.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The blob's file changed while it was read.
    #[error("the file of {digest} has other bytes than that: it was not uploaded")]
    Changed {
        /// The blob.
        digest: Digest,
    },
    /// An object changed while it was compared with its blob.
    #[error("the object of {digest} is being written by others: it is looked at again later")]
    Changing {
        /// The blob.
        digest: Digest,
    },
    /// The process ends.
    #[error("the upload of {digest} is given up: the process stops")]
    Stopped {
        /// The blob.
        digest: Digest,
    },
    /// The file with credentials cannot be used.
    #[error("{}: {problem}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl ObjectError {
    /// What the client of the storage said, about a request to `place`.
    pub(super) fn of(what: &'static str, place: &str, error: &object_store::Error) -> Self {
        let place = place.to_owned();
        let cause: String = error.to_string().chars().take(MAX_TEXT).collect();
        match error {
            object_store::Error::PermissionDenied { .. } => Self::Refused {
                what,
                place,
                remedy: "the credentials are wrong, or lack a permission: s3:GetObject, \
                         s3:PutObject, s3:AbortMultipartUpload and s3:ListBucket are needed",
                cause,
            },
            object_store::Error::Unauthenticated { .. } => Self::Refused {
                what,
                place,
                remedy: "there are no credentials, or they are not valid: see \
                         --blob-store-credentials-file and AWS_ACCESS_KEY_ID",
                cause,
            },
            object_store::Error::NotFound { .. } => Self::NoBucket { what, place, cause },
            _ => Self::Unavailable { what, place, cause },
        }
    }

    /// Whether it tells of the state of the storage, and not of one file here.
    pub(super) fn is_of_storage(&self) -> bool {
        !matches!(
            self,
            Self::Blobs(_) | Self::Changed { .. } | Self::Changing { .. } | Self::Stopped { .. }
        )
    }

    /// Whether another attempt may succeed with the same settings.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}
