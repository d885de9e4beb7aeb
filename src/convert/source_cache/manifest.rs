//! Manifests: small, so they are fetched whole, once for all that ask at the same time.

use std::sync::Arc;

use bytes::Bytes;

use super::{CacheOutcome, SourceCache};
use crate::convert::types::Source;
use crate::oci::{Digest, Selector};
use crate::registry::Error;
use crate::registry::config::MAX_MANIFEST;

impl SourceCache {
    /// The bytes of a manifest that this source may read, and where they came from.
    ///
    /// # Errors
    /// Those of fetching it.
    pub async fn manifest(
        &self,
        source: &Source,
        digest: &Digest,
    ) -> Result<(Bytes, CacheOutcome), Error> {
        // For who waits for another's fetch.
        let mut outcome = CacheOutcome::Joined;
        if let Some(bytes) = self.0.manifests.get(digest).await {
            return Ok((bytes, CacheOutcome::Hit));
        }
        let fetched = self.0.manifests.try_get_with(digest.clone(), async {
            if let Some(bytes) = self.stored_manifest(digest).await {
                outcome = CacheOutcome::Hit;
                return Ok(bytes);
            }
            outcome = CacheOutcome::Filled;
            self.fetch_manifest(source, digest).await
        });
        let fetched = fetched.await.map_err(|error: Arc<Error>| (*error).clone());
        Ok((fetched?, outcome))
    }

    async fn stored_manifest(&self, digest: &Digest) -> Option<Bytes> {
        let opened = self.0.blobs.open_async(digest).await;
        let file = opened
            .inspect_err(|error| tracing::warn!(%error, "a manifest cannot be read"))
            .ok()??;
        usize::try_from(file.size())
            .ok()
            .filter(|size| *size <= MAX_MANIFEST)?;
        let read = tokio::task::spawn_blocking(move || file.read_all()).await;
        read.ok()?.ok()?.map(Bytes::from)
    }

    async fn fetch_manifest(&self, source: &Source, digest: &Digest) -> Result<Bytes, Error> {
        let Source {
            upstream,
            repo,
            authorization,
        } = source;
        let selector = Selector::Digest(digest.clone());
        let fetched = upstream.manifest(repo, &selector, authorization).await?;
        let (blobs, digest) = (self.0.blobs.clone(), digest.clone());
        let bytes = fetched.bytes.clone();
        let kept = tokio::task::spawn_blocking(move || blobs.put_copy(&digest, &bytes).map(drop));
        // It is in memory at least.
        if let Ok(Err(error)) = kept.await {
            tracing::warn!(%error, "a source manifest cannot be kept");
        }
        Ok(fetched.bytes)
    }
}
