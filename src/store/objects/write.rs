//! Writes one object.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use object_store::{
    MultipartUpload, ObjectStore as _, PutMode, PutMultipartOptions, PutPayload, PutResult,
    UpdateVersion,
};

use super::Inner;
use super::error::ObjectError;
use super::known::ObjectVersion;
use super::upload::on_disk;
use crate::oci::Hasher;
use crate::store::blobs::BlobFile;
use crate::store::error::BlobError;

/// Bytes of a part: a smaller blob is one request. S3 takes 10,000 parts of at least 5 MiB.
const PART_BYTES: u64 = 8 << 20;
const MAX_PARTS: u64 = 10_000;
/// Parts that one upload holds in memory.
const PARTS_AT_A_TIME: usize = 3;
/// Bytes that are handed to the connection at one time: what it holds and has not sent counts as
/// sent, so that the time limit of the answer runs already.
const SLICE_BYTES: usize = 256 << 10;

impl Inner {
    /// Writes a blob's object; over `damaged` only where that is given.
    pub(super) async fn write(
        &self,
        file: Arc<BlobFile>,
        damaged: Option<ObjectVersion>,
    ) -> Result<(), ObjectError> {
        let (digest, size) = (file.digest().clone(), file.size());
        let begun = std::time::Instant::now();
        let written = if size <= PART_BYTES {
            // There is all of it, or nothing: to give it up leaves no parts behind.
            tokio::select! {
                biased;
                () = self.stopping.begun() => return Err(ObjectError::Stopped { digest }),
                written = self.write_at_once(file, damaged) => written?,
            }
        } else {
            Some(self.write_in_parts(file).await?)
        };
        let Some(written) = written else {
            // Another replica was faster.
            self.known.present(&digest);
            return Ok(());
        };
        let e_tag = written.e_tag;
        self.known.is_sound(&digest, ObjectVersion { size, e_tag });
        self.counters.uploaded(size);
        tracing::info!(%digest, bytes = size, bucket = self.bucket.place(),
            seconds = begun.elapsed().as_secs_f64(), "a blob was uploaded");
        Ok(())
    }

    /// One request. `None`: there is an object by now.
    async fn write_at_once(
        &self,
        file: Arc<BlobFile>,
        damaged: Option<ObjectVersion>,
    ) -> Result<Option<PutResult>, ObjectError> {
        let (digest, size) = (file.digest().clone(), file.size());
        let bytes = read(file, 0, size).await?;
        if digest.of_same_kind(&bytes) != digest {
            return Err(ObjectError::Changed { digest });
        }
        let mode = match damaged {
            None => PutMode::Create,
            // Without a tag, another's object could be written over.
            Some(ObjectVersion { e_tag: None, .. }) => {
                return Err(ObjectError::Changing { digest });
            }
            Some(ObjectVersion { e_tag, .. }) => PutMode::Update(UpdateVersion {
                e_tag,
                version: None,
            }),
        };
        let key = self.bucket.key(&digest);
        match self
            .bucket
            .s3()
            .put_opts(&key, payload(&bytes), mode.into())
            .await
        {
            Ok(written) => Ok(Some(written)),
            Err(object_store::Error::AlreadyExists { .. }) => {
                match self.bucket.head(&digest).await? {
                    Some(found) if found.size == size => Ok(None),
                    _ => Err(ObjectError::Changing { digest }),
                }
            }
            // Another replica replaced it.
            Err(object_store::Error::Precondition { .. }) => Err(ObjectError::Changing { digest }),
            Err(error) => Err(self.bucket.error("uploading a blob to", &error)),
        }
    }

    /// Several requests, of which the last makes the object visible. Where two replicas do so at one
    /// time, the second replaces the object of the first with the same bytes.
    async fn write_in_parts(&self, file: Arc<BlobFile>) -> Result<PutResult, ObjectError> {
        let key = self.bucket.key(file.digest());
        let stopped = || ObjectError::Stopped {
            digest: file.digest().clone(),
        };
        if self.stopping.is_begun() {
            return Err(stopped());
        }
        let begun = self
            .bucket
            .s3()
            .put_multipart_opts(&key, PutMultipartOptions::default())
            .await;
        let mut upload = begun.map_err(|error| self.bucket.error("uploading a blob to", &error))?;
        let written = tokio::select! {
            biased;
            () = self.stopping.begun() => Err(stopped()),
            written = self.write_parts(&mut upload, &file) => written,
        };
        let written = match written {
            Ok(()) => {
                let completed = upload.complete().await;
                completed.map_err(|error| self.bucket.error("uploading a blob to", &error))
            }
            Err(error) => Err(error),
        };
        if written.is_err()
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(digest = %file.digest(), bucket = self.bucket.place(), %error,
                "an upload cannot be aborted: its parts stay in the bucket until a lifecycle rule \
                 removes them");
        }
        written
    }

    async fn write_parts(
        &self,
        upload: &mut Box<dyn MultipartUpload>,
        file: &Arc<BlobFile>,
    ) -> Result<(), ObjectError> {
        let (digest, size) = (file.digest(), file.size());
        let part = PART_BYTES.max(size.div_ceil(MAX_PARTS));
        let mut hasher = Hasher::like(digest);
        let mut parts = FuturesUnordered::new();
        let sent = |sent: object_store::Result<()>| {
            sent.map_err(|error| self.bucket.error("uploading a part of a blob to", &error))
        };
        let mut offset = 0;
        while offset < size {
            if parts.len() >= PARTS_AT_A_TIME
                && let Some(done) = parts.next().await
            {
                sent(done)?;
            }
            let length = part.min(size - offset);
            let bytes = read(Arc::clone(file), offset, length).await?;
            hasher.update(&bytes);
            parts.push(upload.put_part(payload(&bytes)));
            offset += length;
        }
        while let Some(done) = parts.next().await {
            sent(done)?;
        }
        // The storage has compared each part with its checksum; this compares the file.
        if hasher.finish() == *digest {
            Ok(())
        } else {
            Err(ObjectError::Changed {
                digest: digest.clone(),
            })
        }
    }
}

/// Bytes of a file.
async fn read(file: Arc<BlobFile>, offset: u64, length: u64) -> Result<Bytes, ObjectError> {
    let read = on_disk(move || {
        let failed = |source| BlobError::Io {
            what: "reading",
            path: file.path(),
            source,
        };
        let length = usize::try_from(length);
        let mut bytes = vec![0; length.map_err(|error| failed(std::io::Error::other(error)))?];
        file.read_exact_at(&mut bytes, offset).map_err(failed)?;
        Ok(bytes.into())
    });
    Ok(read.await?)
}

/// The body of a request.
fn payload(bytes: &Bytes) -> PutPayload {
    let starts = (0..bytes.len()).step_by(SLICE_BYTES);
    starts
        .map(|start| bytes.slice(start..bytes.len().min(start + SLICE_BYTES)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_handed_over_in_slices() {
        for length in [0, 1, SLICE_BYTES, 3 * SLICE_BYTES + 1] {
            let bytes = Bytes::from(vec![7; length]);
            let payload = payload(&bytes);
            assert!(payload.iter().all(|slice| slice.len() <= SLICE_BYTES));
            assert_eq!(payload.content_length(), length);
            assert_eq!(Bytes::from(payload), bytes);
        }
    }
}
