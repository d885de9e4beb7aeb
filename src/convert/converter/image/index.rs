//! Converts an index: decides for each entry what it is, and converts those that are wanted.

use std::collections::HashSet;

use super::super::errors::{document_error, not_image};
use super::document::subject_of;
use super::job::{Halt, ImageJob};
use super::source::{parse_manifest, source_config, source_manifest};
use crate::convert::error::ConvertError;
use crate::convert::image::{self as documents, Document, IndexEntry, is_overlaybd};
use crate::convert::plan::PlanError;
use crate::convert::types::{ConvertedManifest, Others, Platforms, StoredManifest};
use crate::oci::media_type::essence;
use crate::oci::{Descriptor, Digest, ImageConfig, Index, Manifest, ManifestKind, Platform};
use crate::registry::RawManifest;

/// Most entries of an index, those of the indexes in it included.
pub(super) const MAX_ENTRIES: usize = 256;
/// Most bytes of an index's converted manifests together.
const MAX_MANIFEST_BYTES: usize = 32 << 20;
/// Indexes in indexes are followed this far.
pub(super) const MAX_DEPTH: usize = 4;

/// The entries of an index, sorted by what was decided.
#[derive(Default)]
pub(super) struct Entries {
    /// The images that were converted.
    pub(super) manifests: Vec<ConvertedManifest>,
    /// Entries that stay as they were.
    pub(super) kept: Vec<Descriptor>,
    /// Converted indexes in the index, those within others first.
    pub(super) indexes: Vec<StoredManifest>,
    /// Whether the upstream did not have an image that is wanted.
    pub(super) is_partial: bool,
    /// The platforms that stay as they are, for the log.
    plain: Vec<String>,
    /// The platforms that the index has, for errors.
    available: Vec<String>,
    /// Whether anything in it is, or may be, for Linux.
    has_linux: bool,
    /// Number of entries, those of nested indexes included.
    count: usize,
    /// Bytes of the converted documents.
    bytes: usize,
}

/// What an entry is.
// There is one at a time.
#[allow(clippy::large_enum_variant)]
enum EntryKind {
    /// An image to convert.
    Image(Box<(RawManifest, crate::oci::ImageManifest)>),
    /// An overlaybd image.
    Already,
    /// An index.
    Index(RawManifest, Index),
    /// Nothing to convert, for this reason.
    Other(String),
    /// An image that is wanted and that the upstream does not have.
    Missing,
}

