//! A manifest or an index in, the converted one out.

use bytes::Bytes;

use super::super::image::{self as documents, Document, IndexEntry, LayerBlob, Subject};
use super::super::memory::Share;
use super::super::plan::{SourceLayer, Step, steps};
use super::super::push::push;
use super::admission::{BIG, Slot};
use super::catalogue::{Base, Layer};
use super::deadline::Deadline;
use super::pins::Pins;
use super::types::{
    ConvertedImage, ConvertedManifest, Event, Observer, PlannedLayer, Platforms, Source,
    StoredManifest,
};
use super::{ConvertError, Converter, Home, blocking, variant};
use crate::oci::{
    Descriptor, Digest, ImageConfig, ImageManifest, Index, Manifest, Platform, Selector,
};
use crate::registry::RawManifest;
use crate::store::{ManifestKey, Origin};

/// The longest image config taken, in bytes.
const MAX_CONFIG: u64 = 16 << 20;
/// Up to here a document is kept in memory while its image is converted.
const SMALL_DOCUMENT: u64 = 256 << 10;
/// Most entries of an index.
const MAX_ENTRIES: usize = 256;
/// Most bytes of an index's converted manifests together.
const MAX_INDEX_BYTES: usize = 32 << 20;

pub(super) fn broken(
    what: &'static str,
    digest: &Digest,
    cause: impl std::fmt::Display,
) -> ConvertError {
    ConvertError::Document {
        what,
        digest: digest.clone(),
        cause: cause.to_string(),
    }
}

fn parse(raw: &RawManifest) -> Result<Manifest, ConvertError> {
    Manifest::parse(&raw.media_type, &raw.bytes)
        .map_err(|error| broken("manifest", &raw.digest, error))
}

/// One image being converted: from where, to where, and what is pinned for it.
pub(super) struct Work<'a> {
    pub(super) source: &'a Source,
    pub(super) home: Home,
    pub(super) observer: Option<&'a Observer>,
    pub(super) pins: Pins,
    /// When it is given up.
    pub(super) deadline: Deadline,
    /// What it was admitted with.
    pub(super) slot: Slot<'a>,
}

/// Why the work on an image ends early.
pub(super) enum Halt {
    /// It turned out to be big: it has to be admitted again, as that.
    Big,
    /// It cannot be converted.
    Failed(ConvertError),
}

impl<E: Into<ConvertError>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Whether the image's layers are overlaybd's already.
fn is_overlaybd(image: &ImageManifest) -> bool {
    let marked = |layer: &Descriptor| layer.annotations.contains_key(documents::BLOB_DIGEST);
    !image.layers.is_empty() && image.layers.iter().all(marked)
}

impl Converter {
    /// Converts what is not there yet of an image.
    pub(super) async fn image(
        &self,
        work: &Work<'_>,
        manifest: &Digest,
    ) -> Result<ConvertedImage, Halt> {
        if let Some(image) = self.recall(work.source, manifest).await?
            && self.is_complete(work, &image).await?
        {
            return Ok(image);
        }
        let raw = self.source_manifest(work.source, manifest).await?;
        let style = &self.inner.config.style;
        let image = match parse(&raw)? {
            Manifest::Image(parsed) if is_overlaybd(&parsed) => {
                let root = self
                    .keep(work, &raw.bytes, &raw.media_type, &raw.digest)
                    .await?;
                ConvertedImage {
                    source: manifest.clone(),
                    root,
                    manifests: Vec::new(),
                    kept: Vec::new(),
                }
            }
            Manifest::Image(parsed) => {
                let one = self.manifest(work, &raw, &parsed, None).await?;
                ConvertedImage {
                    source: manifest.clone(),
                    root: one.manifest.clone(),
                    manifests: vec![one],
                    kept: Vec::new(),
                }
            }
            Manifest::Index(parsed) => {
                let (entries, manifests, kept) = self.entries(work, &raw, &parsed).await?;
                let subject = subject_of(&raw);
                let made =
                    documents::index(&raw.bytes, &raw.media_type, &entries, style, Some(&subject))
                        .map_err(|error| broken("index", &raw.digest, error))?;
                let root = self
                    .keep(work, &made.bytes, &made.media_type, &made.digest)
                    .await?;
                ConvertedImage {
                    source: manifest.clone(),
                    root,
                    manifests,
                    kept,
                }
            }
        };
        self.publish(work.source, &work.home, &image).await?;
        Ok(image)
    }

