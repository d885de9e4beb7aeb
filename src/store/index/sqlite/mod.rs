//! The index in a file of the data directory, for one machine.

mod connect;
mod durability;
mod images;
mod layers;
mod leases;
mod links;
mod manifests;
mod records;
mod sweep;
mod worker;

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Row, TransactionBehavior};

use super::rows::{Origin, parse_target};
use crate::oci::Digest;
use crate::store::error::IndexError;
use durability::Durability;
use worker::{ReadOnly, Worker};

/// How long it is waited for the log to shrink.
const SHRINK_TIMEOUT: Duration = Duration::from_secs(1);

/// The `SQLite` index: one thread reads, one writes, so that no lookup waits for a sync.
#[derive(Debug, Clone)]
pub struct SqliteIndex {
    reader: Worker,
    writer: Worker,
    read_only: ReadOnly,
}

impl SqliteIndex {
    pub(in crate::store::index) async fn open(path: &Path) -> Result<Self, IndexError> {
        let read_only = ReadOnly::default();
        let writer = Worker::start("index-writer", path, read_only.clone()).await?;
        let reader = Worker::start("index-reader", path, read_only.clone()).await?;
        Ok(Self {
            reader,
            writer,
            read_only,
        })
    }

    /// Why the file cannot be written, if it cannot. Looks again.
    pub(in crate::store::index) async fn read_only(&self) -> Result<Option<String>, IndexError> {
        if self.read_only.cause().is_some() {
            // Before a job the thread looks whether the file can be written again.
            self.writer.run("answer", |_| Ok(())).await?;
        }
        Ok(self.read_only.cause())
    }

    async fn read<T, F>(&self, what: &'static str, job: F) -> Result<T, IndexError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.reader.run(what, job).await
    }

    /// Writes in one transaction, which survives a power cut once this has returned.
    async fn write<T, F>(&self, what: &'static str, job: F) -> Result<T, IndexError>
    where
        T: Send + 'static,
        F: FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        self.write_with(Durability::Now, what, job).await
    }

    /// Writes in one transaction what may be lost in a power cut, and is not once a later
    /// [`write`](Self::write) has returned. It survives the end of the process.
    async fn write_soon<T, F>(&self, what: &'static str, job: F) -> Result<T, IndexError>
    where
        T: Send + 'static,
        F: FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        self.write_with(Durability::WithTheNext, what, job).await
    }

    async fn write_with<T, F>(
        &self,
        durability: Durability,
        what: &'static str,
        job: F,
    ) -> Result<T, IndexError>
    where
        T: Send + 'static,
        F: FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let in_transaction = move |connection: &mut Connection| {
            durability.set(connection)?;
            // Immediate: a transaction that turned writer half-way could not wait its turn.
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = job(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        self.writer.run(what, in_transaction).await
    }

    /// Gives the room back that the write-ahead log takes. Blocks, for a second at most.
    pub(in crate::store::index) fn shrink(&self) {
        let shrink = |db: &mut Connection| {
            // Whoever reads the log keeps it: it is shrunk the next time.
            db.busy_timeout(Duration::ZERO)?;
            let shrunk = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            db.busy_timeout(connect::BUSY_TIMEOUT)?;
            shrunk
        };
        self.writer
            .run_blocking("shrink its log", SHRINK_TIMEOUT, shrink);
    }

    pub(in crate::store::index) async fn ping(&self) -> Result<(), IndexError> {
        self.read("answer", |db| {
            db.query_row("SELECT 1 FROM overlaybd_layers LIMIT 1", [], |_| Ok(()))
                .optional()
                .map(|_| ())
        })
        .await
    }
}

/// A digest and size as the file has them: another program may have written them.
struct Found {
    digest: Option<String>,
    size: Option<i64>,
}

impl Found {
    fn parse(&self, table: &str) -> Option<(Digest, u64)> {
        parse_target(table, self.digest.as_deref(), self.size)
    }
}

fn target(row: &Row<'_>) -> rusqlite::Result<Found> {
    Ok(Found {
        digest: text(row, 0)?,
        size: row.get_ref(1)?.as_i64().ok(),
    })
}

fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    Ok(row.get_ref(column)?.as_str().ok().map(str::to_owned))
}

fn origin(variant: Option<String>) -> Origin {
    variant.map_or(Origin::Foreign, |variant| Origin::Ours { variant })
}
