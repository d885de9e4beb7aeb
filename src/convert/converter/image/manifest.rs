//! A manifest or an index in, the converted one out.

use bytes::Bytes;

use super::super::image::{self as documents, LayerBlob, Subject};
use super::super::memory::Share;
use super::super::plan::{SourceLayer, Step, steps};
use super::super::push::push;
use super::admission::{BIG, Slot};
use super::catalogue::{Base, Layer};
use super::deadline::Deadline;
use super::pins::Pins;
use super::types::{
    ConvertedImage, ConvertedManifest, Event, Observer, PlannedLayer, Source, StoredManifest,
};
use super::{ConvertError, Converter, Home, blocking, variant};
use crate::oci::{
    Descriptor, Digest, ImageConfig, ImageManifest, Manifest, ManifestError, Platform, Selector,
};
use crate::registry::RawManifest;
use crate::store::{ManifestKey, Origin};

/// The longest image config taken, in bytes.
const MAX_CONFIG: u64 = 16 << 20;
/// Up to here a document is kept in memory while its image is converted.
const SMALL_DOCUMENT: usize = 256 << 10;

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

pub(super) fn parse(raw: &RawManifest) -> Result<Manifest, ConvertError> {
    Manifest::parse(&raw.media_type, &raw.bytes).map_err(|error| match error {
        ManifestError::UnknownKind(kind) => not_image(raw, kind),
        error => broken("manifest", &raw.digest, error),
    })
}

pub(super) fn not_image(raw: &RawManifest, kind: String) -> ConvertError {
    ConvertError::NotImage {
        manifest: raw.digest.clone(),
        kind,
    }
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
pub(super) fn is_overlaybd(image: &ImageManifest) -> bool {
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
        let image = match parse(&raw)? {
            Manifest::Image(parsed) if is_overlaybd(&parsed) => {
                let root = self
                    .keep(work, &raw.bytes, &raw.media_type, &raw.digest)
                    .await?;
                ConvertedImage::unchanged(manifest, root)
            }
            Manifest::Image(parsed) => {
                let one = self.manifest(work, &raw, &parsed, None).await?;
                ConvertedImage {
                    manifests: vec![one.clone()],
                    ..ConvertedImage::unchanged(manifest, one.manifest)
                }
            }
            Manifest::Index(parsed) => {
                let (made, entries) = self.index(work, &raw, &parsed).await?;
                let root = self
                    .keep(work, &made.bytes, &made.media_type, &made.digest)
                    .await?;
                ConvertedImage {
                    manifests: entries.manifests,
                    kept: entries.kept,
                    indexes: entries.indexes,
                    is_partial: entries.is_partial,
                    ..ConvertedImage::unchanged(manifest, root)
                }
            }
        };
        self.publish(work.source, &work.home, &image).await?;
        Ok(image)
    }

    pub(super) async fn source_manifest(
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

    /// Converts one image manifest.
    pub(super) async fn manifest(
        &self,
        work: &Work<'_>,
        raw: &RawManifest,
        parsed: &ImageManifest,
        platform: Option<Platform>,
    ) -> Result<ConvertedManifest, Halt> {
        let layers = self.layers(work.source, parsed).await?;
        let bytes = layers.iter().map(|layer| layer.size);
        if bytes.fold(0, u64::saturating_add) >= BIG && !work.slot.admits_big() {
            return Err(Halt::Big);
        }
        if !parsed.is_image() {
            let kind = format!("an artifact of {}", parsed.config.media_type);
            return Err(not_image(raw, kind).into());
        }
        let config = self.config(work.source, &parsed.config).await?;
        let known = {
            let _memory = self.document_memory(config.len()).await;
            ImageConfig::parse(&config)
                .map_err(|error| broken("image config", &parsed.config.digest, error))?
        };
        // What an index says of its entry is no more true than what the image says.
        if let Some(platform) = known.platform.as_ref().filter(|known| known.os != "linux") {
            return Err(Halt::Failed(ConvertError::NotLinux {
                manifest: raw.digest.clone(),
                platform: platform.clone(),
            }));
        }
        // What waits for layers holds no large documents.
        let config = (config.len() <= SMALL_DOCUMENT).then_some(config);
        let steps: Vec<Step> =
            steps(layers, &known.diff_ids).map_err(|cause| ConvertError::Plan {
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
        let memory = self.document_memory(config.len()).await;
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
    async fn document_memory(&self, size: usize) -> Option<Share> {
        match size {
            0..=SMALL_DOCUMENT => None,
            _ => Some(
                self.inner
                    .memory
                    .take((size as u64).saturating_mul(20))
                    .await,
            ),
        }
    }

    /// The layers of a manifest, with the sizes that it may leave out.
    async fn layers(
        &self,
        source: &Source,
        parsed: &ImageManifest,
    ) -> Result<Vec<SourceLayer>, ConvertError> {
        let mut layers = Vec::with_capacity(parsed.layers.len());
        for layer in &parsed.layers {
            let size = source
                .upstream
                .size_of(&source.repo, layer, &source.authorization);
            layers.push(SourceLayer {
                media_type: layer.media_type.clone(),
                digest: layer.digest.clone(),
                size: size.await?,
            });
        }
        Ok(layers)
    }

    /// The bytes of a source config, verified.
    pub(super) async fn config(
        &self,
        source: &Source,
        config: &Descriptor,
    ) -> Result<Bytes, ConvertError> {
        use futures_util::TryStreamExt as _;
        if let Some(data) = &config.data {
            return Ok(data.clone());
        }
        let size = source
            .upstream
            .size_of(&source.repo, config, &source.authorization)
            .await?;
        if size > MAX_CONFIG {
            let cause = format!("has {size} bytes, more than {MAX_CONFIG}");
            return Err(broken("image config", &config.digest, cause));
        }
        let stream = source
            .upstream
            .blob(&source.repo, &config.digest, size, &source.authorization)
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
    pub(super) async fn keep(
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
        parts.extend(image.indexes.iter().map(|index| index.digest.clone()));
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
        // What was not there may be there the next time.
        if image.is_partial {
            return Ok(());
        }
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

pub(super) fn subject_of(raw: &RawManifest) -> Subject {
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
