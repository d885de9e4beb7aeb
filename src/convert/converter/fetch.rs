//! Fetches a blob in a task, for threads that read its chunks.

use std::io;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::super::input::Chunks;
use super::super::source_cache::SourceCache;
use super::super::types::Source;
use crate::oci::Digest;
use crate::registry::{BlobStream, Error};
use crate::telemetry::{self, KeyValue};

/// Chunks are gathered up to so many bytes while those before them wait to be taken; a chunk is
/// what one read of a connection gave.
const GATHERED_BYTES: usize = 128 << 10;
/// Most chunks that are gathered, however small they are.
const GATHERED_CHUNKS: usize = 64;

/// Why the chunks ended early.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    cause: Arc<Mutex<Option<Error>>>,
    /// `None` where nothing is fetched.
    task: Option<AbortHandle>,
}

impl Failure {
    /// Of chunks that are not fetched.
    pub(super) fn none() -> Self {
        Self {
            cause: Arc::default(),
            task: None,
        }
    }

    pub(super) fn take(&self) -> Option<Error> {
        self.cause.lock().take()
    }

    /// Stops fetching: there are no more chunks.
    pub(super) fn abort(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Stops fetching when it is dropped.
pub(super) struct AbortOnDrop(pub(super) Failure);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts to fetch a layer of `size` bytes, by way of the cache if there is one. The iterator
/// blocks: it must not be used in a task.
pub(super) fn fetch(
    sources: Option<&SourceCache>,
    source: &Source,
    digest: &Digest,
    size: u64,
) -> (Chunks, Failure) {
    // As many bytes are gathered, wait here and are read: three times `GATHERED_BYTES` in all.
    let (sender, mut receiver) = mpsc::channel::<io::Result<Vec<Bytes>>>(1);
    let cause = Arc::new(Mutex::new(None));
    let failed = Arc::clone(&cause);
    let (source, digest) = (source.clone(), digest.clone());
    let sources = sources.cloned();
    let task = telemetry::spawn(async move {
        let span = telemetry::child("download layer", || {
            let size = i64::try_from(size).unwrap_or(i64::MAX);
            vec![
                KeyValue::new("overlaybd.layer.digest", digest.to_string()),
                KeyValue::new("overlaybd.layer.size", size),
            ]
        });
        let work = async {
            let opened = if let Some(sources) = &sources {
                Box::pin(sources.layer(&source, &digest, size)).await
            } else {
                let (repo, authorization) = (&source.repo, &source.authorization);
                let opened = source.upstream.blob(repo, &digest, size, authorization);
                opened.await
            };
            match opened {
                Ok(stream) => pass_on(stream, &sender).await,
                Err(cause) => Err(cause),
            }
        };
        if let Err(cause) = span.around(work).await {
            span.fail(cause.kind(), "");
            let error = io::Error::other(cause.to_string());
            *failed.lock() = Some(cause);
            // The reader is gone if this fails.
            let _ = sender.send(Err(error)).await;
        }
    });
    let failure = Failure {
        cause,
        task: Some(task.abort_handle()),
    };
    let mut gathered = Vec::new().into_iter();
    let chunks = std::iter::from_fn(move || {
        loop {
            if let Some(chunk) = gathered.next() {
                return Some(Ok(chunk));
            }
            match receiver.blocking_recv()? {
                Ok(chunks) => gathered = chunks.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    });
    (Box::new(chunks), failure)
}

/// Passes the chunks on, as many at a time as came while the last were not taken. Ends when all
/// are passed on, or nobody takes them.
async fn pass_on(
    mut stream: BlobStream,
    sender: &mpsc::Sender<io::Result<Vec<Bytes>>>,
) -> Result<(), Error> {
    let (mut gathered, mut length) = (Vec::new(), 0_usize);
    let mut is_coming = true;
    loop {
        let has_room = length < GATHERED_BYTES && gathered.len() < GATHERED_CHUNKS;
        tokio::select! {
            biased;
            room = sender.reserve(), if !gathered.is_empty() => match room {
                Ok(room) => {
                    room.send(Ok(mem::take(&mut gathered)));
                    length = 0;
                }
                Err(_) => return Ok(()),
            },
            chunk = stream.next(), if is_coming && has_room => match chunk {
                Some(chunk) => {
                    let chunk = chunk?;
                    length = length.saturating_add(chunk.len());
                    gathered.push(chunk);
                }
                None => is_coming = false,
            },
            else => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_comes_while_nothing_is_taken_is_gathered_within_bounds() {
        for (size, count) in [(30_000, 200_u8), (1, 200)] {
            let chunks = (0..count).map(move |number| Ok(Bytes::from(vec![number; size])));
            let stream = BlobStream {
                inner: Box::pin(futures_util::stream::iter(chunks)),
            };
            let (sender, mut receiver) = mpsc::channel(1);
            let passing = tokio::spawn(async move { pass_on(stream, &sender).await });
            let (mut numbers, mut times) = (Vec::new(), 0);
            while let Some(gathered) = receiver.recv().await {
                let gathered: Vec<Bytes> = gathered.unwrap();
                let length: usize = gathered.iter().map(Bytes::len).sum();
                assert!(length < GATHERED_BYTES + size && gathered.len() <= GATHERED_CHUNKS);
                numbers.extend(gathered.iter().filter_map(|chunk| chunk.first().copied()));
                times += 1;
                tokio::task::yield_now().await;
            }
            passing.await.unwrap().unwrap();
            assert!(numbers.into_iter().eq(0..count));
            assert!(times < 100, "{times}");
        }
    }
}