    async fn source_manifest(
        &self,
        source: &Source,
        digest: &Digest,
    ) -> Result<RawManifest, ConvertError> {
        let selector = Selector::Digest(digest.clone());
        Ok(source
            .upstream
            .manifest(&source.repo, &selector, &source.authorization)
            .await?)
    }

    /// Converts the entries of an index that are wanted.
    async fn entries(
        &self,
        work: &Work<'_>,
        raw: &RawManifest,
        index: &Index,
    ) -> Result<(Vec<IndexEntry>, Vec<ConvertedManifest>, Vec<Descriptor>), Halt> {
        let (mut entries, mut manifests, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        let mut available = Vec::new();
        let mut is_any_wanted = false;
        if index.manifests.len() > MAX_ENTRIES {
            let cause = format!(
                "has {} entries, more than the {MAX_ENTRIES} that are taken",
                index.manifests.len()
            );
            return Err(broken("index", &raw.digest, cause).into());
        }
        let mut bytes = 0_usize;
        for entry in &index.manifests {
            if entry.is_attestation() {
                tracing::info!(index = %raw.digest, attestation = %entry.digest,
                    "dropped an attestation: it is of the source's layers");
                entries.push(IndexEntry::Drop);
                continue;
            }
            available.push(name_of(entry));
            let is_wanted = entry
                .platform
                .as_ref()
                .is_none_or(|platform| self.wants(platform));
            let converted = if is_wanted {
                self.entry(work, entry).await?
            } else {
                None
            };
            match converted {
                Some(Entry::Converted(document, one)) => {
                    is_any_wanted = true;
                    bytes = bytes.saturating_add(document.bytes.len());
                    if bytes > MAX_INDEX_BYTES {
                        let cause = format!("has manifests of over {MAX_INDEX_BYTES} bytes");
                        return Err(broken("index", &raw.digest, cause).into());
                    }
                    entries.push(IndexEntry::Replace(document));
                    manifests.push(*one);
                }
                Some(Entry::Already) => {
                    is_any_wanted = true;
                    entries.push(IndexEntry::Keep);
                    kept.push(entry.clone());
                }
                None => {
                    entries.push(IndexEntry::Keep);
                    kept.push(entry.clone());
                }
            }
        }
        if is_any_wanted {
            return Ok((entries, manifests, kept));
        }
        Err(Halt::Failed(ConvertError::NoPlatform {
            index: raw.digest.clone(),
            wanted: match &self.inner.config.platforms {
                Platforms::All => "any platform that can be converted".to_owned(),
                Platforms::Some(wanted) => joined(wanted.iter().map(ToString::to_string)),
            },
            available: joined(available.into_iter()),
        }))
    }

    /// Converts one entry of an index; `None` if it is to stay as it is.
    async fn entry(&self, work: &Work<'_>, entry: &Descriptor) -> Result<Option<Entry>, Halt> {
        let raw = self.source_manifest(work.source, &entry.digest).await?;
        let Ok(Manifest::Image(parsed)) = parse(&raw) else {
            // An index in an index, or an artifact of some kind.
            return Ok(None);
        };
        if is_overlaybd(&parsed) {
            return Ok(Some(Entry::Already));
        }
        if entry.platform.is_none() {
            let config = self.config(work.source, &parsed.config).await?;
            let platform = ImageConfig::parse(&config).ok().and_then(|c| c.platform);
            if !platform.is_some_and(|platform| self.wants(&platform)) {
                return Ok(None);
            }
        }
        let platform = entry.platform.clone();
        let one = self.manifest(work, &raw, &parsed, platform).await?;
        let document = Document {
            bytes: one.manifest.bytes.to_vec(),
            media_type: one.manifest.media_type.clone(),
            digest: one.manifest.digest.clone(),
        };
        Ok(Some(Entry::Converted(document, Box::new(one))))
    }

    /// Whether images of this platform are converted. Windows layers are no Linux rootfs.
    pub(super) fn wants(&self, platform: &Platform) -> bool {
        match &self.inner.config.platforms {
            Platforms::All => platform.os != "windows" && platform.os != "unknown",
            Platforms::Some(wanted) => wanted.iter().any(|one| platform.satisfies(one)),
        }
    }

    /// Converts one image manifest.
    async fn manifest(
        &self,
        work: &Work<'_>,
        raw: &RawManifest,
        parsed: &ImageManifest,
        platform: Option<Platform>,
    ) -> Result<ConvertedManifest, Halt> {
        let bytes = parsed.layers.iter().map(|layer| layer.size);
        if bytes.fold(0, u64::saturating_add) >= BIG && !work.slot.admits_big() {
            return Err(Halt::Big);
        }
        let config = self.config(work.source, &parsed.config).await?;
        let known = {
            let _memory = self.document_memory(parsed.config.size).await;
            ImageConfig::parse(&config)
                .map_err(|error| broken("image config", &parsed.config.digest, error))?
        };
        // What waits for layers holds no large documents.
        let config = (parsed.config.size <= SMALL_DOCUMENT).then_some(config);
        let layers = parsed.layers.iter().map(|layer| SourceLayer {
            media_type: layer.media_type.clone(),
            digest: layer.digest.clone(),
            size: layer.size,
        });
        let steps: Vec<Step> =
            steps(layers.collect(), &known.diff_ids).map_err(|cause| ConvertError::Plan {
                manifest: raw.digest.clone(),
                cause,
            })?;
        if let Some(observer) = work.observer {
            observer(Event::Planned {
                platform: platform.clone().or(known.platform),
                layers: steps.iter().map(planned).collect(),
            });
        }
        let chain = self
            .chain(
                work.source,
                &work.home,
                &steps,
                (work.observer, work.deadline),
            )
            .await?;
        if work.home.is_pushed {
            self.share(&work.home, &steps, &chain).await?;
        }
        let is_foreign = chain.iter().any(|layer| layer.base != Base::Own);
        let mut blobs = Vec::with_capacity(chain.len());
        for layer in chain {
            let Layer {
                digest, size, pin, ..
            } = layer;
            blobs.push(LayerBlob { digest, size });
            work.pins.extend(pin);
        }
        let style = &self.inner.config.style;
        let config = match config {
            Some(config) => config,
            None => self.config(work.source, &parsed.config).await?,
        };
        let memory = self.document_memory(parsed.config.size).await;
        let config = documents::config(&config, &parsed.config.media_type, &blobs, style)
            .map_err(|error| broken("image config", &parsed.config.digest, error))?;
        let subject = subject_of(raw);
        let made = documents::manifest(
            &raw.bytes,
            parsed.kind.media_type(),
            &config,
            &blobs,
            style,
            Some(&subject),
        )
        .map_err(|error| broken("manifest", &raw.digest, error))?;
        drop(memory);
        self.keep(work, &config.bytes, &config.media_type, &config.digest)
            .await?;
        let stored = self
            .keep(work, &made.bytes, &made.media_type, &made.digest)
            .await?;
        let parsed = match Manifest::parse(&stored.media_type, &stored.bytes) {
            Ok(Manifest::Image(parsed)) => parsed,
            Ok(Manifest::Index(_)) => {
                return Err(broken("manifest", &raw.digest, "is an index").into());
            }
            Err(error) => return Err(broken("manifest", &raw.digest, error).into()),
        };
        let mut one = converted(&raw.digest, platform, stored, parsed);
        one.has_foreign_layers = is_foreign;
        Ok(one)
    }

    /// The memory for parsing a document of so many bytes: as values, JSON takes many times what
    /// it takes as text.
    async fn document_memory(&self, size: u64) -> Option<Share> {
        match size {
            0..=SMALL_DOCUMENT => None,
            _ => Some(self.inner.memory.take(size.saturating_mul(20)).await),
        }
    }

    /// The bytes of a source config, verified.
    async fn config(&self, source: &Source, config: &Descriptor) -> Result<Bytes, ConvertError> {
        use futures_util::TryStreamExt as _;
        if config.size > MAX_CONFIG {
            let cause = format!("has {} bytes, more than {MAX_CONFIG}", config.size);
            return Err(broken("image config", &config.digest, cause));
        }
        let stream = source
            .upstream
            .blob(
                &source.repo,
                &config.digest,
                config.size,
                &source.authorization,
            )
            .await?;
        let bytes = stream
            .try_fold(bytes::BytesMut::new(), |mut whole, chunk| async move {
                whole.extend_from_slice(&chunk);
                Ok(whole)
            })
            .await?
            .freeze();
        let found = config.digest.of_same_kind(&bytes);
        if found == config.digest {
            return Ok(bytes);
        }
        let cause = format!("the upstream sends other bytes: {found}");
        Err(broken("image config", &config.digest, cause))
    }

    /// Puts a document into the store.
    async fn keep(
        &self,
        work: &Work<'_>,
        bytes: &[u8],
        media_type: &str,
        digest: &Digest,
    ) -> Result<StoredManifest, ConvertError> {
        let stored = StoredManifest {
            digest: digest.clone(),
            media_type: media_type.to_owned(),
            bytes: Bytes::copy_from_slice(bytes),
        };
        let (blobs, copy) = (self.inner.store.blobs().clone(), stored.clone());
        let pinned = move || Ok(blobs.put_bytes(&copy.digest, &copy.bytes)?.pin()?);
        work.pins.extend([blocking(pinned).await?]);
        Ok(stored)
    }

    /// Pushes an image's documents where that is asked for, then records all of it.
    async fn publish(
        &self,
        source: &Source,
        home: &Home,
        image: &ConvertedImage,
    ) -> Result<(), ConvertError> {
        if home.is_pushed {
            let selector = Selector::Digest(image.root.digest.clone());
            let (to, repo) = (&home.upstream, &home.repo);
            push(&self.inner.store, image, source, to, repo, &selector).await?;
        }
        let mut parts = vec![image.root.digest.clone()];
        for one in &image.manifests {
            parts.push(one.manifest.digest.clone());
            parts.push(one.config.digest.clone());
            parts.extend(one.layers.iter().map(|layer| layer.digest.clone()));
        }
        let index = self.inner.store.index();
        let host = source.upstream.host();
        index
            .link(host, &source.repo, &image.source, &parts)
            .await?;
        let (root, size) = (&image.root, image.root.bytes.len() as u64);
        let is_foreign = image.manifests.iter().any(|one| one.has_foreign_layers);
        let variant = if is_foreign {
            variant::with_foreign_layers(&self.inner.image_variant)
        } else {
            self.inner.image_variant.clone()
        };
        index
            .put_built_manifest(
                &image.source,
                &variant,
                &root.media_type,
                &root.digest,
                size,
            )
            .await?;
        if home.is_pushed {
            index
                .put_pushed(&home.host, &home.repo, &root.digest)
                .await?;
            self.share_manifest(home, image).await?;
        }
        Ok(())
    }

    /// Adds the manifest, which the registry has by now, to the table that is shared with the
    /// reference converter. A row that another tool wrote stays.
    async fn share_manifest(
        &self,
        home: &Home,
        image: &ConvertedImage,
    ) -> Result<(), ConvertError> {
        let index = self.inner.store.index();
        let (root, size) = (&image.root, image.root.bytes.len() as u64);
        let key = ManifestKey {
            host: home.host.clone(),
            repo: home.repo.clone(),
            source: image.source.clone(),
            media_type: root.media_type.clone(),
        };
        match index.find_manifest(&key).await? {
            Some(row) if row.digest != root.digest && row.origin != Origin::Foreign => {
                index
                    .replace_shared_manifest(&key, &root.digest, size, &row.digest)
                    .await?;
            }
            Some(_) => {}
            None => index.share_manifest(&key, &root.digest, size).await?,
        }
        Ok(())
    }
}

enum Entry {
    Converted(Document, Box<ConvertedManifest>),
    /// It is an overlaybd image as it is.
    Already,
}

pub(super) fn converted(
    source: &Digest,
    platform: Option<Platform>,
    manifest: StoredManifest,
    parsed: ImageManifest,
) -> ConvertedManifest {
    ConvertedManifest {
        source: source.clone(),
        platform,
        manifest,
        config: parsed.config,
        layers: parsed.layers,
        has_foreign_layers: false,
    }
}

fn subject_of(raw: &RawManifest) -> Subject {
    Subject {
        media_type: raw.media_type.clone(),
        digest: raw.digest.clone(),
        size: raw.bytes.len() as u64,
    }
}

fn planned(step: &Step) -> PlannedLayer {
    PlannedLayer {
        chain: step.chain_id.clone(),
        digest: step.layer.digest.clone(),
        size: step.layer.size,
    }
}

fn name_of(entry: &Descriptor) -> String {
    let platform = entry.platform.as_ref();
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
