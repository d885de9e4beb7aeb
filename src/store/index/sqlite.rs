//! The index in a file of the data directory, for one machine.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, TransactionBehavior, params};
use tokio::sync::oneshot;

use super::schema::TABLES;
use super::{LayerRow, MAX_ELSEWHERE, ManifestKey, ManifestRow, Origin, parse_target};
use crate::oci::{DiffId, Digest, RepoName};
use crate::store::IndexError;

/// How long a statement waits for another process's.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The layout of this program's own tables, in `PRAGMA user_version`.
const LAYOUT: i64 = 1;

const NOW: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The `SQLite` index: one thread reads, one writes, so that no lookup waits for a sync.
#[derive(Debug, Clone)]
pub struct SqliteIndex {
    name: Arc<str>,
    reader: mpsc::Sender<Job>,
    writer: mpsc::Sender<Job>,
}

impl SqliteIndex {
    pub(super) async fn open(path: PathBuf) -> Result<Self, IndexError> {
        let name: Arc<str> = path.display().to_string().into();
        let writer = worker("index-writer", &path, &name, true).await?;
        let reader = worker("index-reader", &path, &name, false).await?;
        Ok(Self {
            name,
            reader,
            writer,
        })
    }

    async fn read<T, F>(&self, what: &'static str, job: F) -> Result<T, IndexError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.run(&self.reader, what, job).await
    }

