//! Converted manifests by their digests.

use std::sync::Arc;

use super::finding::Found;
use crate::convert::StoredManifest;
use crate::oci::{Digest, ManifestKind, RepoName, Selector};
use crate::registry::Authorization;
use crate::server::cache::open_files::off_thread;
use crate::server::context::RequestContext;
use crate::server::document::Document;
use crate::server::error::ApiError;

/// The longest converted manifest, in bytes: as long as a source may be, and then some.
const MAX_MANIFEST: u64 = 32 << 20;

impl RequestContext<'_> {
    /// A converted manifest by its digest.
    ///
    /// # Errors
    /// When it cannot be had, or is none.
    pub async fn document(
        &self,
        repo: &RepoName,
        digest: &Digest,
        source: &Digest,
    ) -> Result<Arc<Document>, ApiError> {
        let documents = &self.state.converted.documents;
        if let Some(document) = documents.get(digest).await {
            return Ok(document);
        }
        let found = match self.find(repo, digest, source).await? {
            Found::File(blob) => Ok(blob),
            Found::Pushed(upstream, repo) => Err((upstream, repo, Authorization::Own)),
            Found::Upstream => Err((
                self.chosen.upstream.clone(),
                repo.clone(),
                self.authorization.clone(),
            )),
        };
        let blob = match found {
            Ok(blob) => blob,
            Err((upstream, repo, authorization)) => {
                let selector = Selector::Digest(digest.clone());
                let is_own = matches!(authorization, Authorization::Own);
                let fetched = upstream.manifest(&repo, &selector, &authorization);
                let raw = self
                    .upstream(&repo, Box::pin(fetched))
                    .await
                    .map_err(|e| ApiError::upstream(&e, is_own))?;
                return Ok(Arc::new(Document::new(&StoredManifest {
                    digest: raw.digest,
                    media_type: raw.media_type,
                    bytes: raw.bytes,
                })));
            }
        };
        if blob.file.size() > MAX_MANIFEST {
            return Err(ApiError::unknown_manifest(digest));
        }
        let read = off_thread(move || blob.file.read_all()).await;
        let Some(bytes) = read.map_err(|error| ApiError::from(&error))? else {
            // It was damaged, and is made again when the client asks again.
            return Err(self.later().await);
        };
        // Configs and layers are linked to repositories too, and are no manifests.
        let media_type = media_type(&bytes).ok_or_else(|| ApiError::unknown_manifest(digest))?;
        let document = Arc::new(Document::new(&StoredManifest {
            digest: digest.clone(),
            media_type,
            bytes: bytes.into(),
        }));
        documents
            .insert(digest.clone(), Arc::clone(&document))
            .await;
        Ok(document)
    }
}

/// What a document calls itself, if it is a manifest.
fn media_type(bytes: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Document {
        #[serde(rename = "mediaType")]
        media_type: String,
    }
    let document: Document = serde_json::from_slice(bytes).ok()?;
    ManifestKind::from_media_type(&document.media_type)?;
    Some(document.media_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_manifests_have_a_manifests_media_type() {
        let manifest = br#"{"mediaType":"application/vnd.oci.image.index.v1+json"}"#;
        assert_eq!(
            media_type(manifest).as_deref(),
            Some("application/vnd.oci.image.index.v1+json")
        );
        for other in [
            &br#"{"mediaType":"text/html"}"#[..],
            b"{}",
            b"\x1f\x8b",
            b"[]",
        ] {
            assert_eq!(media_type(other), None);
        }
    }
}