impl ImageJob<'_> {
    /// Converts the entries of an index that are wanted.
    pub(super) async fn convert_index(
        &self,
        raw: &RawManifest,
        index: &Index,
    ) -> Result<(Document, Entries), Halt> {
        let mut entries = Entries::default();
        let made = self
            .convert_entries(raw, index, None, 0, &mut entries)
            .await?;
        if let Some(made) = made {
            if !entries.plain.is_empty() {
                tracing::info!(index = %raw.digest, plain = joined(entries.plain.drain(..)),
                    "these platforms of an index are not converted and stay in it as they are \
                     (--platform)");
            }
            return Ok((made, entries));
        }
        if !entries.has_linux {
            let kind = format!(
                "an index without a Linux image ({})",
                joined(entries.available.into_iter())
            );
            return Err(Halt::Failed(not_image(raw, kind)));
        }
        Err(Halt::Failed(ConvertError::NoPlatform {
            index: raw.digest.clone(),
            wanted: match &self.context.config.platforms {
                Platforms::All => "any platform that can be converted".to_owned(),
                Platforms::Some(wanted) => joined(wanted.iter().map(ToString::to_string)),
            },
            available: joined(entries.available.into_iter()),
        }))
    }

    /// The converted index; `None` if no entry of it is wanted. `inherited` is the platform that
    /// the index itself is listed with.
    async fn convert_entries(
        &self,
        raw: &RawManifest,
        index: &Index,
        inherited: Option<&Platform>,
        depth: usize,
        entries: &mut Entries,
    ) -> Result<Option<Document>, Halt> {
        entries.count = entries.count.saturating_add(index.manifests.len());
        if entries.count > MAX_ENTRIES {
            let count = entries.count;
            let cause = format!("has {count} entries, more than the {MAX_ENTRIES} that are taken");
            return Err(document_error("index", &raw.digest, cause).into());
        }
        let mut decisions = Vec::with_capacity(index.manifests.len());
        let mut is_any_wanted = false;
        // Entries for the same image in different compressions become one.
        let mut made: HashSet<(Digest, Option<Platform>)> = HashSet::new();
        for entry in &index.manifests {
            if entry.is_attestation() {
                tracing::info!(index = %raw.digest, attestation = %entry.digest,
                    "dropped an attestation: it is of the source's layers");
                decisions.push(IndexEntry::Drop);
                continue;
            }
            let platform = entry.platform.as_ref().or(inherited);
            let nesting = (depth, platform);
            match self.convert_entry(entry, nesting, entries).await? {
                Decision::Replace(document) => {
                    is_any_wanted = true;
                    entries.bytes = entries.bytes.saturating_add(document.bytes.len());
                    if entries.bytes > MAX_MANIFEST_BYTES {
                        let cause = format!("has manifests of over {MAX_MANIFEST_BYTES} bytes");
                        return Err(document_error("index", &raw.digest, cause).into());
                    }
                    let key = (document.digest.clone(), entry.platform.clone());
                    decisions.push(if made.insert(key) {
                        IndexEntry::Replace(document)
                    } else {
                        IndexEntry::Drop
                    });
                }
                Decision::Already => {
                    is_any_wanted = true;
                    entries.kept.push(entry.clone());
                    decisions.push(IndexEntry::Keep);
                }
                Decision::Leave => match self.context.config.others {
                    Others::Stay | Others::Copy => {
                        entries.plain.push(platform_name(platform));
                        entries.kept.push(entry.clone());
                        decisions.push(IndexEntry::Keep);
                    }
                    Others::LeaveOut => decisions.push(IndexEntry::Drop),
                },
            }
        }
        if !is_any_wanted {
            return Ok(None);
        }
        let style = &self.context.config.style;
        // Only what is pulled by name has a subject.
        let subject = (depth == 0).then(|| subject_of(raw));
        let made = documents::index(
            &raw.bytes,
            &raw.media_type,
            &decisions,
            style,
            subject.as_ref(),
        )
        .map_err(|error| document_error("index", &raw.digest, error))?;
        Ok(Some(made))
    }

    /// Converts an entry of an index if it is wanted.
    async fn convert_entry(
        &self,
        entry: &Descriptor,
        (depth, platform): (usize, Option<&Platform>),
        entries: &mut Entries,
    ) -> Result<Decision, Halt> {
        entries.available.push(platform_name(platform));
        entries.has_linux |= platform.is_some_and(|platform| platform.os == "linux");
        if platform.is_some_and(|platform| !self.wants(platform)) {
            return Ok(Decision::Leave);
        }
        match self.entry_kind(entry, platform, entries).await? {
            EntryKind::Already => Ok(Decision::Already),
            EntryKind::Other(reason) => {
                tracing::warn!(entry = %entry.digest, reason, "an entry of an index is left as it is");
                Ok(Decision::Leave)
            }
            EntryKind::Missing => {
                tracing::warn!(entry = %entry.digest, platform = platform_name(platform),
                    "the upstream does not have this entry of an index: it is left as it is");
                entries.is_partial = true;
                Ok(Decision::Leave)
            }
            EntryKind::Index(raw, _) if depth + 1 >= MAX_DEPTH => {
                let cause = format!("is nested more than {MAX_DEPTH} deep");
                Err(document_error("index", &raw.digest, cause).into())
            }
            EntryKind::Index(raw, index) => {
                // As deep as `MAX_DEPTH`.
                let within = self.convert_entries(&raw, &index, platform, depth + 1, entries);
                let Some(document) = Box::pin(within).await? else {
                    return Ok(Decision::Leave);
                };
                let stored = self
                    .store_document(&document.bytes, &document.media_type, &document.digest)
                    .await?;
                entries.indexes.push(stored);
                Ok(Decision::Replace(document))
            }
            EntryKind::Image(image) => {
                let (raw, parsed) = *image;
                let platform = platform.cloned();
                let one = match self.convert_manifest(&raw, &parsed, platform).await {
                    Ok(one) => one,
                    Err(Halt::Failed(
                        ConvertError::NotLinux { .. }
                        | ConvertError::Plan {
                            cause: PlanError::MediaType { .. },
                            ..
                        },
                    )) => {
                        tracing::warn!(entry = %entry.digest,
                            "an entry of an index is no Linux root filesystem: it is left as it is");
                        return Ok(Decision::Leave);
                    }
                    Err(halt) => return Err(halt),
                };
                let document = Document {
                    bytes: one.manifest.bytes.to_vec(),
                    media_type: one.manifest.media_type.clone(),
                    digest: one.manifest.digest.clone(),
                };
                let is_same = |other: &ConvertedManifest| other.manifest.digest == document.digest;
                if !entries.manifests.iter().any(is_same) {
                    entries.manifests.push(one);
                }
                Ok(Decision::Replace(document))
            }
        }
    }

    /// Fetches an entry, and says what it is.
    async fn entry_kind(
        &self,
        entry: &Descriptor,
        platform: Option<&Platform>,
        entries: &mut Entries,
    ) -> Result<EntryKind, ConvertError> {
        let stated = essence(&entry.media_type);
        let is_vague = matches!(stated.as_str(), "" | "application/json");
        if !is_vague && ManifestKind::from_media_type(&stated).is_none() {
            return Ok(EntryKind::Other(format!(
                "it is {stated}, which is no image"
            )));
        }
        let raw = match source_manifest(self.source, &entry.digest).await {
            Ok(raw) => raw,
            Err(ConvertError::Upstream(error)) if error.is_not_found() => {
                return Ok(match platform {
                    Some(_) => EntryKind::Missing,
                    None => EntryKind::Other("the upstream does not have it".to_owned()),
                });
            }
            Err(error) => return Err(error),
        };
        let parsed = match parse_manifest(&raw) {
            Ok(Manifest::Index(index)) => return Ok(EntryKind::Index(raw, index)),
            Ok(Manifest::Image(parsed)) => parsed,
            Err(error) => return Ok(EntryKind::Other(error.to_string())),
        };
        if is_overlaybd(&parsed) {
            return Ok(EntryKind::Already);
        }
        if !parsed.is_image() {
            let kind = &parsed.config.media_type;
            return Ok(EntryKind::Other(format!("it is an artifact of {kind}")));
        }
        if platform.is_none() {
            let config = source_config(self.source, &parsed.config).await?;
            let platform = ImageConfig::parse(&config).ok().and_then(|c| c.platform);
            let platform = platform.as_ref();
            entries.has_linux |= platform.is_some_and(|platform| platform.os == "linux");
            if !platform.is_some_and(|platform| self.wants(platform)) {
                return Ok(EntryKind::Other(format!(
                    "it is for {}",
                    platform_name(platform)
                )));
            }
        }
        Ok(EntryKind::Image(Box::new((raw, parsed))))
    }

    /// Whether images of this platform are converted. Layers for other operating systems are no
    /// Linux root filesystems.
    fn wants(&self, platform: &Platform) -> bool {
        wants(&self.context.config.platforms, platform)
    }
}

/// Whether images of this platform are converted, where these are wanted.
pub(super) fn wants(platforms: &Platforms, platform: &Platform) -> bool {
    platform.os == "linux"
        && match platforms {
            Platforms::All => true,
            Platforms::Some(wanted) => wanted.iter().any(|one| platform.satisfies(one)),
        }
}

/// What is done with an entry.
enum Decision {
    Replace(Document),
    /// It is an overlaybd image already.
    Already,
    /// It is not converted.
    Leave,
}

fn platform_name(platform: Option<&Platform>) -> String {
    platform.map_or_else(
        || "an image of no named platform".into(),
        ToString::to_string,
    )
}

fn joined(texts: impl Iterator<Item = String>) -> String {
    let texts: Vec<String> = texts.collect();
    if texts.is_empty() {
        "none".to_owned()
    } else {
        texts.join(", ")
    }
}