    async fn write<T, F>(&self, what: &'static str, job: F) -> Result<T, IndexError>
    where
        T: Send + 'static,
        F: FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        self.run(&self.writer, what, move |connection| {
            // Immediate: a transaction that turned writer half-way could not wait its turn.
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = job(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
        .await
    }

    async fn run<T, F>(
        &self,
        worker: &mpsc::Sender<Job>,
        what: &'static str,
        job: F,
    ) -> Result<T, IndexError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let gone = || IndexError::Unavailable {
            index: self.name.to_string(),
            reason: "its thread has ended".to_owned(),
        };
        worker
            .send(Box::new(move |connection| {
                // The asker may be gone; the statement is done all the same.
                let _ = answer.send(job(connection));
            }))
            .map_err(|_| gone())?;
        answered
            .await
            .map_err(|_| gone())?
            .map_err(|error| explain(&self.name, what, &error))
    }

    pub(super) async fn ping(&self) -> Result<(), IndexError> {
        self.read("answer", |db| {
            db.query_row("SELECT 1 FROM overlaybd_layers LIMIT 1", [], |_| Ok(()))
                .optional()
                .map(|_| ())
        })
        .await
    }

    pub(super) async fn find_layer(
        &self,
        host: &str,
        repo: &str,
        chain: &str,
    ) -> Result<Option<LayerRow>, IndexError> {
        let (host, repo, chain) = (host.to_owned(), repo.to_owned(), chain.to_owned());
        self.read("find a layer", move |db| {
            let found = db
                .prepare_cached(
                    "SELECT data_digest, data_size FROM overlaybd_layers \
                     WHERE host = ?1 AND repo = ?2 AND chain_id = ?3",
                )?
                .query_row(params![host, repo, chain], target)
                .optional()?;
            match found.and_then(|found| found.parse("overlaybd_layers")) {
                Some((digest, size)) => layer_row(db, &chain, digest, size).map(Some),
                None => Ok(None),
            }
        })
        .await
    }

    pub(super) async fn find_layer_elsewhere(
        &self,
        host: &str,
        chain: &str,
        variant: &str,
    ) -> Result<Vec<(RepoName, LayerRow)>, IndexError> {
        let (host, chain, variant) = (host.to_owned(), chain.to_owned(), variant.to_owned());
        self.read("find a layer", move |db| {
            let mut statement = db.prepare_cached(
                "SELECT data_digest, data_size, repo FROM overlaybd_layers \
                 WHERE host = ?1 AND chain_id = ?2 \
                 ORDER BY data_digest = coalesce((SELECT data_digest FROM overlaybd_proxy_chains \
                   WHERE chain_id = ?2 AND variant = ?3), '') DESC, repo LIMIT ?4",
            )?;
            let limit = i64::try_from(MAX_ELSEWHERE).unwrap_or(i64::MAX);
            let found = statement
                .query_map(params![host, chain, variant, limit], |row| {
                    Ok((text(row, 2)?, target(row)?))
                })?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            let mut rows = Vec::with_capacity(found.len());
            for (repo, found) in found {
                let repo = repo.and_then(|repo| repo.parse::<RepoName>().ok());
                if let (Some(repo), Some((digest, size))) = (repo, found.parse("overlaybd_layers"))
                {
                    rows.push((repo, layer_row(db, &chain, digest, size)?));
                }
            }
            Ok(rows)
        })
        .await
    }

    pub(super) async fn find_built(
        &self,
        chain: &str,
        variant: &str,
    ) -> Result<Option<LayerRow>, IndexError> {
        let (chain, variant) = (chain.to_owned(), variant.to_owned());
        self.read("find a layer", move |db| {
            let found = db
                .prepare_cached(
                    "SELECT data_digest, data_size FROM overlaybd_proxy_chains \
                     WHERE chain_id = ?1 AND variant = ?2",
                )?
                .query_row(params![chain, variant], target)
                .optional()?;
            Ok(found
                .and_then(|found| found.parse("overlaybd_proxy_chains"))
                .map(|(digest, size)| LayerRow {
                    digest,
                    size,
                    origin: Origin::Ours { variant },
                }))
        })
        .await
    }

    pub(super) async fn find_diff_id(&self, layer: &str) -> Result<Option<DiffId>, IndexError> {
        let layer = layer.to_owned();
        self.read("find a diff id", move |db| {
            let found = db
                .prepare_cached(
                    "SELECT diff_id FROM overlaybd_proxy_layers WHERE layer_digest = ?1",
                )?
                .query_row(params![layer], |row| text(row, 0))
                .optional()?
                .flatten();
            Ok(found.and_then(|text| text.parse().ok()).map(DiffId))
        })
        .await
    }

    pub(super) async fn put_diff_id(&self, layer: &str, diff_id: &str) -> Result<(), IndexError> {
        let (layer, diff_id) = (layer.to_owned(), diff_id.to_owned());
        self.write("record a diff id", move |db| {
            db.execute(
                "INSERT INTO overlaybd_proxy_layers (layer_digest, diff_id) VALUES (?1, ?2) \
                 ON CONFLICT DO UPDATE SET diff_id = excluded.diff_id",
                params![layer, diff_id],
            )
            .map(|_| ())
        })
        .await
    }

    pub(super) async fn put_layer(
        &self,
        host: &str,
        repo: &str,
        chain: &str,
        digest: &str,
        size: i64,
        variant: &str,
    ) -> Result<(), IndexError> {
        let [host, repo, chain, digest, variant] =
            [host, repo, chain, digest, variant].map(str::to_owned);
        self.write("record a layer", move |db| {
            db.execute(
                "INSERT INTO overlaybd_proxy_chains (chain_id, variant, data_digest, data_size) \
                 VALUES (?1, ?2, ?3, ?4) ON CONFLICT (chain_id, variant) DO UPDATE \
                 SET data_digest = excluded.data_digest, data_size = excluded.data_size",
                params![chain, variant, digest, size],
            )?;
            db.execute(
                "INSERT INTO overlaybd_layers (host, repo, chain_id, data_digest, data_size) \
                 VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (host, repo, chain_id) DO UPDATE \
                 SET data_digest = excluded.data_digest, data_size = excluded.data_size",
                params![host, repo, chain, digest, size],
            )?;
            Ok(())
        })
        .await
    }

    pub(super) async fn delete_layer(
        &self,
        host: &str,
        repo: &str,
        chain: &str,
        digest: &str,
    ) -> Result<bool, IndexError> {
        let [host, repo, chain, digest] = [host, repo, chain, digest].map(str::to_owned);
        self.write("delete a layer", move |db| {
            db.execute(
                "DELETE FROM overlaybd_layers \
                 WHERE host = ?1 AND repo = ?2 AND chain_id = ?3 AND data_digest = ?4",
                params![host, repo, chain, digest],
            )
            .map(|rows| rows > 0)
        })
        .await
    }

    pub(super) async fn find_manifest(
        &self,
        key: &ManifestKey,
    ) -> Result<Option<ManifestRow>, IndexError> {
        let key = key.clone();
        self.read("find a manifest", move |db| {
            let found = db
                .prepare_cached(
                    "SELECT out_digest, data_size FROM overlaybd_manifests \
                     WHERE host = ?1 AND repo = ?2 AND src_digest = ?3 AND mediatype = ?4",
                )?
                .query_row(
                    params![
                        key.host,
                        key.repo.as_str(),
                        key.source.as_str(),
                        key.media_type
                    ],
                    target,
                )
                .optional()?;
            let Some((digest, size)) = found.and_then(|found| found.parse("overlaybd_manifests"))
            else {
                return Ok(None);
            };
            let variant = db
                .prepare_cached(
                    "SELECT variant FROM overlaybd_proxy_manifests \
                     WHERE src_digest = ?1 AND out_digest = ?2 ORDER BY variant LIMIT 1",
                )?
                .query_row(params![key.source.as_str(), digest.as_str()], |row| {
                    row.get::<_, String>(0)
                })
                .optional()?;
            Ok(Some(ManifestRow {
                digest,
                size,
                origin: origin(variant),
            }))
        })
        .await
    }

    pub(super) async fn find_built_manifest(
        &self,
        source: &str,
        variant: &str,
    ) -> Result<Option<(String, ManifestRow)>, IndexError> {
        let (source, variant) = (source.to_owned(), variant.to_owned());
        self.read("find a manifest", move |db| {
            let found = db
                .prepare_cached(
                    "SELECT out_digest, data_size, mediatype FROM overlaybd_proxy_manifests \
                     WHERE src_digest = ?1 AND variant = ?2",
                )?
                .query_row(params![source, variant], |row| {
                    Ok((row.get::<_, String>(2)?, target(row)?))
                })
                .optional()?;
            Ok(found.and_then(|(media_type, found)| {
                let (digest, size) = found.parse("overlaybd_proxy_manifests")?;
                let origin = Origin::Ours { variant };
                Some((
                    media_type,
                    ManifestRow {
                        digest,
                        size,
                        origin,
                    },
                ))
            }))
        })
        .await
    }

    pub(super) async fn put_manifest(
        &self,
        key: &ManifestKey,
        digest: &str,
        size: i64,
        variant: &str,
    ) -> Result<(), IndexError> {
        let (key, digest, variant) = (key.clone(), digest.to_owned(), variant.to_owned());
        self.write("record a manifest", move |db| {
            db.execute(
                "INSERT INTO overlaybd_proxy_manifests \
                 (src_digest, variant, mediatype, out_digest, data_size) \
                 VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (src_digest, variant) DO UPDATE \
                 SET mediatype = excluded.mediatype, out_digest = excluded.out_digest, \
                 data_size = excluded.data_size",
                params![key.source.as_str(), variant, key.media_type, digest, size],
            )?;
            db.execute(
                "INSERT INTO overlaybd_manifests \
                 (host, repo, src_digest, out_digest, data_size, mediatype) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                 ON CONFLICT (host, repo, src_digest, mediatype) DO UPDATE \
                 SET out_digest = excluded.out_digest, data_size = excluded.data_size",
                params![
                    key.host,
                    key.repo.as_str(),
                    key.source.as_str(),
                    digest,
                    size,
                    key.media_type
                ],
            )?;
            Ok(())
        })
        .await
    }

    pub(super) async fn delete_manifest(
        &self,
        key: &ManifestKey,
        digest: &str,
    ) -> Result<bool, IndexError> {
        let (key, digest) = (key.clone(), digest.to_owned());
        self.write("delete a manifest", move |db| {
            db.execute(
                "DELETE FROM overlaybd_manifests WHERE host = ?1 AND repo = ?2 \
                 AND src_digest = ?3 AND mediatype = ?4 AND out_digest = ?5",
                params![
                    key.host,
                    key.repo.as_str(),
                    key.source.as_str(),
                    key.media_type,
                    digest
                ],
            )
            .map(|rows| rows > 0)
        })
        .await
    }

    pub(super) async fn link(
        &self,
        host: &str,
        repo: &str,
        source: &str,
        blobs: &[&str],
    ) -> Result<(), IndexError> {
        let [host, repo, source] = [host, repo, source].map(str::to_owned);
        let blobs: Vec<String> = blobs.iter().map(|&blob| blob.to_owned()).collect();
        self.write("link blobs", move |db| {
            let mut statement = db.prepare_cached(
                "INSERT INTO overlaybd_proxy_links (host, repo, blob_digest, src_digest) \
                 VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
            )?;
            for blob in blobs {
                statement.execute(params![host, repo, blob, source])?;
            }
            Ok(())
        })
        .await
    }

    pub(super) async fn sources(
        &self,
        host: &str,
        repo: &str,
        blob: &str,
    ) -> Result<Vec<Digest>, IndexError> {
        let [host, repo, blob] = [host, repo, blob].map(str::to_owned);
        let limit = i64::try_from(MAX_ELSEWHERE).unwrap_or(i64::MAX);
        self.read("find a blob's images", move |db| {
            let found = db
                .prepare_cached(
                    "SELECT src_digest FROM overlaybd_proxy_links \
                     WHERE host = ?1 AND repo = ?2 AND blob_digest = ?3 \
                     ORDER BY src_digest LIMIT ?4",
                )?
                .query_map(params![host, repo, blob, limit], |row| text(row, 0))?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(parse_all(found))
        })
        .await
    }

    pub(super) async fn linked_repos(
        &self,
        host: &str,
        blob: &str,
    ) -> Result<Vec<RepoName>, IndexError> {
        let [host, blob] = [host, blob].map(str::to_owned);
        let limit = i64::try_from(MAX_ELSEWHERE).unwrap_or(i64::MAX);
        self.read("find a blob's repositories", move |db| {
            let found = db
                .prepare_cached(
                    "SELECT DISTINCT repo FROM overlaybd_proxy_links \
                     WHERE host = ?1 AND blob_digest = ?2 ORDER BY repo LIMIT ?3",
                )?
                .query_map(params![host, blob, limit], |row| text(row, 0))?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(parse_all(found))
        })
        .await
    }

    pub(super) async fn unlink(
        &self,
        host: &str,
        repo: &str,
        source: &str,
    ) -> Result<(), IndexError> {
        let [host, repo, source] = [host, repo, source].map(str::to_owned);
        self.write("unlink an image", move |db| {
            db.execute(
                "DELETE FROM overlaybd_proxy_links \
                 WHERE host = ?1 AND repo = ?2 AND src_digest = ?3",
                params![host, repo, source],
            )
            .map(|_| ())
        })
        .await
    }

    /// The holder after the attempt, and for how many milliseconds.
    pub(super) async fn acquire(
        &self,
        name: &str,
        token: &str,
        ttl: i64,
    ) -> Result<(String, u64), IndexError> {
        let (name, token) = (name.to_owned(), token.to_owned());
        self.write("acquire a lease", move |db| {
            db.execute(
                &format!(
                    "INSERT INTO overlaybd_proxy_leases (name, holder, expires_at) \
                     VALUES (?1, ?2, {NOW} + ?3) ON CONFLICT (name) DO UPDATE \
                     SET holder = excluded.holder, expires_at = excluded.expires_at \
                     WHERE expires_at <= {NOW}"
                ),
                params![name, token, ttl],
            )?;
            db.query_row(
                &format!(
                    "SELECT holder, max(expires_at - {NOW}, 0) \
                     FROM overlaybd_proxy_leases WHERE name = ?1"
                ),
                params![name],
                |row| {
                    Ok((
                        row.get(0)?,
                        u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0),
                    ))
                },
            )
        })
        .await
    }

    pub(super) async fn heartbeat(
        &self,
        name: &str,
        token: &str,
        ttl: i64,
    ) -> Result<bool, IndexError> {
        let (name, token) = (name.to_owned(), token.to_owned());
        self.write("keep a lease", move |db| {
            db.execute(
                &format!(
                    "UPDATE overlaybd_proxy_leases SET expires_at = {NOW} + ?3 \
                     WHERE name = ?1 AND holder = ?2"
                ),
                params![name, token, ttl],
            )
            .map(|rows| rows > 0)
        })
        .await
    }

    pub(super) async fn release(&self, name: &str, token: &str) -> Result<bool, IndexError> {
        let (name, token) = (name.to_owned(), token.to_owned());
        self.write("release a lease", move |db| {
            db.execute(
                "DELETE FROM overlaybd_proxy_leases WHERE name = ?1 AND holder = ?2",
                params![name, token],
            )
            .map(|rows| rows > 0)
        })
        .await
    }

    pub(super) async fn release_range(&self, from: &str, to: &str) -> Result<u64, IndexError> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.write("release leases", move |db| {
            db.execute(
                "DELETE FROM overlaybd_proxy_leases WHERE holder >= ?1 AND holder < ?2",
                params![from, to],
            )
            .map(|rows| u64::try_from(rows).unwrap_or(u64::MAX))
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

fn parse_all<T: std::str::FromStr>(found: Vec<Option<String>>) -> Vec<T> {
    let parsed = found.into_iter().flatten().map(|text| text.parse().ok());
    parsed.flatten().collect()
}

fn origin(variant: Option<String>) -> Origin {
    variant.map_or(Origin::Foreign, |variant| Origin::Ours { variant })
}

fn layer_row(
    db: &Connection,
    chain: &str,
    digest: Digest,
    size: u64,
) -> rusqlite::Result<LayerRow> {
    let variant = db
        .prepare_cached(
            "SELECT variant FROM overlaybd_proxy_chains \
             WHERE chain_id = ?1 AND data_digest = ?2 ORDER BY variant LIMIT 1",
        )?
        .query_row(params![chain, digest.as_str()], |row| {
            row.get::<_, String>(0)
        })
        .optional()?;
    Ok(LayerRow {
        digest,
        size,
        origin: origin(variant),
    })
}

async fn worker(
    thread: &str,
    path: &Path,
    name: &Arc<str>,
    makes_tables: bool,
) -> Result<mpsc::Sender<Job>, IndexError> {
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
        .map_err(|error| IndexError::Unavailable {
            index: name.to_string(),
            reason: format!("no thread for it: {error}"),
        })?;
    match is_ready.await {
        Ok(Ok(())) => Ok(jobs),
        Ok(Err(error)) => Err(explain(name, "open", &error)),
        Err(_) => Err(IndexError::Unavailable {
            index: name.to_string(),
            reason: "its thread has ended".to_owned(),
        }),
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
        SystemIoFailure,
    };
    match error.sqlite_error_code() {
        Some(DatabaseBusy | DatabaseLocked | DiskFull | SystemIoFailure | CannotOpen) => {
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
