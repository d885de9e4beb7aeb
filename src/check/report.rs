//! The result of a check.

use serde::{Serialize, Serializer};

use super::compare::{Difference, What};
use super::extract::ExtractError;
use super::filesystem::FilesystemError;
use crate::format::blob::{BlobError, StackError};
use crate::oci::{Digest, ManifestError};
use crate::registry;

/// What a check found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Digest of the source's manifest or index.
    pub source: Digest,
    /// Digest of the converted image's manifest or index.
    pub converted: Digest,
    /// What is wrong with the whole.
    pub problems: Vec<String>,
    /// Each converted image.
    pub images: Vec<ImageReport>,
    /// Images of an index that were left as they are.
    pub kept: Vec<Digest>,
    /// Images of the source's index that the converted one does not have.
    pub left_out: Vec<Digest>,
}

/// What was found of one image.
#[derive(Debug, Clone, Serialize)]
pub struct ImageReport {
    /// The platform, where an index or a config names one.
    pub platform: Option<String>,
    /// Digest of the source's manifest.
    pub source: Digest,
    /// Digest of the converted manifest.
    pub converted: Digest,
    /// Layers of the converted image.
    pub layers: usize,
    /// Bytes of their blobs.
    pub blob_bytes: u64,
    /// Names in the root filesystem that were compared; `None` where it did not come to that.
    pub names: Option<u64>,
    /// What is wrong with its parts.
    pub problems: Vec<String>,
    /// What is different in the root filesystem.
    pub differences: Vec<Difference>,
    /// Whether there are more differences than are listed.
    pub more: bool,
}

impl Report {
    /// Whether the converted image has no image that could be compared, and no problem says why:
    /// it is not a conversion of the source.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty() && self.images.is_empty()
    }

    /// Whether images were compared and nothing is wrong.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.problems.is_empty()
            && !self.images.is_empty()
            && self.images.iter().all(ImageReport::is_same)
    }
}

impl ImageReport {
    /// Whether nothing is wrong, and everything was compared.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.problems.is_empty() && self.differences.is_empty() && self.names.is_some()
    }
}

/// Something that is not what it must be.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(super) struct Damaged(pub(super) String);

/// An error as a finding, if it says that an image is wrong; else the check itself failed.
pub(super) fn finding(error: anyhow::Error) -> anyhow::Result<String> {
    let is_finding = error.chain().any(|cause| {
        let is_wrong_answer = cause.downcast_ref().is_some_and(|error| {
            matches!(
                error,
                registry::Error::Mismatch { .. }
                    | registry::Error::NotFound { .. }
                    | registry::Error::Invalid { .. }
            )
        });
        let is_broken_blob = cause
            .downcast_ref::<BlobError>()
            .is_some_and(|error| !matches!(error, BlobError::Io(_)));
        is_wrong_answer
            || is_broken_blob
            || cause.is::<Damaged>()
            || cause.is::<StackError>()
            || cause.is::<ManifestError>()
            || cause.is::<ExtractError>()
            || cause.is::<FilesystemError>()
    });
    if !is_finding {
        return Err(error);
    }
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    Ok(text)
}

impl Serialize for Difference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut fields = serializer.serialize_struct("Difference", 4)?;
        fields.serialize_field("path", &self.path.escape_ascii().to_string())?;
        fields.serialize_field("what", &self.what)?;
        fields.serialize_field("expected", &self.expected)?;
        fields.serialize_field("found", &self.found)?;
        fields.end()
    }
}

impl Serialize for What {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
