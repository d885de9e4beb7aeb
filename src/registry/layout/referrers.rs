//! Which manifests of a layout are attached to another. Everything here blocks.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;

use super::Content;
use super::hash::Hash;
use crate::oci::media_type::OCI_MANIFEST;
use crate::oci::{Descriptor, Digest};
use crate::registry::Error;
use crate::registry::config::MAX_MANIFEST;

/// Most manifests that are looked at.
const MAX_MANIFESTS: usize = 100_000;

/// The entry for a manifest in a list of referrers (OCI distribution-spec § Listing Referrers).
#[derive(Deserialize)]
struct Document {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    #[serde(rename = "artifactType")]
    artifact_type: Option<String>,
    config: Option<Part>,
    subject: Option<Part>,
    manifests: Option<Vec<Part>>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: Digest,
}

/// As what a manifest is attached to another.
pub(super) struct Attachment {
    /// What kind of artifact it is.
    pub(super) artifact_type: Option<String>,
}

impl Document {
    fn artifact_type(&self) -> Option<String> {
        let config = || self.config.as_ref().map(|config| config.media_type.clone());
        let stated = self.artifact_type.clone().filter(|kind| !kind.is_empty());
        stated.or_else(config).filter(|kind| !kind.is_empty())
    }
}

/// What these bytes of a manifest say of its being attached to another, if it is.
pub(super) fn attachment(bytes: &[u8]) -> Option<Attachment> {
    let document: Document = serde_json::from_slice(bytes).ok()?;
    document.subject.as_ref()?;
    Some(Attachment {
        artifact_type: document.artifact_type(),
    })
}

/// The manifests, among those that the layout leads to, whose subject is this.
pub(super) fn find(
    content: &Content,
    subject: &Digest,
    wanted: Option<&str>,
) -> Result<Vec<Descriptor>, Error> {
    let mut found = Vec::new();
    let mut seen: HashSet<Digest> = HashSet::new();
    let index = content.index()?;
    let mut ahead: Vec<(Digest, String)> = index
        .entries
        .iter()
        .rev()
        .map(|entry| (entry.digest.clone(), entry.media_type.clone()))
        .collect();
    while let Some((digest, listed_as)) = ahead.pop() {
        if seen.len() >= MAX_MANIFESTS || !seen.insert(digest.clone()) {
            continue;
        }
        // Layouts may hold a part of an index only, and list what is no manifest.
        let Some(section) = content.blob(&digest)? else {
            continue;
        };
        if section.len() > MAX_MANIFEST as u64 {
            continue;
        }
        let bytes = section.read_whole(MAX_MANIFEST as u64)?;
        let Ok(document) = serde_json::from_slice::<Document>(&bytes) else {
            continue;
        };
        let actual = Hash::of(&digest, &bytes);
        if actual != digest.as_str() {
            return Err(Error::Mismatch {
                place: section.path().display().to_string(),
                what: "digest",
                expected: digest.to_string(),
                found: actual,
            });
        }
        let children = document.manifests.iter().flatten();
        ahead.extend(children.map(|child| (child.digest.clone(), child.media_type.clone())));
        let is_attached = document
            .subject
            .as_ref()
            .is_some_and(|part| part.digest == *subject);
        let artifact_type = document.artifact_type();
        if is_attached && wanted.is_none_or(|wanted| artifact_type.as_deref() == Some(wanted)) {
            let stated = document.media_type.filter(|kind| !kind.is_empty());
            let listed = Some(listed_as).filter(|kind| !kind.is_empty());
            found.push(Descriptor {
                media_type: stated.or(listed).unwrap_or_else(|| OCI_MANIFEST.to_owned()),
                digest,
                size: Some(bytes.len() as u64),
                data: None,
                platform: None,
                artifact_type,
                annotations: document.annotations.unwrap_or_default(),
            });
        }
    }
    Ok(found)
}
