//! Blocking work of a conversion, off the asynchronous tasks.

use super::super::error::ConvertError;

/// Runs work that may wait long, for the network or for other threads, on a thread of its own:
/// the threads of [`blocking`] are few, and what it waits for may need one of them.
pub(super) async fn on_thread<T, F>(name: &str, work: F) -> Result<T, ConvertError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, ConvertError> + Send + 'static,
{
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // The receiver is gone when the program ends.
            let _ = sender.send(work());
        })
        .map_err(|error| ConvertError::Threads(error.to_string()))?;
    receiver.await.unwrap_or_else(|_| {
        tracing::error!("a conversion's thread ended unexpectedly: this is a bug");
        Err(ConvertError::Interrupted)
    })
}

/// Runs work that waits for the disk on the runtime's blocking threads.
pub(super) async fn blocking<T, F>(work: F) -> Result<T, ConvertError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, ConvertError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "a conversion's thread ended unexpectedly: this is a bug");
            Err(ConvertError::Interrupted)
        }
    }
}
