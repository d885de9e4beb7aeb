//! Pushes a converted image to a registry or a layout: blobs first, then the manifests.

use bytes::Bytes;

use super::download::download;
use super::error::ConvertError;
use super::image::is_turbo_layer;
use super::types::{ConvertedImage, Source};
use crate::oci::{Descriptor, Digest, Manifest, RepoName, Selector};
use crate::registry::{Authorization, BlobSource, Pushed, Sharing, Upstream};
use crate::store::Store;

/// Nested indexes are followed to this depth.
const MAX_INDEX_DEPTH: usize = 4;

/// What was pushed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PushSummary {
    /// Blobs that were uploaded.
    pub uploaded: u64,
    /// Their bytes.
    pub uploaded_bytes: u64,
    /// Blobs that the destination had.
    pub present: u64,
}

impl PushSummary {
    fn count(&mut self, pushed: Pushed, size: u64) {
        match pushed {
            Pushed::Present => self.present += 1,
            Pushed::Uploaded => {
                self.uploaded += 1;
                self.uploaded_bytes = self.uploaded_bytes.saturating_add(size);
            }
        }
    }
}

/// Where the parts of a converted image are.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The store that has them.
    pub store: &'a Store,
    /// How a layout may share the store's files: their inodes only if the store goes away soon,
    /// because what others do to a layout's file would be done to the store's.
    pub sharing: Sharing,
}

/// Pushes an image with these `parts` to `repo` of `to`, with the proxy's own credentials, as
/// `selector`. Entries that a converted index keeps of its `source` are copied, unless `repo`
/// has them; so are the images that TurboOCI images were made of, in whose layers their data is.
///
/// # Errors
/// When the destination refuses a part, or a part cannot be read.
pub async fn push(
    parts: Parts<'_>,
    image: &ConvertedImage,
    source: &Source,
    to: &Upstream,
    repo: &RepoName,
    selector: &Selector,
) -> Result<PushSummary, ConvertError> {
    let mut push = Push {
        parts,
        source,
        to,
        repo,
        summary: PushSummary::default(),
    };
    let is_elsewhere = source.upstream.host() != to.host() || source.repo != *repo;
    for one in &image.manifests {
        if is_elsewhere && one.layers.iter().any(is_turbo_layer) {
            push.copy(one.source.clone()).await?;
        }
        for blob in one.layers.iter().chain([&one.config]) {
            push.blob(blob).await?;
        }
        if one.manifest.digest != image.root.digest {
            let selector = Selector::Digest(one.manifest.digest.clone());
            let (media_type, bytes) = (&one.manifest.media_type, one.manifest.bytes.clone());
            push.manifest(&selector, media_type, bytes).await?;
        }
    }
    for kept in &image.kept {
        push.copy(kept.digest.clone()).await?;
    }
    for index in &image.indexes {
        let selector = Selector::Digest(index.digest.clone());
        push.manifest(&selector, &index.media_type, index.bytes.clone())
            .await?;
    }
    if image.manifests.is_empty() && image.kept.is_empty() {
        // The source is an overlaybd image: all of its blobs are copied.
        push.copy(image.root.digest.clone()).await?;
    }
    let (media_type, bytes) = (&image.root.media_type, image.root.bytes.clone());
    push.manifest(selector, media_type, bytes).await?;
    Ok(push.summary)
}

struct Push<'a> {
    parts: Parts<'a>,
    source: &'a Source,
    to: &'a Upstream,
    repo: &'a RepoName,
    summary: PushSummary,
}

