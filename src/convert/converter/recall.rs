//! What was converted before, put together from the index and the store.

use bytes::Bytes;

use super::image::{Work, broken, converted};
use super::types::{ConvertedImage, Source, StoredManifest};
use super::{ConvertError, Converter, blocking, variant};
use crate::oci::{Descriptor, Digest, Manifest};

impl Converter {
    /// What the index and the store know of an image, put together again.
    pub(super) async fn recall(
        &self,
        source: &Source,
        manifest: &Digest,
    ) -> Result<Option<ConvertedImage>, ConvertError> {
        let own = &self.inner.image_variant;
        if let Some(image) = self.recall_as(source, manifest, own).await? {
            return Ok(Some(image));
        }
        if !self.inner.config.trust_foreign_layers {
            return Ok(None);
        }
        let foreign = variant::with_foreign_layers(own);
        let image = self.recall_as(source, manifest, &foreign).await?;
        Ok(image.map(|mut image| {
            for one in &mut image.manifests {
                one.has_foreign_layers = true;
            }
            image
        }))
    }

    async fn recall_as(
        &self,
        source: &Source,
        manifest: &Digest,
        variant: &str,
    ) -> Result<Option<ConvertedImage>, ConvertError> {
        let index = self.inner.store.index();
        let built = index.find_built_manifest(manifest, variant).await?;
        let Some((media_type, row)) = built else {
            return Ok(None);
        };
        // What is known elsewhere is not yet this repository's: its layers get linked, and
        // its source's layers proved, by a conversion that finds all of them.
        let (host, repo) = (source.upstream.host(), &source.repo);
        if !index.is_linked(host, repo, &row.digest, manifest).await? {
            return Ok(None);
        }
        // Converted before pushing was asked for, it is pushed by a conversion that finds it.
        let home = self.home(source);
        if home.is_pushed && !index.is_pushed(&home.host, &home.repo, &row.digest).await? {
            return Ok(None);
        }
        let Some(root) = self.stored(&row.digest, &media_type).await? else {
            return Ok(None);
        };
        self.understand(manifest, root).await
    }

    /// A converted root with its parts; `None` if a part of an index is not in the store.
    async fn understand(
        &self,
        source: &Digest,
        root: StoredManifest,
    ) -> Result<Option<ConvertedImage>, ConvertError> {
        let parsed = Manifest::parse(&root.media_type, &root.bytes)
            .map_err(|error| broken("converted manifest", &root.digest, error))?;
        let mut image = ConvertedImage {
            source: source.clone(),
            root,
            manifests: Vec::new(),
            kept: Vec::new(),
        };
        match parsed {
            Manifest::Image(parsed) => {
                let one = converted(source, None, image.root.clone(), parsed);
                image.manifests.push(one);
            }
            Manifest::Index(parsed) => {
                for entry in parsed.manifests {
                    let stored = match self.stored(&entry.digest, &entry.media_type).await? {
                        Some(stored) => stored,
                        None if self.is_ours(&entry) => return Ok(None),
                        None => {
                            image.kept.push(entry);
                            continue;
                        }
                    };
                    match Manifest::parse(&stored.media_type, &stored.bytes) {
                        Ok(Manifest::Image(parsed)) => {
                            let one = converted(source, entry.platform.clone(), stored, parsed);
                            image.manifests.push(one);
                        }
                        _ => image.kept.push(entry),
                    }
                }
            }
        }
        Ok(Some(image))
    }

    /// Whether an entry of a converted index is one that this converter replaces.
    fn is_ours(&self, entry: &Descriptor) -> bool {
        entry
            .platform
            .as_ref()
            .is_some_and(|platform| self.wants(platform))
    }

    async fn stored(
        &self,
        digest: &Digest,
        media_type: &str,
    ) -> Result<Option<StoredManifest>, ConvertError> {
        let (blobs, wanted) = (self.inner.store.blobs().clone(), digest.clone());
        let limit = crate::registry::config::MAX_MANIFEST;
        let bytes = blocking(move || {
            let Some(file) = blobs.open(&wanted)? else {
                return Ok(None);
            };
            let Some(size) = usize::try_from(file.size())
                .ok()
                .filter(|size| *size <= limit)
            else {
                return Ok(None);
            };
            let mut bytes = vec![0; size];
            match file.read_exact_at(&mut bytes, 0) {
                Ok(()) => Ok(Some(bytes)),
                Err(cause) => Err(broken("the stored manifest", &wanted, cause)),
            }
        })
        .await?;
        // Small, and what everything else hangs on: looked at each time.
        Ok(bytes
            .filter(|bytes| Digest::of(bytes) == *digest)
            .map(|bytes| StoredManifest {
                digest: digest.clone(),
                media_type: media_type.to_owned(),
                bytes: Bytes::from(bytes),
            }))
    }

    /// Whether every part of a known image is in the store, or in the registry that it is pushed
    /// to.
    pub(super) async fn is_complete(
        &self,
        work: &Work<'_>,
        image: &ConvertedImage,
    ) -> Result<bool, ConvertError> {
        let mut wanted: Vec<Digest> = vec![image.root.digest.clone()];
        for one in &image.manifests {
            wanted.push(one.manifest.digest.clone());
            wanted.push(one.config.digest.clone());
            wanted.extend(one.layers.iter().map(|layer| layer.digest.clone()));
        }
        let blobs = self.inner.store.blobs().clone();
        let (pins, missing) = blocking(move || {
            let (mut pins, mut missing) = (Vec::new(), Vec::new());
            for digest in wanted {
                match blobs.open(&digest)? {
                    Some(file) => pins.push(file.pin()?),
                    None => missing.push(digest),
                }
            }
            Ok((pins, missing))
        })
        .await?;
        work.pins.extend(pins);
        let is_foreign = image.manifests.iter().any(|one| one.has_foreign_layers);
        if !work.home.is_pushed && !is_foreign {
            return Ok(missing.is_empty());
        }
        // Another tool's layers are where the source is, unless all of it is pushed elsewhere.
        let place = work.home.place(work.source);
        for digest in missing {
            let size = place
                .upstream
                .blob_size(&place.repo, &digest, &place.authorization)
                .await;
            match size {
                Ok(_) => {}
                Err(error) if error.is_not_found() => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}
