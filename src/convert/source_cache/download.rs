//! One download: from an upstream into the store.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinHandle;

use super::Inner;
use super::incoming::{Coming, End, Incoming, State};
use crate::convert::types::Source;
use crate::oci::{Digest, Hasher};
use crate::registry::{BlobStream, Error};
use crate::sizes::Size;
use crate::store::{BlobError, Reservation, TempBlob};

/// Most bytes that wait to be written; as many are being written.
const WAITING_BYTES: usize = 1 << 20;

/// A download. When it is dropped, no one can join it any more.
pub(super) struct Download {
    inner: Arc<Inner>,
    source: Source,
    digest: Digest,
    state: watch::Sender<State>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Download {
    fn drop(&mut self) {
        let key = (self.source.upstream.host().to_owned(), self.digest.clone());
        self.inner.coming.lock().remove(&key);
    }
}

fn disk(error: &BlobError) -> Error {
    Error::Io {
        path: "the blob cache".to_owned(),
        cause: error.to_string(),
    }
}

impl Download {
    pub(super) fn begin(
        inner: Arc<Inner>,
        source: Source,
        digest: Digest,
        place: OwnedSemaphorePermit,
    ) -> (Incoming, Self) {
        let (state, incoming) = Incoming::new(digest.clone());
        let download = Self {
            inner,
            source,
            digest,
            state,
            _place: place,
        };
        (incoming, download)
    }

    pub(super) async fn run(self) {
        let fetched = self.fetch().await;
        let (state, digest) = (self.state.clone(), self.digest.clone());
        // Nobody joins what has failed.
        drop(self);
        if let Err(error) = fetched {
            tracing::warn!(%digest, %error, "a blob did not come into the cache");
            state.send_modify(|state| match state {
                State::Coming(coming) => coming.end = End::Broken(error),
                State::Opening | State::Failed(_) => *state = State::Failed(error),
            });
        }
    }

    async fn fetch(&self) -> Result<(), Error> {
        let Source {
            upstream,
            repo,
            authorization,
        } = &self.source;
        let opened = upstream.whole_blob(repo, &self.digest, authorization);
        let (size, stream) = opened.await?;
        // There is no end of it that could be held back.
        if size == 0 && self.digest.of_same_kind(b"") != self.digest {
            return Err(self.mismatch("the digest of nothing"));
        }
        let (temp, mut reservation) = self.begin_file(size).await?;
        let file = temp.file().try_clone().map(Arc::new);
        let file = file.map_err(|cause| Error::io(temp.path(), &cause))?;
        self.state.send_replace(State::Coming(Coming {
            file: Arc::clone(&file),
            size,
            written: 0,
            end: End::None,
        }));
        let writer = Writer {
            file,
            written: 0,
            hasher: Hasher::like(&self.digest),
        };
        let found = self
            .write(writer, stream, &mut reservation)
            .await?
            .hasher
            .finish();
        if found != self.digest {
            return Err(self.mismatch(found.as_str()));
        }
        self.change(|coming| coming.end = End::Verified);
        self.commit(temp, size).await;
        Ok(())
    }

    fn mismatch(&self, found: &str) -> Error {
        let Source { upstream, repo, .. } = &self.source;
        Error::Mismatch {
            place: format!("{repo} at {}", upstream.host()),
            what: "blob's digest",
            expected: self.digest.to_string(),
            found: found.to_owned(),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Coming)) {
        self.state.send_modify(|state| {
            if let State::Coming(coming) = state {
                change(coming);
            }
        });
    }

    async fn begin_file(&self, size: u64) -> Result<(TempBlob, Reservation), Error> {
        let blobs = self.inner.blobs.clone();
        if !blobs.has_room_for(size) {
            return Err(Error::Io {
                path: self.digest.to_string(),
                cause: format!("{} are more than --cache-size", Size(size)),
            });
        }
        let begun = tokio::task::spawn_blocking(move || {
            let reservation = blobs.reserve(size)?;
            Ok::<_, BlobError>((blobs.begin()?, reservation))
        });
        match begun.await {
            Ok(begun) => begun.map_err(|error| disk(&error)),
            Err(panic) => Err(Error::Io {
                path: self.digest.to_string(),
                cause: panic.to_string(),
            }),
        }
    }

    /// Writes what comes, as much at a time as came while the last was written.
    async fn write(
        &self,
        writer: Writer,
        mut stream: BlobStream,
        reservation: &mut Reservation,
    ) -> Result<Writer, Error> {
        let mut spent = 0;
        let mut idle = Some(writer);
        let mut writing: Option<JoinHandle<Result<Writer, Error>>> = None;
        let (mut waiting, mut length) = (Vec::new(), 0_usize);
        let mut is_coming = true;
        loop {
            if let Some(writer) = idle.take() {
                if waiting.is_empty() && !is_coming {
                    return Ok(writer);
                }
                if waiting.is_empty() {
                    idle = Some(writer);
                } else {
                    let chunks = std::mem::take(&mut waiting);
                    length = 0;
                    writing = Some(tokio::task::spawn_blocking(move || writer.write(&chunks)));
                }
            }
            tokio::select! {
                written = join(&mut writing), if writing.is_some() => {
                    writing = None;
                    let writer = written?;
                    let written = writer.written;
                    reservation.spent(written.saturating_sub(spent));
                    spent = written;
                    self.change(|coming| coming.written = written);
                    idle = Some(writer);
                }
                chunk = stream.next(), if is_coming && length < WAITING_BYTES => match chunk {
                    Some(chunk) => {
                        let chunk = chunk?;
                        length = length.saturating_add(chunk.len());
                        waiting.push(chunk);
                    }
                    None => is_coming = false,
                },
            }
        }
    }

    /// Makes the blob visible. Those that read it have it either way.
    async fn commit(&self, temp: TempBlob, size: u64) {
        let (blobs, digest) = (self.inner.blobs.clone(), self.digest.clone());
        let committed = tokio::task::spawn_blocking(move || {
            let committed = blobs.commit_copy(temp, &digest, size);
            committed.map(drop).map_err(|error| error.to_string())
        });
        let digest = &self.digest;
        match committed
            .await
            .unwrap_or_else(|panic| Err(panic.to_string()))
        {
            Ok(()) => tracing::debug!(%digest, size, "a source blob is in the cache"),
            Err(error) => tracing::warn!(%digest, error, "a source blob cannot be kept"),
        }
    }
}

/// The end of what is being written.
async fn join(writing: &mut Option<JoinHandle<Result<Writer, Error>>>) -> Result<Writer, Error> {
    match writing {
        Some(handle) => handle.await.unwrap_or_else(|panic| {
            Err(Error::Io {
                path: "the blob cache".to_owned(),
                cause: panic.to_string(),
            })
        }),
        None => std::future::pending().await,
    }
}

/// Writes and hashes, on the blocking threads.
struct Writer {
    file: Arc<File>,
    written: u64,
    hasher: Hasher,
}

impl Writer {
    fn write(mut self, chunks: &[Bytes]) -> Result<Self, Error> {
        for chunk in chunks {
            let mut file: &File = &self.file;
            file.write_all(chunk).map_err(|cause| Error::Io {
                path: "the blob cache".to_owned(),
                cause: cause.to_string(),
            })?;
            self.hasher.update(chunk);
            self.written = self.written.saturating_add(chunk.len() as u64);
        }
        Ok(self)
    }
}
