//! The threads that hold the file: `SQLite` waits, which no task may.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::oneshot;

use super::connect::{Opened, open, open_writable};
use crate::store::IndexError;

/// How often it is tried whether a file can be written again.
const RETRY: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Why the file cannot be written, if it cannot: as the thread that writes last saw it.
#[derive(Debug, Clone, Default)]
pub(super) struct ReadOnly(Arc<Mutex<Option<String>>>);

impl ReadOnly {
    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn cause(&self) -> Option<String> {
        self.lock().clone()
    }
}

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It makes the tables, and says whether the file can be written.
    Writer,
    Reader,
}

/// A thread with a connection of its own; it ends with the last clone of this.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    index: Arc<str>,
    jobs: mpsc::Sender<Job>,
}

/// The connection of a worker.
struct Link {
    path: PathBuf,
    role: Role,
    read_only: ReadOnly,
    connection: Connection,
    /// When it was last tried to open the file for writing, if it is open for reading alone.
    tried: Option<Instant>,
}

impl Link {
    fn open(path: &Path, role: Role, read_only: ReadOnly) -> rusqlite::Result<Self> {
        let Opened {
            connection,
            read_only: cause,
        } = open(path, role == Role::Writer)?;
        let tried = cause.is_some().then(Instant::now);
        if let Some(cause) = &cause
            && role == Role::Writer
        {
            tracing::error!(
                index = %path.display(), cause,
                "the index cannot be written: what it has is read, and nothing is converted until \
                 there is room on the disk and it is writable"
            );
        }
        if role == Role::Writer {
            *read_only.lock() = cause;
        }
        Ok(Self {
            path: path.to_owned(),
            role,
            read_only,
            connection,
            tried,
        })
    }

    /// Opens the file anew if it can be written again. The reader follows the writer: what is open
    /// for reading alone need not see what is written.
    fn refresh(&mut self) {
        let Some(tried) = self.tried else { return };
        let is_due = match self.role {
            Role::Writer => tried.elapsed() >= RETRY,
            Role::Reader => self.read_only.lock().is_none(),
        };
        if !is_due {
            return;
        }
        match open_writable(&self.path, self.role == Role::Writer) {
            Ok(connection) => {
                self.connection = connection;
                self.tried = None;
                if self.role == Role::Writer {
                    *self.read_only.lock() = None;
                    tracing::info!(index = %self.path.display(), "the index can be written again");
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the index still cannot be written");
                self.tried = Some(Instant::now());
            }
        }
    }
}

impl Worker {
    pub(super) async fn start(
        thread: &str,
        path: &Path,
        role: Role,
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
                let mut link = match Link::open(&path, role, read_only) {
                    Ok(link) => link,
                    Err(error) => {
                        let _ = ready.send(Err(error));
                        return;
                    }
                };
                if ready.send(Ok(())).is_ok() {
                    while let Ok(job) = queue.recv() {
                        link.refresh();
                        job(&mut link.connection);
                    }
                }
            })
            .map_err(|error| unavailable(format!("no thread for it: {error}")))?;
        match is_ready.await {
            Ok(Ok(())) => Ok(Self { index, jobs }),
            Ok(Err(error)) => Err(explain(&index, "open", &error)),
            Err(_) => Err(unavailable("its thread has ended".to_owned())),
        }
    }

    /// Does a job when those before it are done. `what` is what it tries to do, for errors.
    pub(super) async fn run<T, F>(&self, what: &'static str, job: F) -> Result<T, IndexError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let gone = || IndexError::Unavailable {
            index: self.index.to_string(),
            reason: "its thread has ended".to_owned(),
        };
        self.jobs
            .send(Box::new(move |connection| {
                // The asker may be gone; the statement is done all the same.
                let _ = answer.send(job(connection));
            }))
            .map_err(|_| gone())?;
        answered
            .await
            .map_err(|_| gone())?
            .map_err(|error| explain(&self.index, what, &error))
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
