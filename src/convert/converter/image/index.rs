//! The entries of an index: what each of them is, and what becomes of it.

use std::collections::HashSet;

use super::super::image::{self as documents, Document, IndexEntry};
use super::super::plan::PlanError;
use super::image::{Halt, Work, broken, is_overlaybd, not_image, parse, subject_of};
use super::types::{ConvertedManifest, Others, Platforms, StoredManifest};
use super::{ConvertError, Converter};
use crate::oci::media_type::essence;
use crate::oci::{Descriptor, Digest, ImageConfig, Index, Manifest, ManifestKind, Platform};
use crate::registry::RawManifest;

/// Most entries of an index, those of the indexes in it included.
const MAX_ENTRIES: usize = 256;
/// Most bytes of an index's converted manifests together.
const MAX_BYTES: usize = 32 << 20;
/// Indexes in indexes are followed this far.
const MAX_DEPTH: usize = 4;

/// What came of an index.
#[derive(Default)]
pub(super) struct Entries {
    /// The images that were converted.
    pub(super) manifests: Vec<ConvertedManifest>,
    /// Entries that stay as they were.
    pub(super) kept: Vec<Descriptor>,
    /// Converted indexes in the index, those within others first.
    pub(super) indexes: Vec<StoredManifest>,
    /// Whether an image that is wanted was not there: another time it may be.
    pub(super) is_partial: bool,
    /// What the index has, for errors.
    available: Vec<String>,
    /// Whether anything in it is, or may be, for Linux.
    has_linux: bool,
    /// Entries that were looked at.
    count: usize,
    /// Bytes of the converted documents.
    bytes: usize,
}

/// What an entry turns out to be.
// There is one at a time.
#[allow(clippy::large_enum_variant)]
enum Kind {
    /// An image to convert.
    Image(Box<(RawManifest, crate::oci::ImageManifest)>),
    /// An overlaybd image as it is.
    Already,
    /// An index.
    Index(RawManifest, Index),
    /// Nothing to convert, for this reason.
    Other(String),
    /// An image that is wanted and that the upstream does not have.
    Missing,
}

