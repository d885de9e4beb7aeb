//! The threads that use the file: `SQLite` blocks, which a task must not.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, ErrorCode};
use tokio::sync::oneshot;

use super::connect::{Opened, open, open_readable, open_writable};
use crate::store::error::IndexError;

/// The time between attempts to write a file again that could not be written.
const WRITE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Runs a job. A panic fails only that job.
fn guarded(job: Job, connection: &mut Connection) {
    let _ = catch_unwind(AssertUnwindSafe(|| job(connection)));
}

/// What both threads share while the file cannot be written.
#[derive(Debug, Clone, Default)]
pub(super) struct ReadOnly {
    state: Arc<Mutex<Option<Readable>>>,
    /// Why the file cannot be written, if it cannot: for tasks, which must not wait for the state.
    cause: Arc<Mutex<Option<String>>>,
}

/// The file, open for reading alone.
#[derive(Debug)]
struct Readable {
    /// The only connection: another one, or one for writing, would find the shared memory of this
    /// one, which is for reading alone too. Not there where the file could not be opened again.
    connection: Option<Connection>,
    /// When it was last tried to open it for writing.
    tried: Instant,
}

impl ReadOnly {
    fn lock(&self) -> MutexGuard<'_, Option<Readable>> {
        self.state.lock()
    }

    /// Why the file cannot be written, if it cannot.
    pub(super) fn cause(&self) -> Option<String> {
        let cause = self.cause.lock();
        cause.clone()
    }

    fn set_cause(&self, cause: Option<String>) {
        *self.cause.lock() = cause;
    }

    /// A connection of a thread's own, unless the file is open for reading alone.
    fn start(&self, path: &Path) -> rusqlite::Result<Option<Connection>> {
        let mut state = self.lock();
        if state.is_some() {
            return Ok(None);
        }
        let Opened {
            connection,
            read_only,
        } = open(path)?;
        let Some(cause) = read_only else {
            return Ok(Some(connection));
        };
        tracing::error!(
            index = %path.display(), cause,
            "the index cannot be written: what it has is read, and nothing is converted until \
             there is room on the disk and it is writable"
        );
        self.set_cause(Some(cause));
        *state = Some(Readable {
            connection: Some(connection),
            tried: Instant::now(),
        });
        Ok(None)
    }

    /// A connection of a thread's own, if the file can be written by now.
    fn recover(&self, path: &Path) -> Option<Connection> {
        let mut state = self.lock();
        if let Some(readable) = &mut *state {
            if readable.tried.elapsed() < WRITE_CHECK_INTERVAL {
                return None;
            }
            readable.connection = None;
        }
        match open_writable(path) {
            Ok(connection) => {
                if state.take().is_some() {
                    self.set_cause(None);
                    tracing::info!(index = %path.display(), "the index can be written again");
                }
                Some(connection)
            }
            Err(error) => {
                tracing::debug!(%error, "the index still cannot be written");
                self.set_cause(Some(error.to_string()));
                *state = Some(Readable {
                    connection: open_readable(path).ok(),
                    tried: Instant::now(),
                });
                None
            }
        }
    }
}

/// A thread with a connection of its own; it ends with the last clone of this.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    index: Arc<str>,
    jobs: mpsc::Sender<Job>,
}

impl Worker {
    pub(super) async fn start(
        thread: &str,
        path: &Path,
        read_only: ReadOnly,
    ) -> Result<Self, IndexError> {
        let index: Arc<str> = path.display().to_string().into();
        let unavailable = |reason: String| IndexError::Unavailable {
            index: index.to_string(),
            reason,
        };
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, is_ready) = oneshot::channel();
        let path = path.to_owned();
        std::thread::Builder::new()
            .name(thread.to_owned())
            .spawn(move || {
                let mut own = match read_only.start(&path) {
                    Ok(connection) => connection,
                    Err(error) => {
                        let _ = ready.send(Err(error));
                        return;
                    }
                };
                if ready.send(Ok(())).is_err() {
                    return;
                }
                while let Ok(job) = queue.recv() {
                    own = own.or_else(|| read_only.recover(&path));
                    if let Some(connection) = &mut own {
                        guarded(job, connection);
                    } else if let Some(readable) = &mut *read_only.lock()
                        && let Some(connection) = &mut readable.connection
                    {
                        guarded(job, connection);
                    }
                    // Else the job is dropped, which its caller gets as an error.
                }
            })
            .map_err(|error| unavailable(format!("no thread for it: {error}")))?;
        match is_ready.await {
            Ok(Ok(())) => Ok(Self { index, jobs }),
            Ok(Err(error)) => Err(explain(&index, "open", &error)),
            Err(_) => Err(unavailable("its thread has ended".to_owned())),
        }
    }

    /// Runs a job after those before it. `what` is what it tries to do, for errors.
    pub(super) async fn run<T, F>(&self, what: &'static str, job: F) -> Result<T, IndexError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let gone = || IndexError::Unavailable {
            index: self.index.to_string(),
            reason: "it cannot be opened now".to_owned(),
        };
        self.jobs
            .send(Box::new(move |connection| {
                // The caller may be gone; the statement is executed all the same.
                let _ = answer.send(job(connection));
            }))
            .map_err(|_| gone())?;
        answered
            .await
            .map_err(|_| gone())?
            .map_err(|error| explain(&self.index, what, &error))
    }

    /// As [`run`](Self::run), for a thread that may block: waits for at most `most`, and the job's
    /// outcome is only logged.
    pub(super) fn run_blocking<F>(&self, what: &'static str, most: Duration, job: F)
    where
        F: FnOnce(&mut Connection) -> rusqlite::Result<()> + Send + 'static,
    {
        let (done, is_done) = mpsc::channel();
        let sent = self.jobs.send(Box::new(move |connection| {
            if let Err(error) = job(connection) {
                tracing::debug!(%error, what, "the index could not do something");
            }
            let _ = done.send(());
        }));
        if sent.is_ok() {
            let _ = is_done.recv_timeout(most);
        }
    }
}

fn explain(index: &str, what: &'static str, error: &rusqlite::Error) -> IndexError {
    use ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseCorrupt, DatabaseLocked, DiskFull, NotADatabase,
        ReadOnly, SystemIoFailure,
    };
    match error.sqlite_error_code() {
        Some(DiskFull | ReadOnly) => IndexError::NoSpace {
            index: index.to_owned(),
            reason: format!("while trying to {what}: {error}"),
        },
        Some(DatabaseBusy | DatabaseLocked | SystemIoFailure | CannotOpen) => {
            IndexError::Unavailable {
                index: index.to_owned(),
                reason: format!("while trying to {what}: {error}"),
            }
        }
        Some(DatabaseCorrupt | NotADatabase) => IndexError::Database {
            index: index.to_owned(),
            what,
            reason: format!(
                "{error}; remove the file (with its -wal and -shm): what it knew is found anew"
            ),
        },
        _ => IndexError::Database {
            index: index.to_owned(),
            what,
            reason: error.to_string(),
        },
    }
}
