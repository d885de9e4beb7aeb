//! What is opened at the same time, each by a thread of its own: those of the runtime are few, and
//! what opening waits for may need them.

use std::io;
use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};

/// Most threads.
const THREADS: usize = 64;

/// What is being opened, in order.
#[derive(Debug)]
pub(super) struct Opening<T> {
    threads: Arc<Semaphore>,
    begun: Vec<oneshot::Receiver<T>>,
}

impl<T: Send + 'static> Opening<T> {
    pub(super) fn new() -> Self {
        Self {
            threads: Arc::new(Semaphore::new(THREADS)),
            begun: Vec::new(),
        }
    }

    /// Opens one more thing, once there is a thread for it.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) async fn begin(
        &mut self,
        open: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<()> {
        let permit = Arc::clone(&self.threads).acquire_owned().await;
        let permit = permit.map_err(io::Error::other)?;
        let (done, opened) = oneshot::channel();
        let thread = std::thread::Builder::new().name("opening".to_owned());
        thread.spawn(move || {
            // Nobody waits any more, if this fails.
            let _ = done.send(open());
            drop(permit);
        })?;
        self.begun.push(opened);
        Ok(())
    }

    /// Waits for all.
    ///
    /// # Errors
    /// When a thread ended without an answer.
    pub(super) async fn all(self) -> io::Result<Vec<T>> {
        let mut all = Vec::with_capacity(self.begun.len());
        for opened in self.begun {
            all.push(opened.await.map_err(io::Error::other)?);
        }
        Ok(all)
    }
}