impl Converter {
    /// Converts the entries of an index that are wanted.
    pub(super) async fn index(
        &self,
        work: &Work<'_>,
        raw: &RawManifest,
        index: &Index,
    ) -> Result<(Document, Entries), Halt> {
        let mut entries = Entries::default();
        let made = self
            .index_within(work, raw, index, None, 0, &mut entries)
            .await?;
        if let Some(made) = made {
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
            wanted: match &self.inner.config.platforms {
                Platforms::All => "any platform that can be converted".to_owned(),
                Platforms::Some(wanted) => joined(wanted.iter().map(ToString::to_string)),
            },
            available: joined(entries.available.into_iter()),
        }))
    }

    /// The converted index; `None` if there is nothing in it that is wanted. `inherited` is the
    /// platform that the index itself is listed with.
    async fn index_within(
        &self,
        work: &Work<'_>,
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
            return Err(broken("index", &raw.digest, cause).into());
        }
        let mut fates = Vec::with_capacity(index.manifests.len());
        let mut is_any_wanted = false;
        // An image that is there once for each compression is one image here.
        let mut made: HashSet<(Digest, Option<Platform>)> = HashSet::new();
        for entry in &index.manifests {
            if entry.is_attestation() {
                tracing::info!(index = %raw.digest, attestation = %entry.digest,
                    "dropped an attestation: it is of the source's layers");
                fates.push(IndexEntry::Drop);
                continue;
            }
            let platform = entry.platform.as_ref().or(inherited);
            let place = (depth, platform);
            match self.entry(work, entry, place, entries).await? {
                Fate::Replace(document) => {
                    is_any_wanted = true;
                    entries.bytes = entries.bytes.saturating_add(document.bytes.len());
                    if entries.bytes > MAX_BYTES {
                        let cause = format!("has manifests of over {MAX_BYTES} bytes");
                        return Err(broken("index", &raw.digest, cause).into());
                    }
                    let key = (document.digest.clone(), entry.platform.clone());
                    fates.push(if made.insert(key) {
                        IndexEntry::Replace(document)
                    } else {
                        IndexEntry::Drop
                    });
                }
                Fate::Already => {
                    is_any_wanted = true;
                    entries.kept.push(entry.clone());
                    fates.push(IndexEntry::Keep);
                }
                Fate::Leave => match self.inner.config.others {
                    Others::Stay | Others::Copy => {
                        entries.kept.push(entry.clone());
                        fates.push(IndexEntry::Keep);
                    }
                    Others::LeaveOut => fates.push(IndexEntry::Drop),
                },
            }
        }
        if !is_any_wanted {
            return Ok(None);
        }
        let style = &self.inner.config.style;
        // Only what is pulled by name says what it was made of.
        let subject = (depth == 0).then(|| subject_of(raw));
        let made = documents::index(&raw.bytes, &raw.media_type, &fates, style, subject.as_ref())
            .map_err(|error| broken("index", &raw.digest, error))?;
        Ok(Some(made))
    }

    /// What becomes of an entry of an index.
    async fn entry(
        &self,
        work: &Work<'_>,
        entry: &Descriptor,
        (depth, platform): (usize, Option<&Platform>),
        entries: &mut Entries,
    ) -> Result<Fate, Halt> {
        entries.available.push(name_of(platform));
        entries.has_linux |= platform.is_some_and(|platform| platform.os == "linux");
        if platform.is_some_and(|platform| !self.wants(platform)) {
            return Ok(Fate::Leave);
        }
        match self.kind(work, entry, platform, entries).await? {
            Kind::Already => Ok(Fate::Already),
            Kind::Other(reason) => {
                tracing::warn!(entry = %entry.digest, reason, "an entry of an index is left as it is");
                Ok(Fate::Leave)
            }
            Kind::Missing => {
                tracing::warn!(entry = %entry.digest, platform = name_of(platform),
                    "the upstream does not have this entry of an index: it is left as it is");
                entries.is_partial = true;
                Ok(Fate::Leave)
            }
            Kind::Index(raw, _) if depth + 1 >= MAX_DEPTH => {
                let cause = format!("is nested more than {MAX_DEPTH} deep");
                Err(broken("index", &raw.digest, cause).into())
            }
            Kind::Index(raw, index) => {
                // As deep as `MAX_DEPTH`.
                let within = self.index_within(work, &raw, &index, platform, depth + 1, entries);
                let Some(document) = Box::pin(within).await? else {
                    return Ok(Fate::Leave);
                };
                let stored = self
                    .keep(
                        work,
                        &document.bytes,
                        &document.media_type,
                        &document.digest,
                    )
                    .await?;
                entries.indexes.push(stored);
                Ok(Fate::Replace(document))
            }
            Kind::Image(image) => {
                let (raw, parsed) = *image;
                let platform = platform.cloned();
                let one = match self.manifest(work, &raw, &parsed, platform).await {
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
                        return Ok(Fate::Leave);
                    }
                    Err(halt) => return Err(halt),
                };
                let document = Document {
                    bytes: one.manifest.bytes.to_vec(),
                    media_type: one.manifest.media_type.clone(),
                    digest: one.manifest.digest.clone(),
                };
                let known = |known: &ConvertedManifest| known.manifest.digest == document.digest;
                if !entries.manifests.iter().any(known) {
                    entries.manifests.push(one);
                }
                Ok(Fate::Replace(document))
            }
        }
    }

    /// Looks what an entry is.
    async fn kind(
        &self,
        work: &Work<'_>,
        entry: &Descriptor,
        platform: Option<&Platform>,
        entries: &mut Entries,
    ) -> Result<Kind, ConvertError> {
        let stated = essence(&entry.media_type);
        let is_vague = matches!(stated.as_str(), "" | "application/json");
        if !is_vague && ManifestKind::from_media_type(&stated).is_none() {
            return Ok(Kind::Other(format!("it is {stated}, which is no image")));
        }
        let raw = match self.source_manifest(work.source, &entry.digest).await {
            Ok(raw) => raw,
            Err(ConvertError::Upstream(error)) if error.is_not_found() => {
                return Ok(match platform {
                    Some(_) => Kind::Missing,
                    None => Kind::Other("the upstream does not have it".to_owned()),
                });
            }
            Err(error) => return Err(error),
        };
        let parsed = match parse(&raw) {
            Ok(Manifest::Index(index)) => return Ok(Kind::Index(raw, index)),
            Ok(Manifest::Image(parsed)) => parsed,
            Err(error) => return Ok(Kind::Other(error.to_string())),
        };
        if is_overlaybd(&parsed) {
            return Ok(Kind::Already);
        }
        if !parsed.is_image() {
            let kind = &parsed.config.media_type;
            return Ok(Kind::Other(format!("it is an artifact of {kind}")));
        }
        if platform.is_none() {
            let config = self.config(work.source, &parsed.config).await?;
            let platform = ImageConfig::parse(&config).ok().and_then(|c| c.platform);
            let platform = platform.as_ref();
            entries.has_linux |= platform.is_some_and(|platform| platform.os == "linux");
            if !platform.is_some_and(|platform| self.wants(platform)) {
                return Ok(Kind::Other(format!("it is for {}", name_of(platform))));
            }
        }
        Ok(Kind::Image(Box::new((raw, parsed))))
    }

    /// Whether images of this platform are converted. Other systems' layers are no Linux root
    /// filesystems.
    pub(super) fn wants(&self, platform: &Platform) -> bool {
        platform.os == "linux"
            && match &self.inner.config.platforms {
                Platforms::All => true,
                Platforms::Some(wanted) => wanted.iter().any(|one| platform.satisfies(one)),
            }
    }
}

/// What becomes of an entry.
enum Fate {
    Replace(Document),
    /// It is what it would become.
    Already,
    /// It is not for this converter.
    Leave,
}

fn name_of(platform: Option<&Platform>) -> String {
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
