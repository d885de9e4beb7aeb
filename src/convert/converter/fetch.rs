//! From an upstream's stream to the chunks that the pipeline's threads take.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::super::layer::Chunks;
use super::types::Source;
use crate::oci::Digest;
use crate::registry::Error;

/// Chunks that wait to be taken; a chunk is what one read of a connection gave.
const AHEAD: usize = 32;

/// Why the chunks ended early, for whoever finds that they did.
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

    /// Ends the fetching: there are no more chunks.
    pub(super) fn abort(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Ends the fetching when it is dropped.
pub(super) struct AbortOnDrop(pub(super) Failure);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Begins to fetch a blob of `size` bytes. The iterator must not be polled from a task.
pub(super) fn fetch(source: &Source, digest: &Digest, size: u64) -> (Chunks, Failure) {
    let (sender, mut receiver) = mpsc::channel::<io::Result<Bytes>>(AHEAD);
    let cause = Arc::new(Mutex::new(None));
    let told = Arc::clone(&cause);
    let (source, digest) = (source.clone(), digest.clone());
    let task = tokio::spawn(async move {
        let opened = source
            .upstream
            .blob(&source.repo, &digest, size, &source.authorization);
        let cause = match opened.await {
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
        *told.lock() = Some(cause);
        // Nobody is there any more if this fails.
        let _ = sender.send(Err(error)).await;
    });
    let failure = Failure {
        cause,
        task: Some(task.abort_handle()),
    };
    let chunks = std::iter::from_fn(move || receiver.blocking_recv());
    (Box::new(chunks), failure)
}
