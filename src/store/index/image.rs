//! What the conversion of an image adds to the index, all at once.

use super::record_values::RecordValues;
use super::records::ImageRecord;
use super::values::{check, signed};
use crate::oci::{Digest, RepoName};
use crate::store::error::IndexError;

/// What became of an image: its parts, and which manifest each of its source manifests became.
/// All of it must be durable by now.
#[derive(Debug, Clone)]
pub struct ImageRows<'a> {
    /// The source's registry.
    pub host: &'a str,
    /// The source's repository.
    pub repo: &'a RepoName,
    /// The parts of each conversion.
    pub links: Vec<PartsOf<'a>>,
    /// The converted manifests.
    pub manifests: Vec<BuiltManifest<'a>>,
    /// The registry and the repository that the manifests were pushed to, if they were.
    pub pushed_to: Option<(&'a str, &'a RepoName)>,
    /// What operators are shown of it, if it is shown.
    pub record: Option<ImageRecord>,
}

/// The converted blobs, manifests and configs that belong to the conversion of a source manifest.
#[derive(Debug, Clone)]
pub struct PartsOf<'a> {
    /// The source manifest.
    pub source: &'a Digest,
    /// Their digests.
    pub parts: Vec<Digest>,
}

/// The manifest that a source manifest became.
#[derive(Debug, Clone)]
pub struct BuiltManifest<'a> {
    /// The source manifest.
    pub source: &'a Digest,
    /// The settings that it was made with.
    pub variant: String,
    /// Its media type.
    pub media_type: &'a str,
    /// Its digest.
    pub digest: &'a Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// The same as the databases take it.
#[derive(Debug, Clone)]
pub(super) struct ImageValues {
    pub(super) host: String,
    pub(super) repo: String,
    /// Source and parts.
    pub(super) links: Vec<(String, Vec<String>)>,
    pub(super) manifests: Vec<ManifestValues>,
    /// Host and repository.
    pub(super) pushed_to: Option<(String, String)>,
    pub(super) record: Option<RecordValues>,
}

/// A converted manifest as the databases take it.
#[derive(Debug, Clone)]
pub(super) struct ManifestValues {
    pub(super) source: String,
    pub(super) variant: String,
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: i64,
}

impl ImageValues {
    pub(super) fn new(rows: &ImageRows<'_>) -> Result<Self, IndexError> {
        check("host", rows.host)?;
        if let Some((host, _)) = rows.pushed_to {
            check("host", host)?;
        }
        let manifests = rows.manifests.iter().map(ManifestValues::new);
        Ok(Self {
            host: rows.host.to_owned(),
            repo: rows.repo.as_str().to_owned(),
            links: rows
                .links
                .iter()
                .map(|of| (of.source.as_str().to_owned(), in_order(&of.parts)))
                .collect(),
            manifests: manifests.collect::<Result<_, _>>()?,
            pushed_to: rows
                .pushed_to
                .map(|(host, repo)| (host.to_owned(), repo.as_str().to_owned())),
            record: rows.record.as_ref().and_then(record),
        })
    }
}

impl ManifestValues {
    pub(super) fn new(row: &BuiltManifest<'_>) -> Result<Self, IndexError> {
        check("variant", &row.variant)?;
        check("media type", row.media_type)?;
        Ok(Self {
            source: row.source.as_str().to_owned(),
            variant: row.variant.clone(),
            media_type: row.media_type.to_owned(),
            digest: row.digest.as_str().to_owned(),
            size: signed(row.size)?,
        })
    }
}

/// The row for operators, unless the table cannot hold it.
fn record(image: &ImageRecord) -> Option<RecordValues> {
    let values = RecordValues::new(image).inspect_err(not_shown);
    values.ok()
}

/// Tells that operators are not shown an image, which is recorded all the same.
pub(super) fn not_shown(error: &IndexError) {
    tracing::warn!(%error, "an image that was converted is not among those that are listed");
}

/// Each once, and in one order for everyone, so that two replicas' inserts do not deadlock.
pub(super) fn in_order(blobs: &[Digest]) -> Vec<String> {
    let mut blobs: Vec<String> = blobs.iter().map(|blob| blob.as_str().to_owned()).collect();
    blobs.sort_unstable();
    blobs.dedup();
    blobs
}
