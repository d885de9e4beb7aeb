//! Fetches a blob in a task, for threads that read its chunks.

use std::io;
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
use crate::registry::Error;

/// Chunks that wait to be read; a chunk is what one read of a connection gave.
const CHUNKS_AHEAD: usize = 32;

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
    let (sender, mut receiver) = mpsc::channel::<io::Result<Bytes>>(CHUNKS_AHEAD);
    let cause = Arc::new(Mutex::new(None));
    let failed = Arc::clone(&cause);
    let (source, digest) = (source.clone(), digest.clone());
    let sources = sources.cloned();
    let task = tokio::spawn(async move {
        let opened = if let Some(sources) = &sources {
            Box::pin(sources.layer(&source, &digest, size)).await
        } else {
            let (repo, authorization) = (&source.repo, &source.authorization);
            let opened = source.upstream.blob(repo, &digest, size, authorization);
            opened.await
        };
        let cause = match opened {
            Ok(mut stream) => loop {
                match stream.next().await {
                    None => return,
                    Some(Ok(chunk)) => {
                        if sender.send(Ok(chunk)).await.is_err() {
                            return;
                        }
                    }
                    Some(Err(cause)) => break cause,
                }
            },
            Err(cause) => cause,
        };
        let error = io::Error::other(cause.to_string());
        *failed.lock() = Some(cause);
        // The reader is gone if this fails.
        let _ = sender.send(Err(error)).await;
    });
    let failure = Failure {
        cause,
        task: Some(task.abort_handle()),
    };
    let chunks = std::iter::from_fn(move || receiver.blocking_recv());
    (Box::new(chunks), failure)
}
