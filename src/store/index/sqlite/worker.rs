//! The threads that hold the file: `SQLite` waits, which no task may.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::oneshot;

use super::super::schema::TABLES;
use crate::store::IndexError;

/// How long a statement waits for another process's.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The layout of this program's own tables, in `PRAGMA user_version`.
const LAYOUT: i64 = 1;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

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
        makes_tables: bool,
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
                let mut connection = match connect(&path, makes_tables) {
                    Ok(connection) => connection,
                    Err(error) => {
                        let _ = ready.send(Err(error));
                        return;
                    }
                };
                if ready.send(Ok(())).is_ok() {
                    while let Ok(job) = queue.recv() {
                        job(&mut connection);
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

fn connect(path: &Path, makes_tables: bool) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // Full: a row once reported as written survives a power cut. Rows are rare, a sync each
    // is nothing beside the conversion that it stands for.
    connection.pragma_update(None, "synchronous", "FULL")?;
    if makes_tables {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let layout: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if layout > LAYOUT {
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_MISMATCH),
                Some(format!(
                    "it has layout {layout}, written by a later version; this one knows {LAYOUT}"
                )),
            ));
        }
        for table in &TABLES {
            transaction.execute_batch(table.sqlite)?;
        }
        transaction.pragma_update(None, "user_version", LAYOUT)?;
        transaction.commit()?;
    }
    Ok(connection)
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
