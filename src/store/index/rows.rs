//! The rows of the index.

use crate::oci::{Digest, RepoName};

/// Which tool wrote a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// This program wrote it, with these settings and format version.
    Ours {
        /// The text given to [`Index::put_built`] or [`Index::put_built_manifest`].
        variant: String,
    },
    /// Another tool wrote it.
    Foreign,
}

/// The converted blob of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRow {
    /// The converted blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Which tool wrote the row.
    pub origin: Origin,
}

/// The key of a row of `overlaybd_manifests`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestKey {
    /// The registry's host name, as in the image's name.
    pub host: String,
    /// The repository.
    pub repo: RepoName,
    /// The source manifest.
    pub source: Digest,
    /// The converted manifest's media type.
    pub media_type: String,
}

/// A converted manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestRow {
    /// The converted manifest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Which tool wrote the row.
    pub origin: Origin,
}

impl LayerRow {
    /// Whether this program made it with these settings.
    pub fn is_variant(&self, variant: &str) -> bool {
        matches!(&self.origin, Origin::Ours { variant: made_with } if made_with == variant)
    }
}

impl ManifestRow {
    /// Whether this program made it with these settings.
    pub fn is_variant(&self, variant: &str) -> bool {
        matches!(&self.origin, Origin::Ours { variant: made_with } if made_with == variant)
    }
}

/// Most rows of other repositories that one lookup returns.
pub const MAX_ELSEWHERE: usize = 64;

/// The digest and the size of a row, if they are valid; another tool may have written it.
pub(super) fn parse_target(
    table: &str,
    digest: Option<&str>,
    size: Option<i64>,
) -> Option<(Digest, u64)> {
    let parsed = digest.and_then(|text| text.parse::<Digest>().ok());
    let bytes = size.and_then(|size| u64::try_from(size).ok());
    if let (Some(digest), Some(bytes)) = (parsed, bytes) {
        return Some((digest, bytes));
    }
    let digest: String = digest.unwrap_or("NULL").chars().take(80).collect();
    tracing::warn!(
        table,
        digest,
        ?size,
        "a row is unusable: no digest or no size; passed over"
    );
    None
}
