//! Verifies all blobs because an operator asks for it: one such verification at a time, on one
//! thread.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::server::cache::open_files::off_thread;
use crate::store::{BlobEntry, BlobError, BlobStore, Examined, Survey, finding};

/// Most damaged blobs that are told of; the others are in the log.
const MAX_FINDINGS: usize = 100;

/// The verification that was asked for last.
#[derive(Debug, Default)]
pub(in crate::server) struct Verification(Mutex<Option<Arc<Run>>>);

#[derive(Debug)]
struct Run {
    is_moving: bool,
    /// Bytes that there were at its beginning.
    total: u64,
    started: SystemTime,
    survey: Survey,
    is_cancelled: AtomicBool,
    state: Mutex<State>,
    findings: Mutex<Vec<Value>>,
}

#[derive(Debug, Clone)]
enum State {
    Running,
    Ended {
        at: SystemTime,
        is_whole: bool,
    },
    /// Its thread panicked.
    Failed {
        at: SystemTime,
        cause: String,
    },
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

impl Verification {
    /// Begins to verify all blobs; `false` if one is under way. Damaged files are moved away if
    /// `is_moving`.
    ///
    /// # Errors
    /// When the disk refuses to list them.
    pub async fn start(&self, blobs: BlobStore, is_moving: bool) -> Result<bool, BlobError> {
        let listed = blobs.clone();
        let entries = off_thread(move || listed.entries()).await?;
        let run = Arc::new(Run {
            is_moving,
            total: entries.iter().map(|entry| entry.size).sum(),
            started: SystemTime::now(),
            survey: Survey::default(),
            is_cancelled: AtomicBool::new(false),
            state: Mutex::new(State::Running),
            findings: Mutex::default(),
        });
        {
            let mut last = self.0.lock();
            let is_running = |run: &Arc<Run>| matches!(*run.state.lock(), State::Running);
            if last.as_ref().is_some_and(is_running) {
                return Ok(false);
            }
            *last = Some(Arc::clone(&run));
        }
        let work = Arc::clone(&run);
        let done = tokio::task::spawn_blocking(move || work.verify(&blobs, entries));
        tokio::spawn(async move {
            if let Err(panic) = done.await {
                let at = SystemTime::now();
                let cause = panic.to_string();
                tracing::error!(cause, "the verification of blobs failed");
                *run.state.lock() = State::Failed { at, cause };
            }
        });
        Ok(true)
    }

    /// Has it end; `false` if none is under way.
    pub fn cancel(&self) -> bool {
        let last = self.0.lock();
        let Some(run) = last.as_ref() else {
            return false;
        };
        if !matches!(*run.state.lock(), State::Running) {
            return false;
        }
        !run.is_cancelled.swap(true, Ordering::Relaxed)
    }

    /// How far it is, or how it ended; `None` if none was asked for.
    pub fn to_json(&self) -> Option<Value> {
        self.0.lock().as_ref().map(|run| run.to_json())
    }
}

impl Drop for Verification {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl Run {
    fn verify(&self, blobs: &BlobStore, entries: Vec<BlobEntry>) {
        let on_bytes = |bytes| {
            self.survey.read(bytes);
            !self.is_cancelled.load(Ordering::Relaxed)
        };
        let on_finding = |entry: &BlobEntry, examined: &Result<Examined, BlobError>| {
            self.note(&blobs.path(&entry.digest), entry, examined);
        };
        blobs.survey(
            entries,
            1,
            self.is_moving,
            &self.survey,
            on_bytes,
            on_finding,
        );
        let counts = self.survey.counts();
        let is_whole = !self.is_cancelled.load(Ordering::Relaxed);
        tracing::info!(
            blobs = counts.blobs,
            bytes = counts.bytes,
            damaged = counts.damaged,
            failed = counts.failed,
            is_whole,
            "blobs were verified on request"
        );
        let at = SystemTime::now();
        *self.state.lock() = State::Ended { at, is_whole };
    }

    fn note(&self, path: &Path, entry: &BlobEntry, examined: &Result<Examined, BlobError>) {
        let digest = &entry.digest;
        match examined {
            Ok(Examined::Damaged { damage, aside }) => {
                if !self.is_moving {
                    tracing::error!(%digest, path = %path.display(), found = %damage,
                        "a blob file is damaged: it was to be left where it is");
                }
                let mut findings = self.findings.lock();
                if findings.len() < MAX_FINDINGS {
                    findings.push(finding(digest, path, damage, aside.as_ref()));
                }
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%digest, %error, "a blob cannot be verified"),
        }
    }

    fn to_json(&self) -> Value {
        let (name, finished, error) = match &*self.state.lock() {
            State::Running => ("running", None, None),
            State::Ended { at, is_whole: true } => ("finished", Some(*at), None),
            State::Ended {
                at,
                is_whole: false,
            } => ("cancelled", Some(*at), None),
            State::Failed { at, cause } => ("failed", Some(*at), Some(cause.clone())),
        };
        let counts = self.survey.counts();
        json!({
            "state": name,
            "dry_run": !self.is_moving,
            "started_at": seconds(self.started),
            "finished_at": finished.map(seconds),
            "blobs": counts.blobs,
            "bytes": counts.bytes,
            "of": self.total,
            "damaged": counts.damaged,
            "failed": counts.failed,
            "findings": &*self.findings.lock(),
            "error": error,
        })
    }
}
