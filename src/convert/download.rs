//! Fetches a whole blob into a temporary file of the store, and verifies it.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::error::ConvertError;
use super::types::Source;
use crate::oci::{Digest, Hasher};
use crate::registry::Error;
use crate::store::{Store, TempBlob};

/// Bytes that are buffered before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// Fetches the blob `digest` of `size` bytes from `source`.
///
/// # Errors
/// When it cannot be fetched or written, or is not what its digest says.
pub(super) async fn download(
    store: &Store,
    source: &Source,
    digest: &Digest,
    size: u64,
) -> Result<TempBlob, ConvertError> {
    let Source {
        upstream,
        repo,
        authorization,
    } = source;
    let mut stream = upstream.blob(repo, digest, size, authorization).await?;
    let blobs = store.blobs().clone();
    let begun = tokio::task::spawn_blocking(move || {
        let reservation = blobs.reserve(size)?;
        Ok::<_, crate::store::BlobError>((blobs.begin()?, reservation))
    });
    let (temp, _reservation) = begun.await.map_err(|_| ConvertError::Interrupted)??;
    let mut writer = Writer::new(&temp, digest)?;
    let mut buffered = Vec::new();
    let mut waiting = 0_usize;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        waiting = waiting.saturating_add(chunk.len());
        buffered.push(chunk);
        if waiting >= WRITE_BYTES {
            writer = writer.write(std::mem::take(&mut buffered)).await?;
            waiting = 0;
        }
    }
    let found = writer.write(buffered).await?.hasher.finish();
    if found != *digest {
        return Err(ConvertError::Document {
            what: "blob",
            digest: digest.clone(),
            cause: format!("the upstream sends other bytes: {found}"),
        });
    }
    Ok(temp)
}

/// Writes and hashes a blob on the blocking threads, many chunks at a time.
struct Writer {
    file: File,
    path: PathBuf,
    hasher: Hasher,
}

impl Writer {
    fn new(temp: &TempBlob, expected: &Digest) -> Result<Self, ConvertError> {
        let file = temp.file().try_clone();
        Ok(Self {
            file: file.map_err(|cause| Error::io(temp.path(), &cause))?,
            path: temp.path().to_owned(),
            hasher: Hasher::like(expected),
        })
    }

    async fn write(mut self, chunks: Vec<Bytes>) -> Result<Self, ConvertError> {
        let work = move || {
            for chunk in &chunks {
                self.hasher.update(chunk);
                let written = self.file.write_all(chunk);
                written.map_err(|cause| Error::io(&self.path, &cause))?;
            }
            Ok(self)
        };
        let written = tokio::task::spawn_blocking(work).await;
        written.map_err(|_| ConvertError::Interrupted)?
    }
}
