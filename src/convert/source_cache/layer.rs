//! A layer for a conversion: from the store, from a download that is under way, or from the
//! upstream, in which case it comes into the store by the way.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::try_unfold;

use super::incoming::{Reader, read};
use super::{CacheOutcome, Joined, SourceCache};
use crate::convert::types::Source;
use crate::oci::Digest;
use crate::registry::{BlobStream, Error};
use crate::store::BlobFile;

/// Bytes that are read from a file at once.
const READ_BYTES: u64 = 256 << 10;

impl SourceCache {
    /// The bytes of a layer of `size` bytes, whose digest the caller verifies. What is there or
    /// comes already is read only after the upstream said that this source may read it.
    ///
    /// # Errors
    /// As [`Upstream::blob`](crate::registry::Upstream::blob).
    pub(in crate::convert) async fn layer(
        &self,
        source: &Source,
        digest: &Digest,
        size: u64,
    ) -> Result<BlobStream, Error> {
        if !self.is_for(&source.upstream) || !self.has_room_for(size) {
            return direct(source, digest, size).await;
        }
        let joined = match self.join(source, digest).await {
            Ok(joined) => joined,
            Err(error) => {
                tracing::warn!(%error, "the cache of source blobs cannot be read");
                Joined::Busy
            }
        };
        match joined {
            Joined::There => {
                if let Some(stream) = self.stored(source, digest, size).await {
                    self.count(CacheOutcome::Hit, size);
                    return Ok(stream);
                }
            }
            Joined::Coming(incoming) => {
                if may_read(source, digest, size).await
                    && let Ok(reader) = incoming.opened().await
                    && reader.size() == size
                {
                    self.count(CacheOutcome::Joined, size);
                    return Ok(following(reader, source, digest));
                }
            }
            Joined::Begun(incoming) => match incoming.opened().await {
                Ok(reader) if reader.size() == size => {
                    self.count(CacheOutcome::Filled, size);
                    return Ok(stream_of(reader.verifying()));
                }
                // Without the cache it may be had.
                Ok(_) | Err(Error::Io { .. }) => {}
                Err(error) => return Err(error),
            },
            Joined::Busy => {}
        }
        self.count(CacheOutcome::Passed, size);
        direct(source, digest, size).await
    }

    async fn stored(&self, source: &Source, digest: &Digest, size: u64) -> Option<BlobStream> {
        let file = match self.0.blobs.open_async(digest).await {
            Ok(file) => file.filter(|file| file.size() == size)?,
            Err(error) => {
                tracing::warn!(%error, "the cache of source blobs cannot be read");
                return None;
            }
        };
        if !may_read(source, digest, size).await {
            return None;
        }
        let handle = Arc::new(file.file().try_clone().ok()?);
        let reading = (file, handle, 0_u64);
        let stream = try_unfold(reading, |(file, handle, offset)| async move {
            let left = file.size().saturating_sub(offset).min(READ_BYTES);
            if left == 0 {
                return Ok(None);
            }
            let length = usize::try_from(left).unwrap_or_default();
            let bytes = read(&handle, offset, length).await;
            let bytes = bytes.map_err(|cause| unreadable(&file, &cause))?;
            let offset = offset.saturating_add(bytes.len() as u64);
            Ok(Some((bytes, (file, handle, offset))))
        });
        Some(BlobStream {
            inner: Box::pin(stream),
        })
    }
}

async fn may_read(source: &Source, digest: &Digest, size: u64) -> bool {
    let Source {
        upstream,
        repo,
        authorization,
    } = source;
    let asked = upstream.can_read_blob(repo, digest, authorization).await;
    // Where the size is another, it is not this blob that may be read.
    asked.is_ok_and(|stated| stated.is_none_or(|stated| stated == size))
}

fn unreadable(file: &BlobFile, cause: &std::io::Error) -> Error {
    file.suspect();
    Error::io(&file.path(), cause)
}

async fn direct(source: &Source, digest: &Digest, size: u64) -> Result<BlobStream, Error> {
    let Source {
        upstream,
        repo,
        authorization,
    } = source;
    upstream.blob(repo, digest, size, authorization).await
}

fn stream_of(reader: Reader) -> BlobStream {
    BlobStream {
        inner: Box::pin(reader.into_stream()),
    }
}

/// Reads another's download; where that breaks off, the rest comes from the upstream.
fn following(reader: Reader, source: &Source, digest: &Digest) -> BlobStream {
    let following = Following {
        size: reader.size(),
        reader: reader.verifying(),
        source: source.clone(),
        digest: digest.clone(),
        own: None,
        skip: 0,
    };
    let stream = try_unfold(following, |mut following| async move {
        let bytes = following.next().await?;
        Ok(bytes.map(|bytes| (bytes, following)))
    });
    BlobStream {
        inner: Box::pin(stream),
    }
}

struct Following {
    reader: Reader,
    size: u64,
    source: Source,
    digest: Digest,
    own: Option<BlobStream>,
    /// Bytes of it that were read from the other's.
    skip: u64,
}

impl Following {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.own.is_none() {
            match self.reader.next().await {
                Err(error) => {
                    tracing::debug!(%error, "another's download broke off");
                    self.skip = self.reader.offset();
                    self.own = Some(direct(&self.source, &self.digest, self.size).await?);
                }
                bytes => return bytes,
            }
        }
        let Some(own) = &mut self.own else {
            return Ok(None);
        };
        while let Some(bytes) = own.next().await {
            let mut bytes = bytes?;
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX);
            let skipped = skipped.min(bytes.len());
            self.skip = self.skip.saturating_sub(skipped as u64);
            let rest = bytes.split_off(skipped);
            if !rest.is_empty() {
                return Ok(Some(rest));
            }
        }
        Ok(None)
    }
}
