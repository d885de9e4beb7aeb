//! Whether requests should be sent here.
//!
//! A balancer that asks takes a proxy out that is not ready. Where all replicas lack the same thing (a
//! database, say) it would take out all of them, and with them what goes on without it: plain pulls,
//! and images that are there. So only what keeps everything from being answered is unready; the rest
//! is said, and is not.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::StatusCode;
use tokio::time::timeout;

use crate::server::cache::open_files::off_thread;
use crate::server::limits::slots::Slots;
use crate::server::state::AppState;
use crate::sizes::Size;

/// How long a part may take to say that it is ready.
pub(in crate::server) const READY_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes that must be free for conversions: less is of no use to any image.
const MIN_FREE_BYTES: u64 = 64 << 20;

/// What keeps requests from being answered, a line each.
#[derive(Debug)]
struct Readiness {
    /// All of them.
    unready: Vec<String>,
    /// Those for what is not there yet.
    degraded: Vec<String>,
    /// Some, while others are.
    notes: Vec<String>,
}

/// Status and text of `/readyz`: `ok`, `degraded` or `not ready`, and a line for each reason.
pub(in crate::server) async fn readyz(state: &AppState) -> (StatusCode, String) {
    let readiness = Readiness {
        unready: unready(state),
        degraded: degraded(state).await,
        notes: notes(state),
    };
    let (status, word) = match &readiness {
        Readiness {
            unready, degraded, ..
        } if unready.is_empty() && degraded.is_empty() => (StatusCode::OK, "ok"),
        Readiness { unready, .. } if unready.is_empty() => (StatusCode::OK, "degraded"),
        Readiness { .. } => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    let mut text = format!("{word}\n");
    let Readiness {
        unready,
        degraded,
        notes,
    } = readiness;
    for line in unready.into_iter().chain(degraded).chain(notes) {
        text.push_str(&line);
        text.push('\n');
    }
    (status, text)
}

fn unready(state: &AppState) -> Vec<String> {
    let mut problems = Vec::new();
    if state.is_draining.load(Ordering::Relaxed) {
        problems.push("draining: the server is being stopped".to_owned());
    }
    problems.extend(full("requests", &state.limits.requests));
    problems.extend(full("connections", &state.connections));
    problems
}

async fn degraded(state: &AppState) -> Vec<String> {
    let mut problems = Vec::new();
    let store = state.converted.store();
    match timeout(READY_TIMEOUT, store.index().ping()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => problems.push(format!("index: {error}")),
        Err(_) => problems.push(format!("index: no answer within {READY_TIMEOUT:?}")),
    }
    if let Ok(Ok(Some(cause))) = timeout(READY_TIMEOUT, store.index().read_only()).await {
        problems.push(format!(
            "read-only: the index cannot be written ({cause}): what was converted is served, \
             nothing is converted until the disk has room and can be written"
        ));
    }
    if let Some(objects) = store.objects()
        && let Some(cause) = objects.trouble()
    {
        problems.push(format!(
            "blob store: {cause}; {} wait to be uploaded, and what only the bucket has is converted \
             again",
            objects.counters().waiting
        ));
    }
    let blobs = store.blobs().clone();
    let disk = off_thread(move || {
        // A file is made and removed again: the directory can be written.
        drop(blobs.begin()?);
        blobs.bytes_free()
    });
    match timeout(READY_TIMEOUT, disk).await {
        Ok(Ok(free)) if free < MIN_FREE_BYTES => {
            problems.push(format!("blobs: only {} are free on the disk", Size(free)));
        }
        Ok(Ok(_)) => {}
        Ok(Err(error)) => problems.push(format!("blobs: {error}")),
        Err(_) => problems.push(format!(
            "blobs: the disk does not answer within {READY_TIMEOUT:?}"
        )),
    }
    problems
}

fn notes(state: &AppState) -> Vec<String> {
    let limits = &state.limits;
    let mut notes = Vec::new();
    notes.extend(full("waiting for conversions", &limits.conversions));
    for (place, slots) in limits.upstreams.iter().enumerate() {
        let host = state.config.upstreams.get(place);
        let host = host.map_or("an upstream", |entry| entry.upstream.host());
        notes.extend(full(&format!("waiting for {host}"), slots));
    }
    notes
}

/// That all of these places are taken, if they are.
fn full(what: &str, slots: &Slots) -> Option<String> {
    let (taken, most) = (slots.taken(), slots.most());
    (taken >= most).then(|| format!("{what}: {taken} of at most {most}"))
}
