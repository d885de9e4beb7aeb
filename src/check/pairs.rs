//! Which image of a converted index was made of which of the source's.

use std::collections::BTreeMap;

use anyhow::Context as _;

use super::fetch::{self, Document, Repository};
use super::report::{Damaged, Report};
use crate::oci::{
    Descriptor, Digest, ImageConfig, ImageManifest, Manifest, ManifestKind, Platform, Selector,
};
use crate::registry;

/// How deep indexes may lie in indexes, and how many entries they may have together.
const MAX_DEPTH: usize = 8;
const MAX_ENTRIES: usize = 10_000;
/// How the artifact types of converted images begin, in an index that has the originals too.
const FORM: &str = "application/vnd.containerd.overlaybd.";

/// A converted image and what it was made of.
pub(super) struct Pair {
    pub(super) platform: Option<Platform>,
    pub(super) source: Side,
    pub(super) converted: Side,
}

/// An image of a pair.
pub(super) struct Side {
    pub(super) digest: Digest,
    pub(super) manifest: ImageManifest,
}

impl Side {
    fn of(document: &Document) -> anyhow::Result<Self> {
        match &document.manifest {
            Manifest::Image(manifest) => Ok(Self {
                digest: document.raw.digest.clone(),
                manifest: manifest.clone(),
            }),
            Manifest::Index(_) => {
                let digest = &document.raw.digest;
                Err(Damaged(format!("{digest} is an index where an image is said to be")).into())
            }
        }
    }

    async fn fetch(image: &Repository, entry: &Descriptor) -> anyhow::Result<Self> {
        Self::of(&document(image, entry).await?)
    }
}

/// Finds all pairs, of these platforms or of all; images without a partner go into the report.
pub(super) async fn pairs(
    (source, source_root): (&Repository, &Document),
    (converted, converted_root): (&Repository, &Document),
    platforms: &[Platform],
    report: &mut Report,
) -> anyhow::Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    match (&source_root.manifest, &converted_root.manifest) {
        (Manifest::Image(_), Manifest::Image(_)) => pairs.push(Pair {
            platform: None,
            source: Side::of(source_root)?,
            converted: Side::of(converted_root)?,
        }),
        (Manifest::Index(_), Manifest::Image(image)) => {
            let platform = platform_of(converted, &image.config).await?;
            let entry = find(&images(source, source_root).await?, &platform);
            let entry = entry.with_context(|| format!("the source has no image for {platform}"))?;
            pairs.push(Pair {
                source: Side::fetch(source, &entry).await?,
                converted: Side::of(converted_root)?,
                platform: Some(platform),
            });
        }
        (Manifest::Image(image), Manifest::Index(_)) => {
            let platform = platform_of(source, &image.config).await?;
            let mut made = images(converted, converted_root).await?;
            if made.iter().any(is_form) {
                let is_original = |entry: &Descriptor| entry.digest == source_root.raw.digest;
                report
                    .kept
                    .extend(made.iter().find(|entry| is_original(entry)).map(digest_of));
                made.retain(is_form);
            } else {
                made = find(&made, &platform).into_iter().collect();
            }
            made.retain(|entry| is_for(entry, &platform));
            if made.is_empty() {
                anyhow::bail!("no image for {platform} was converted");
            }
            for entry in made {
                pairs.push(Pair {
                    source: Side::of(source_root)?,
                    converted: Side::fetch(converted, &entry).await?,
                    platform: Some(platform.clone()),
                });
            }
        }
        (Manifest::Index(_), Manifest::Index(_)) => {
            let is_wanted = |entry: &Descriptor| {
                platforms.is_empty() || platforms.iter().any(|wanted| is_for(entry, wanted))
            };
            let mut left = images(source, source_root).await?;
            left.retain(is_wanted);
            let mut made = images(converted, converted_root).await?;
            made.retain(is_wanted);
            // Beside the originals there may be several forms, each with a counterpart of them all.
            let mut forms: BTreeMap<Option<String>, Vec<Descriptor>> = BTreeMap::new();
            if made.iter().any(is_form) {
                for entry in made {
                    if is_form(&entry) {
                        forms
                            .entry(entry.artifact_type.clone())
                            .or_default()
                            .push(entry);
                    } else if left.iter().any(|other| other.digest == entry.digest) {
                        report.kept.push(entry.digest);
                    } else {
                        let text = format!("the source has nothing like {}", entry.digest);
                        report.problems.push(text);
                    }
                }
            } else {
                forms.insert(None, made);
            }
            for made in forms.into_values() {
                let (sides, entries) = ((source, converted), (left.clone(), made));
                pairs.extend(matched(sides, entries, platforms.is_empty(), report).await?);
            }
        }
    }
    Ok(pairs)
}