impl Push<'_> {
    async fn manifest(
        &self,
        selector: &Selector,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<(), ConvertError> {
        let own = &Authorization::Own;
        self.to
            .push_manifest(self.repo, selector, media_type, bytes, own)
            .await?;
        Ok(())
    }

    /// Pushes a blob of the store. One that the store does not have must be at the destination.
    async fn blob(&mut self, blob: &Descriptor) -> Result<(), ConvertError> {
        let (blobs, digest) = (self.parts.store.blobs().clone(), blob.digest.clone());
        let opened = tokio::task::spawn_blocking(move || blobs.open(&digest)).await;
        let opened = opened.map_err(|_| ConvertError::Interrupted)??;
        let Some(file) = opened else {
            self.to
                .blob_size(self.repo, &blob.digest, &Authorization::Own)
                .await?;
            self.summary.count(Pushed::Present, 0);
            return Ok(());
        };
        let bytes = BlobSource::Verified {
            path: file.path(),
            sharing: self.parts.sharing,
        };
        self.upload(&blob.digest, file.size(), &bytes).await
    }

    async fn upload(
        &mut self,
        digest: &Digest,
        size: u64,
        bytes: &BlobSource,
    ) -> Result<(), ConvertError> {
        let own = &Authorization::Own;
        let pushed = self
            .to
            .push_blob(self.repo, digest, size, bytes, own)
            .await?;
        self.summary.count(pushed, size);
        Ok(())
    }

    /// Copies a manifest of the source with all manifests and blobs that it refers to.
    async fn copy(&mut self, root: Digest) -> Result<(), ConvertError> {
        // Depth first: pushed in reverse, children before their parents.
        let mut open = vec![(root, 0)];
        let mut named: Vec<(Digest, String, Bytes)> = Vec::new();
        while let Some((digest, depth)) = open.pop() {
            let selector = Selector::Digest(digest.clone());
            let found = self
                .to
                .head_manifest(self.repo, &selector, &Authorization::Own)
                .await;
            match found {
                Ok(_) => continue,
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
            let Source {
                upstream,
                repo,
                authorization,
            } = self.source;
            let raw = upstream.manifest(repo, &selector, authorization).await?;
            match Manifest::parse(&raw.media_type, &raw.bytes) {
                Ok(Manifest::Image(image)) => {
                    for blob in image.layers.iter().chain([&image.config]) {
                        self.copy_blob(blob).await?;
                    }
                }
                Ok(Manifest::Index(index)) if depth < MAX_INDEX_DEPTH => {
                    let children = index.manifests.into_iter();
                    open.extend(children.map(|child| (child.digest, depth + 1)));
                }
                Ok(Manifest::Index(_)) => {
                    return Err(ConvertError::Document {
                        what: "index",
                        digest: raw.digest,
                        cause: format!("is nested more than {MAX_INDEX_DEPTH} deep"),
                    });
                }
                // Its blobs are not known.
                Err(error) => {
                    return Err(ConvertError::Document {
                        what: "manifest",
                        digest: raw.digest,
                        cause: error.to_string(),
                    });
                }
            }
            named.push((digest, raw.media_type, raw.bytes));
        }
        for (digest, media_type, bytes) in named.into_iter().rev() {
            let selector = Selector::Digest(digest);
            self.manifest(&selector, &media_type, bytes).await?;
        }
        Ok(())
    }

    /// Copies a blob of the source: mounted where that is possible, else through a temporary file.
    async fn copy_blob(&mut self, blob: &Descriptor) -> Result<(), ConvertError> {
        let own = &Authorization::Own;
        match self.to.blob_size(self.repo, &blob.digest, own).await {
            Ok(_) => {
                self.summary.count(Pushed::Present, 0);
                return Ok(());
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        let from = self.source;
        if from.upstream.host() == self.to.host()
            && self
                .to
                .mount_blob(self.repo, &blob.digest, &from.repo, own)
                .await?
        {
            self.summary.count(Pushed::Present, 0);
            return Ok(());
        }
        if let Some(data) = &blob.data {
            let (size, bytes) = (data.len() as u64, BlobSource::Bytes(data.clone()));
            return self.upload(&blob.digest, size, &bytes).await;
        }
        let size = from
            .upstream
            .size_of(&from.repo, blob, &from.authorization)
            .await?;
        let temp = download(self.parts.store, from, &blob.digest, size).await?;
        let bytes = BlobSource::Verified {
            path: temp.path().to_owned(),
            sharing: Sharing::Inode,
        };
        self.upload(&blob.digest, size, &bytes).await
    }
}
