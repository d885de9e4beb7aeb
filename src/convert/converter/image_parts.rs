//! The parts of an image that was converted, and which of them are kept.

use std::collections::HashSet;

use super::super::error::ConvertError;
use super::Converter;
use super::image::local_manifest;
use super::threads::blocking;
use crate::oci::{Descriptor, Digest, Manifest};
use crate::store::RecordedImage;

/// What a part of a converted image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartKind {
    /// An index.
    Index,
    /// The manifest of one image.
    Manifest,
    /// A config.
    Config,
    /// A layer.
    Layer,
    /// It is not known: the manifest is not in the blob directory.
    Unknown,
}

impl PartKind {
    /// Its name: one word in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Manifest => "manifest",
            Self::Config => "config",
            Self::Layer => "layer",
            Self::Unknown => "unknown",
        }
    }
}

/// A blob, manifest or config of a converted image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePart {
    /// Its digest.
    pub digest: Digest,
    /// What it is.
    pub kind: PartKind,
    /// Its size in bytes, if that is known.
    pub size: Option<u64>,
    /// Its media type, if that is known.
    pub media_type: Option<String>,
    /// The platform of the image that it is first named by, if an index says one.
    pub platform: Option<String>,
    /// Whether it is in the blob directory now.
    pub is_cached: bool,
}

/// Parts in the order in which documents name them, each once.
#[derive(Default)]
struct Parts {
    list: Vec<ImagePart>,
    known: HashSet<Digest>,
}

impl Parts {
    /// Adds a part, unless it is there.
    fn add(&mut self, digest: &Digest, kind: PartKind) -> Option<&mut ImagePart> {
        if !self.known.insert(digest.clone()) {
            return None;
        }
        self.list.push(ImagePart {
            digest: digest.clone(),
            kind,
            size: None,
            media_type: None,
            platform: None,
            is_cached: false,
        });
        self.list.last_mut()
    }

    fn describe(&mut self, kind: PartKind, by: &Descriptor, platform: Option<&str>) {
        if let Some(part) = self.add(&by.digest, kind) {
            part.size = by.size;
            part.media_type = Some(by.media_type.clone());
            part.platform = platform.map(ToOwned::to_owned);
        }
    }
}

impl Converter {
    /// The parts of an image, in the order of its manifests, and which of them are in the blob
    /// directory. Where its manifest is not there, these are all parts of what the source became, in
    /// whatever formats. No registry is asked, and nothing is fetched from the object storage.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn image_parts(
        &self,
        recorded: &RecordedImage,
    ) -> Result<Vec<ImagePart>, ConvertError> {
        let image = &recorded.image;
        let index = self.context.store.index();
        let linked = index.image_parts(&image.host, &image.repo, &image.source);
        let linked = linked.await?;
        let mut parts = self.named_parts(recorded, &linked).await;
        if parts.list.is_empty() {
            for digest in &linked {
                parts.add(digest, PartKind::Unknown);
            }
        }
        let (blobs, mut list) = (self.context.store.blobs().clone(), parts.list);
        blocking(move || {
            for part in &mut list {
                part.is_cached = blobs.contains(&part.digest)?;
            }
            Ok(list)
        })
        .await
    }

    /// The parts that the image's own documents name, as far as these are in the blob directory.
    async fn named_parts(&self, recorded: &RecordedImage, linked: &[Digest]) -> Parts {
        let mut parts = Parts::default();
        let image = &recorded.image;
        // What an index has besides belongs to its source. Each is read once at most.
        let is_ours = |digest: &Digest| linked.binary_search(digest).is_ok();
        let first = (image.digest.clone(), image.media_type.clone(), None);
        let mut open: Vec<(Digest, String, Option<String>)> = vec![first];
        while let Some((digest, media_type, platform)) = open.pop() {
            let found = local_manifest(&self.context, &digest, &media_type).await;
            // What is damaged is found by others.
            let stored = found.ok().flatten();
            let document = stored.and_then(|stored| {
                let size = u64::try_from(stored.bytes.len()).ok();
                Some((Manifest::parse(&media_type, &stored.bytes).ok()?, size))
            });
            let Some((document, size)) = document else {
                // Without the first of them, nothing is known.
                if !parts.list.is_empty()
                    && let Some(part) = parts.add(&digest, PartKind::Unknown)
                {
                    (part.media_type, part.platform) = (Some(media_type), platform);
                }
                continue;
            };
            let kind = match document {
                Manifest::Image(_) => PartKind::Manifest,
                Manifest::Index(_) => PartKind::Index,
            };
            let Some(part) = parts.add(&digest, kind) else {
                continue;
            };
            part.size = size;
            part.media_type = Some(media_type);
            part.platform.clone_from(&platform);
            match document {
                Manifest::Image(one) => {
                    parts.describe(PartKind::Config, &one.config, platform.as_deref());
                    for layer in &one.layers {
                        parts.describe(PartKind::Layer, layer, platform.as_deref());
                    }
                }
                Manifest::Index(index) => {
                    // In the index's order, from the end of the list that is worked off.
                    for entry in index.manifests.into_iter().rev() {
                        if is_ours(&entry.digest) {
                            let platform = entry.platform.as_ref().map(ToString::to_string);
                            open.push((entry.digest, entry.media_type, platform));
                        }
                    }
                }
            }
        }
        parts
    }
}
