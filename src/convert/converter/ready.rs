//! Converted images that can be served without a wait, and documents that are made of them.

use std::sync::Arc;

use super::super::error::ConvertError;
use super::super::types::{ConvertedImage, Source, StoredManifest};
use super::Converter;
use super::image::part_digests;
use super::threads::blocking;
use crate::oci::Digest;

impl Converter {
    /// The image that a source manifest was converted to, if all of it is there: in the store, in
    /// the object storage, or in the registry that it was pushed to. Converts nothing and asks no
    /// registry. `None` also for a source that is an overlaybd image itself.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn ready(
        &self,
        source: &Source,
        manifest: &Digest,
    ) -> Result<Option<Arc<ConvertedImage>>, ConvertError> {
        let Some(image) = self.lookup(source, manifest).await? else {
            return Ok(None);
        };
        if image.root.digest == *manifest {
            return Ok(None);
        }
        // Another tool's layers are in the source's registry.
        let is_elsewhere = image.manifests.iter().any(|one| one.has_foreign_layers)
            || self.pushed_to(source).is_some();
        if is_elsewhere {
            return Ok(Some(image));
        }
        let (blobs, parts) = (self.context.store.blobs().clone(), part_digests(&image));
        let missing = blocking(move || {
            let mut missing = Vec::new();
            for part in parts {
                if !blobs.contains(&part)? {
                    missing.push(part);
                }
            }
            Ok(missing)
        })
        .await?;
        let missing = Box::pin(self.context.store.missing_in_bucket(missing)).await;
        Ok(missing.is_empty().then_some(image))
    }

    /// Puts a document that was made of what `manifest` became into the store: whoever may have
    /// that source may have it. It can be made again, and is evicted before what is converted.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn keep_document(
        &self,
        source: &Source,
        manifest: &Digest,
        document: &StoredManifest,
    ) -> Result<(), ConvertError> {
        let (blobs, copy) = (self.context.store.blobs().clone(), document.clone());
        blocking(move || Ok(blobs.put_copy(&copy.digest, &copy.bytes)?)).await?;
        let index = self.context.store.index();
        let (host, digest) = (source.upstream.host(), &document.digest);
        let linked = index.link(host, &source.repo, manifest, std::slice::from_ref(digest));
        Ok(linked.await?)
    }
}