/// The pairs of an index's images and those of the index that it became.
async fn matched(
    (source, converted): (&Repository, &Repository),
    (mut left, mut made): (Vec<Descriptor>, Vec<Descriptor>),
    may_be_fewer: bool,
    report: &mut Report,
) -> anyhow::Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    // An image that was left as it is has no counterpart.
    made.retain(|entry| {
        let is_same = |other: &Descriptor| other.digest == entry.digest;
        let place = left.iter().position(is_same);
        report
            .kept
            .extend(place.map(|place| left.remove(place).digest));
        place.is_none()
    });
    for entry in made {
        // Of those for one platform, each is made of the next.
        let is_for_it = |other: &Descriptor| other.platform == entry.platform;
        let Some(place) = left.iter().position(is_for_it) else {
            let digest = &entry.digest;
            let text = format!("the source has nothing like {digest}");
            report.problems.push(text);
            continue;
        };
        pairs.push(Pair {
            platform: entry.platform.clone(),
            source: Side::fetch(source, &left.remove(place)).await?,
            converted: Side::fetch(converted, &entry).await?,
        });
    }
    for missing in left.into_iter().map(|entry| entry.digest) {
        if may_be_fewer {
            report.left_out.push(missing);
        } else {
            let text = format!("{missing} of the source is missing");
            report.problems.push(text);
        }
    }
    Ok(pairs)
}

/// Whether an entry is a converted form in an index that has the originals too.
fn is_form(entry: &Descriptor) -> bool {
    let kind = entry.artifact_type.as_deref().unwrap_or_default();
    kind.starts_with(FORM)
}

fn is_for(entry: &Descriptor, wanted: &Platform) -> bool {
    let platform = entry.platform.as_ref();
    platform.is_some_and(|platform| platform.satisfies(wanted))
}

fn digest_of(entry: &Descriptor) -> Digest {
    entry.digest.clone()
}

async fn document(image: &Repository, entry: &Descriptor) -> anyhow::Result<Document> {
    let selector = Selector::Digest(entry.digest.clone());
    fetch::document(image, &selector)
        .await
        .with_context(|| format!("manifest {}", entry.digest))
}

/// The entries of an index that are images, those of indexes in it among them, in their
/// order. An entry that names no platform is for that of the index that it is in.
async fn images(image: &Repository, root: &Document) -> anyhow::Result<Vec<Descriptor>> {
    let mut images = Vec::new();
    let mut count = 0usize;
    let mut ahead: Vec<(Descriptor, usize)> = Vec::new();
    let mut enter = |index: &Document, platform: Option<&Platform>, depth| {
        let Manifest::Index(index) = &index.manifest else {
            return Ok(None);
        };
        count = count.saturating_add(index.manifests.len());
        if count > MAX_ENTRIES || depth > MAX_DEPTH {
            let text = "an index of more entries, or deeper indexes, than are looked at";
            return Err(Damaged(text.to_owned()));
        }
        let entries = index.manifests.iter().rev().cloned();
        Ok(Some(
            entries
                .map(move |mut entry| {
                    entry.platform = entry.platform.or_else(|| platform.cloned());
                    (entry, depth)
                })
                .collect::<Vec<_>>(),
        ))
    };
    ahead.extend(enter(root, None, 1)?.unwrap_or_default());
    while let Some((entry, depth)) = ahead.pop() {
        if entry.is_attestation() {
            continue;
        }
        if may_be_index(&entry) {
            match document(image, &entry).await {
                Ok(inner) => {
                    if let Some(below) = enter(&inner, entry.platform.as_ref(), depth + 1)? {
                        ahead.extend(below);
                        continue;
                    }
                }
                // It is left as it is, then, or its partner will be missed.
                Err(error) if is_not_there(&error) => {}
                Err(error) => return Err(error),
            }
        }
        images.push(entry);
    }
    Ok(images)
}

fn is_not_there(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<registry::Error>();
    matches!(error, Some(registry::Error::NotFound { .. }))
}

fn may_be_index(entry: &Descriptor) -> bool {
    let kind = ManifestKind::from_media_type(&entry.media_type);
    entry.media_type.is_empty() || kind.is_some_and(ManifestKind::is_index)
}

fn find(images: &[Descriptor], wanted: &Platform) -> Option<Descriptor> {
    let mut images = images.iter();
    images.find(|entry| is_for(entry, wanted)).cloned()
}

async fn platform_of(image: &Repository, config: &Descriptor) -> anyhow::Result<Platform> {
    let config = ImageConfig::parse(&fetch::config(image, config).await?)?;
    config
        .platform
        .context("the image's config names no platform")
}
