//! What was converted before, put together from the index and the store.

use bytes::Bytes;

use super::image::{Work, broken, converted};
use super::types::{ConvertedImage, Source, StoredManifest};
use super::{ConvertError, Converter, blocking, variant};
use crate::oci::{Digest, Manifest};

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
        self.understand(source, manifest, root).await
    }

    /// A converted root with its parts; `None` if a part of an index is not in the store.
    async fn understand(
        &self,
        at: &Source,
        source: &Digest,
        root: StoredManifest,
    ) -> Result<Option<ConvertedImage>, ConvertError> {
        let mut image = ConvertedImage::unchanged(source, root);
        let mut open = vec![(image.root.clone(), None)];
        while let Some((stored, platform)) = open.pop() {
            let parsed = Manifest::parse(&stored.media_type, &stored.bytes)
                .map_err(|error| broken("converted manifest", &stored.digest, error))?;
            let index = match parsed {
                Manifest::Image(parsed) => {
                    let one = converted(source, platform, stored, parsed);
                    image.manifests.push(one);
                    continue;
                }
                Manifest::Index(index) => index,
            };
            if stored.digest != image.root.digest {
                image.indexes.push(stored);
            }
            // Taken from the end: the images keep the index's order.
            for entry in index.manifests.into_iter().rev() {
                if !self.is_ours(at, source, &entry.digest).await? {
                    image.kept.push(entry);
                    continue;
                }
                let Some(stored) = self.stored(&entry.digest, &entry.media_type).await? else {
                    return Ok(None);
                };
                open.push((stored, entry.platform));
            }
        }
        image.kept.reverse();
        // Those within others first.
        image.indexes.reverse();
        Ok(Some(image))
    }

    /// Whether an entry of a converted index is what a conversion of `source` made.
    async fn is_ours(
        &self,
        at: &Source,
        source: &Digest,
        entry: &Digest,
    ) -> Result<bool, ConvertError> {
        let (host, index) = (at.upstream.host(), self.inner.store.index());
        Ok(index.is_linked(host, &at.repo, entry, source).await?)
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
        wanted.extend(image.indexes.iter().map(|index| index.digest.clone()));
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
