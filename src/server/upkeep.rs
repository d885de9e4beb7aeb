//! What is done every second or so while the server runs: files are closed or read again, blobs are
//! evicted, rows of blobs that are gone are deleted,
//! lists are learned.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::server::background::learn::learn;
use crate::server::files;
use crate::server::http::tls::Tls;
use crate::server::state::AppState;
use crate::store::Store;

/// The least time between two sweeps of the index.
const SWEEP: Duration = Duration::from_secs(10);
/// How often the list of images that were converted is kept within its bound.
const TRIM: Duration = Duration::from_hours(1);

/// Runs until it is dropped.
pub(in crate::server) async fn upkeep(state: Arc<AppState>, tls: Option<Arc<Tls>>) {
    let sweeper = tokio::spawn(sweep(state.converted.store().clone()));
    let _swept = AbortOnDrop(sweeper.abort_handle());
    let learner = tokio::spawn(learn(Arc::clone(&state)));
    let _learned = AbortOnDrop(learner.abort_handle());
    let mut turns: u32 = 0;
    let mut logged = String::new();
    loop {
        tokio::time::sleep(files::INTERVAL / 2).await;
        turns = turns.wrapping_add(1);
        let (state, tls) = (Arc::clone(&state), tls.clone());
        // All of it asks the disk.
        let work = tokio::task::spawn_blocking(move || {
            state.open_files.close_stale();
            state.responses.forget_stale();
            // Blobs that were pinned when others came, or whose time to be kept is over now.
            let evicted = state.converted.converter.store().blobs().evict();
            if turns.is_multiple_of(2) {
                if let Some(tls) = tls {
                    tls.refresh();
                }
                if let Some(users) = &state.users {
                    users.refresh();
                }
                state.addresses.keys.refresh();
            }
            evicted.err().map(|error| error.to_string())
        });
        match work.await {
            // A disk that cannot be written is logged once, not every second.
            Ok(Some(error)) if error == logged => {}
            Ok(Some(error)) => {
                tracing::warn!(error, "the blob cache cannot be kept within its bound");
                logged = error;
            }
            Ok(None) => logged.clear(),
            Err(error) => tracing::error!(%error, "the upkeep failed"),
        }
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Forgets what the index has of blobs that are gone: once after the start, and after evictions.
/// Also forgets the oldest of too many images that were converted.
async fn sweep(store: Store) {
    let mut swept = None;
    let mut trimmed: Option<Instant> = None;
    loop {
        if trimmed.is_none_or(|at| at.elapsed() >= TRIM) {
            trimmed = Some(Instant::now());
            match store.trim_images().await {
                Ok(0) => {}
                Ok(images) => tracing::info!(images, "the oldest images are no longer listed"),
                Err(error) => tracing::debug!(%error, "the list of images is not shortened now"),
            }
        }
        let evicted = store.blobs().evicted();
        let mut pause = SWEEP;
        if swept != Some(evicted) {
            let begun = Instant::now();
            match store.sweep().await {
                Ok(0) => swept = Some(evicted),
                Ok(rows) => {
                    swept = Some(evicted);
                    tracing::info!(rows, "the index forgot what it had of blobs that are gone");
                }
                Err(error) => tracing::debug!(%error, "the index is not swept now"),
            }
            // A large index is not swept all the time.
            pause = pause.max(begun.elapsed().saturating_mul(50));
        }
        tokio::time::sleep(pause).await;
    }
}
