//! Opens the file: for writing, or read-only where it cannot be written.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::super::schema::{TABLES, VERSION, later_version, migrations_after};
use super::durability::Durability;

/// How long a statement waits for the lock of another process.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// The time between attempts to open a file that another process is creating.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// The table that operators alone are shown, and no answer to a client needs.
const IMAGES: &str = "overlaybd_proxy_images";

/// Characters that are escaped in the path of a URI.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'.')
    .remove(b'-')
    .remove(b'_');

/// An open file.
pub(super) struct Opened {
    pub(super) connection: Connection,
    /// Why it cannot be written, if it cannot.
    pub(super) read_only: Option<String>,
}

/// Opens the file as usual, or, where that fails for want of room or because the disk is
/// read-only, for reading what is there.
pub(super) fn open(path: &Path) -> rusqlite::Result<Opened> {
    match open_writable(path) {
        Ok(connection) => Ok(Opened {
            connection,
            read_only: None,
        }),
        Err(error) if may_be_readable(&error) => match open_readable(path) {
            Ok(connection) => Ok(Opened {
                connection,
                read_only: Some(error.to_string()),
            }),
            // The first error is the cause.
            Err(_) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Opens the file for reading and writing; waits for other processes that are making it.
pub(super) fn open_writable(path: &Path) -> rusqlite::Result<Connection> {
    let begun = Instant::now();
    loop {
        // While a process turns the file to write-ahead logging, or recovers it, others fail at
        // once, whatever their busy timeout is.
        match connect(path) {
            Err(error) if is_busy(&error) && begun.elapsed() < BUSY_TIMEOUT => {
                thread::sleep(RETRY_INTERVAL);
            }
            result => return result,
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// Whether the file may still be read: what cannot be written, or has no room for the files
/// beside it, fails so.
fn may_be_readable(error: &rusqlite::Error) -> bool {
    use ErrorCode::{CannotOpen, DiskFull, ReadOnly, SystemIoFailure};
    matches!(
        error.sqlite_error_code(),
        Some(DiskFull | ReadOnly | CannotOpen | SystemIoFailure)
    )
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    // SQLite opens a file that cannot be written read-only, without an error.
    if connection.is_readonly("main")? {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_READONLY),
            Some("the file cannot be opened for writing".to_owned()),
        ));
    }
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    Durability::Now.set(&connection)?;
    // If all is there, nothing is written.
    if version(&connection)? != VERSION || !has_tables(&connection, |_| true)? {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found = version(&transaction)?;
        if found > VERSION {
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_MISMATCH),
                Some(later_version(found)),
            ));
        }
        for table in &TABLES {
            transaction.execute_batch(table.sqlite)?;
        }
        for step in migrations_after(found) {
            transaction.execute_batch(step.sqlite)?;
        }
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()?;
    }
    Ok(connection)
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Whether all tables are there that `is_needed`, which is given their names.
fn has_tables(connection: &Connection, is_needed: impl Fn(&str) -> bool) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare("SELECT name FROM sqlite_schema")?;
    let names = statement.query_map([], |row| row.get(0))?;
    let names = names.collect::<rusqlite::Result<Vec<String>>>()?;
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    Ok(TABLES
        .iter()
        .filter(|table| is_needed(table.name))
        .all(|table| has(table.name)))
}

/// Opens a file that cannot be written, or beside which no file can be made.
pub(super) fn open_readable(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let usual = Connection::open_with_flags(path, flags).and_then(with_tables);
    usual.or_else(|_| {
        // The files beside it are not there and cannot be made: no other process has it open. What a
        // process that was killed left in the log is not seen; a cache may be lost.
        let name = percent_encode(path.as_os_str().as_encoded_bytes(), PATH);
        let uri = format!("file:{name}?immutable=1");
        Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI).and_then(with_tables)
    })
}

/// A connection through which the tables can be read that answers need. A file of a program that did
/// not have the table of images is served from, too: to ask for those is an error of its own.
fn with_tables(connection: Connection) -> rusqlite::Result<Connection> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let is_needed = |name: &str| name != IMAGES;
    if version(&connection)? <= VERSION && has_tables(&connection, is_needed)? {
        Ok(connection)
    } else {
        Err(rusqlite::Error::QueryReturnedNoRows)
    }
}
