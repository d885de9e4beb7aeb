//! The index on a `MySQL` or `MariaDB` server, shared by replicas.
//!
//! There are no transactions: each statement is whole by itself and may be repeated, so a lost
//! connection or a deadlock is answered by doing it again. What this program knows of a row
//! is written before the row.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mysql_async::{Params, Value};
use tokio::time::Instant;

use super::mysql_dsn::Dsn;
use super::mysql_pool::{Server, WRITE_PATIENCE};
use super::schema::TABLES;
use super::{LayerRow, MAX_ELSEWHERE, ManifestKey, ManifestRow, Origin, parse_target};
use crate::oci::{DiffId, Digest, RepoName};
use crate::store::IndexError;

/// How to reach the server.
#[derive(Clone, Debug)]
pub struct MysqlConfig {
    /// Where and how.
    pub dsn: Dsn,
    /// Whether to make the tables that are missing.
    pub create_tables: bool,
    /// PEM files with the roots that `tls=custom` trusts.
    pub tls_roots: Vec<PathBuf>,
}

/// The index on a server.
#[derive(Debug, Clone)]
pub struct MysqlIndex {
    server: Arc<Server>,
}

/// Now, in milliseconds since 1970, whatever the session's time zone.
const NOW: &str = "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(3)) DIV 1000)";

const NO_PATIENCE: Duration = Duration::ZERO;

type Row = Vec<Option<Value>>;

impl MysqlIndex {
    pub(super) async fn open(config: MysqlConfig) -> Result<Self, IndexError> {
        let ignored = config.dsn.ignored();
        if !ignored.is_empty() {
            tracing::info!(
                ?ignored,
                "parameters of the MySQL connection without meaning here"
            );
        }
        let server = Server::connect(&config.dsn, &config.tls_roots).await?;
        let index = Self {
            server: Arc::new(server),
        };
        index.check_tables(config.create_tables).await?;
        Ok(index)
    }

    async fn check_tables(&self, create: bool) -> Result<(), IndexError> {
        let mut missing = Vec::new();
        for table in &TABLES {
            let columns = table.columns.join("`, `");
            let probe = format!("SELECT `{columns}` FROM `{}` WHERE 1 = 0", table.name);
            match self.server.probe(&probe).await? {
                None => {}
                Some(1146) => missing.push(table),
                Some(_) => {
                    return Err(IndexError::Schema {
                        index: self.server.to_string(),
                        problem: format!("the table {} lacks a column", table.name),
                        statement: table.mysql.to_owned(),
                    });
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = missing.iter().map(|table| table.name).collect();
        let statements: Vec<_> = missing.iter().map(|table| table.mysql).collect();
        if !create {
            return Err(IndexError::Schema {
                index: self.server.to_string(),
                problem: format!("these tables are missing: {}", names.join(", ")),
                statement: statements.join("\n"),
            });
        }
        for statement in statements {
            self.server.create(statement.trim_end_matches(';')).await?;
        }
        tracing::info!(index = %self.server, tables = ?names, "created tables");
        Ok(())
    }

    async fn select(
        &self,
        what: &'static str,
        sql: &str,
        params: Vec<Value>,
    ) -> Result<Vec<Row>, IndexError> {
        let done = self
            .server
            .run(what, sql, Params::from(params), NO_PATIENCE)
            .await?;
        Ok(done.rows)
    }

    /// Does a statement that must not be lost, and gives the rows that it matched.
    async fn write(
        &self,
        what: &'static str,
        sql: &str,
        params: Vec<Value>,
    ) -> Result<u64, IndexError> {
        let done = self
            .server
            .run(what, sql, Params::from(params), WRITE_PATIENCE)
            .await?;
        Ok(done.matched)
    }

    /// As [`write`](Self::write), but later would be too late.
    async fn write_now(
        &self,
        what: &'static str,
        sql: &str,
        params: Vec<Value>,
    ) -> Result<u64, IndexError> {
        let done = self
            .server
            .run(what, sql, Params::from(params), NO_PATIENCE)
            .await?;
        Ok(done.matched)
    }

    pub(super) async fn close(self) {
        self.server.close().await;
    }

    pub(super) async fn ping(&self) -> Result<(), IndexError> {
        self.select("answer", "SELECT 1", Vec::new())
            .await
            .map(drop)
    }

    /// What this program made of a chain: pairs of variant and digest.
    async fn variants(&self, chain: &str) -> Result<Vec<(String, String)>, IndexError> {
        let rows = self
            .select(
                "find a layer",
                "SELECT `variant`, `data_digest` FROM `overlaybd_proxy_chains` \
                 WHERE `chain_id` = ? ORDER BY `variant`",
                vec![chain.into()],
            )
            .await?;
        Ok(rows
            .iter()
            .filter_map(|row| Some((text(row, 0)?, text(row, 1)?)))
            .collect())
    }

    pub(super) async fn find_layer(
        &self,
        host: &str,
        repo: &str,
        chain: &str,
    ) -> Result<Option<LayerRow>, IndexError> {
        let rows = self
            .select(
                "find a layer",
                "SELECT `data_digest`, `data_size` FROM `overlaybd_layers` \
                 WHERE `host` = ? AND `repo` = ? AND `chain_id` = ?",
                vec![host.into(), repo.into(), chain.into()],
            )
            .await?;
        let Some((digest, size)) = rows.first().and_then(|row| target("overlaybd_layers", row))
        else {
            return Ok(None);
        };
        let variants = self.variants(chain).await?;
        Ok(Some(LayerRow {
            origin: origin(&variants, &digest),
            digest,
            size,
        }))
    }

    pub(super) async fn find_layer_elsewhere(
        &self,
        host: &str,
        chain: &str,
        variant: &str,
    ) -> Result<Vec<(RepoName, LayerRow)>, IndexError> {
        let variants = self.variants(chain).await?;
        let ours = variants.iter().find(|(made_with, _)| made_with == variant);
        let ours = ours.map_or("", |(_, digest)| digest);
        let found = self
            .select(
                "find a layer",
                &format!(
                    "SELECT `data_digest`, `data_size`, `repo` FROM `overlaybd_layers` \
                     WHERE `host` = ? AND `chain_id` = ? \
                     ORDER BY `data_digest` = ? DESC, `repo` LIMIT {MAX_ELSEWHERE}"
                ),
                vec![host.into(), chain.into(), ours.into()],
            )
            .await?;
        let mut rows: Vec<_> = found
            .iter()
            .filter_map(|row| {
                let repo = text(row, 2)?.parse::<RepoName>().ok()?;
                let (digest, size) = target("overlaybd_layers", row)?;
                let origin = origin(&variants, &digest);
                Some((
                    repo,
                    LayerRow {
                        digest,
                        size,
                        origin,
                    },
                ))
            })
            .collect();
        // The columns' collation may order names in another way than bytes.
        rows.sort_by(|(a, x), (b, y)| {
            let last = |row: &LayerRow| row.digest.as_str() != ours;
            (last(x), a).cmp(&(last(y), b))
        });
        Ok(rows)
    }

    pub(super) async fn find_built(
        &self,
        chain: &str,
        variant: &str,
    ) -> Result<Option<LayerRow>, IndexError> {
        let rows = self
            .select(
                "find a layer",
                "SELECT `data_digest`, `data_size` FROM `overlaybd_proxy_chains` \
                 WHERE `chain_id` = ? AND `variant` = ?",
                vec![chain.into(), variant.into()],
            )
            .await?;
        let found = rows
            .first()
            .and_then(|row| target("overlaybd_proxy_chains", row));
        Ok(found.map(|(digest, size)| LayerRow {
            digest,
            size,
            origin: Origin::Ours {
                variant: variant.to_owned(),
            },
        }))
    }

    pub(super) async fn find_diff_id(&self, layer: &str) -> Result<Option<DiffId>, IndexError> {
        let rows = self
            .select(
                "find a diff id",
                "SELECT `diff_id` FROM `overlaybd_proxy_layers` WHERE `layer_digest` = ?",
                vec![layer.into()],
            )
            .await?;
        let found = rows.first().and_then(|row| text(row, 0));
        Ok(found.and_then(|text| text.parse().ok()).map(DiffId))
    }

    pub(super) async fn put_diff_id(&self, layer: &str, diff_id: &str) -> Result<(), IndexError> {
        self.write(
            "record a diff id",
            "INSERT INTO `overlaybd_proxy_layers` (`layer_digest`, `diff_id`) VALUES (?, ?) \
             ON DUPLICATE KEY UPDATE `diff_id` = VALUES(`diff_id`)",
            vec![layer.into(), diff_id.into()],
        )
        .await
        .map(drop)
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
        let what = "record a layer";
        self.write(
            what,
            "INSERT INTO `overlaybd_proxy_chains` \
             (`chain_id`, `variant`, `data_digest`, `data_size`) VALUES (?, ?, ?, ?) \
             ON DUPLICATE KEY UPDATE `data_digest` = ?, `data_size` = ?",
            vec![
                chain.into(),
                variant.into(),
                digest.into(),
                size.into(),
                digest.into(),
                size.into(),
            ],
        )
        .await?;
        self.write(
            what,
            "INSERT INTO `overlaybd_layers` \
             (`host`, `repo`, `chain_id`, `data_digest`, `data_size`) VALUES (?, ?, ?, ?, ?) \
             ON DUPLICATE KEY UPDATE `data_digest` = ?, `data_size` = ?",
            vec![
                host.into(),
                repo.into(),
                chain.into(),
                digest.into(),
                size.into(),
                digest.into(),
                size.into(),
            ],
        )
        .await
        .map(drop)
    }

    pub(super) async fn delete_layer(
        &self,
        host: &str,
        repo: &str,
        chain: &str,
        digest: &str,
    ) -> Result<bool, IndexError> {
        let rows = self
            .write_now(
                "delete a layer",
                "DELETE FROM `overlaybd_layers` WHERE `host` = ? AND `repo` = ? \
                 AND `chain_id` = ? AND `data_digest` = ?",
                vec![host.into(), repo.into(), chain.into(), digest.into()],
            )
            .await?;
        Ok(rows > 0)
    }

    pub(super) async fn find_manifest(
        &self,
        key: &ManifestKey,
    ) -> Result<Option<ManifestRow>, IndexError> {
        let what = "find a manifest";
        let rows = self
            .select(
                what,
                "SELECT `out_digest`, `data_size` FROM `overlaybd_manifests` WHERE `host` = ? \
                 AND `repo` = ? AND `src_digest` = ? AND `mediatype` = ?",
                key_values(key),
            )
            .await?;
        let found = rows
            .first()
            .and_then(|row| target("overlaybd_manifests", row));
        let Some((digest, size)) = found else {
            return Ok(None);
        };
        let rows = self
            .select(
                what,
                "SELECT `variant` FROM `overlaybd_proxy_manifests` \
                 WHERE `src_digest` = ? AND `out_digest` = ? ORDER BY `variant` LIMIT 1",
                vec![key.source.as_str().into(), digest.as_str().into()],
            )
            .await?;
        let variant = rows.first().and_then(|row| text(row, 0));
        Ok(Some(ManifestRow {
            digest,
            size,
            origin: variant.map_or(Origin::Foreign, |variant| Origin::Ours { variant }),
        }))
    }

    pub(super) async fn find_built_manifest(
        &self,
        source: &str,
        variant: &str,
    ) -> Result<Option<(String, ManifestRow)>, IndexError> {
        let rows = self
            .select(
                "find a manifest",
                "SELECT `out_digest`, `data_size`, `mediatype` FROM `overlaybd_proxy_manifests` \
                 WHERE `src_digest` = ? AND `variant` = ?",
                vec![source.into(), variant.into()],
            )
            .await?;
        Ok(rows.first().and_then(|row| {
            let (digest, size) = target("overlaybd_proxy_manifests", row)?;
            let origin = Origin::Ours {
                variant: variant.to_owned(),
            };
            let row_of = ManifestRow {
                digest,
                size,
                origin,
            };
            Some((text(row, 2)?, row_of))
        }))
    }

    pub(super) async fn put_manifest(
        &self,
        key: &ManifestKey,
        digest: &str,
        size: i64,
        variant: &str,
    ) -> Result<(), IndexError> {
        let what = "record a manifest";
        let media_type = key.media_type.as_str();
        self.write(
            what,
            "INSERT INTO `overlaybd_proxy_manifests` \
             (`src_digest`, `variant`, `mediatype`, `out_digest`, `data_size`) \
             VALUES (?, ?, ?, ?, ?) \
             ON DUPLICATE KEY UPDATE `mediatype` = ?, `out_digest` = ?, `data_size` = ?",
            vec![
                key.source.as_str().into(),
                variant.into(),
                media_type.into(),
                digest.into(),
                size.into(),
                media_type.into(),
                digest.into(),
                size.into(),
            ],
        )
        .await?;
        let mut values = key_values(key);
        values.extend([digest.into(), size.into(), digest.into(), size.into()]);
        self.write(
            what,
            "INSERT INTO `overlaybd_manifests` \
             (`host`, `repo`, `src_digest`, `mediatype`, `out_digest`, `data_size`) \
             VALUES (?, ?, ?, ?, ?, ?) \
             ON DUPLICATE KEY UPDATE `out_digest` = ?, `data_size` = ?",
            values,
        )
        .await
        .map(drop)
    }

    pub(super) async fn delete_manifest(
        &self,
        key: &ManifestKey,
        digest: &str,
    ) -> Result<bool, IndexError> {
        let mut values = key_values(key);
        values.push(digest.into());
        let rows = self
            .write_now(
                "delete a manifest",
                "DELETE FROM `overlaybd_manifests` WHERE `host` = ? AND `repo` = ? \
                 AND `src_digest` = ? AND `mediatype` = ? AND `out_digest` = ?",
                values,
            )
            .await?;
        Ok(rows > 0)
    }

    pub(super) async fn link(
        &self,
        host: &str,
        repo: &str,
        source: &str,
        blobs: &[&str],
    ) -> Result<(), IndexError> {
        for blobs in blobs.chunks(100) {
            let rows = vec!["(?, ?, ?, ?)"; blobs.len()].join(", ");
            let values = blobs
                .iter()
                .flat_map(|&blob| [host, repo, blob, source].map(Value::from));
            self.write(
                "link blobs",
                &format!(
                    "INSERT INTO `overlaybd_proxy_links` \
                     (`host`, `repo`, `blob_digest`, `src_digest`) VALUES {rows} \
                     ON DUPLICATE KEY UPDATE `host` = `host`"
                ),
                values.collect(),
            )
            .await?;
        }
        Ok(())
    }

    pub(super) async fn sources(
        &self,
        host: &str,
        repo: &str,
        blob: &str,
    ) -> Result<Vec<Digest>, IndexError> {
        let rows = self
            .select(
                "find a blob's images",
                &format!(
                    "SELECT `src_digest` FROM `overlaybd_proxy_links` WHERE `host` = ? \
                     AND `repo` = ? AND `blob_digest` = ? ORDER BY `src_digest` \
                     LIMIT {MAX_ELSEWHERE}"
                ),
                vec![host.into(), repo.into(), blob.into()],
            )
            .await?;
        let texts = rows.iter().filter_map(|row| text(row, 0));
        Ok(texts.filter_map(|text| text.parse().ok()).collect())
    }

    pub(super) async fn linked_repos(
        &self,
        host: &str,
        blob: &str,
    ) -> Result<Vec<RepoName>, IndexError> {
        let rows = self
            .select(
                "find a blob's repositories",
                &format!(
                    "SELECT DISTINCT `repo` FROM `overlaybd_proxy_links` \
                     WHERE `host` = ? AND `blob_digest` = ? ORDER BY `repo` LIMIT {MAX_ELSEWHERE}"
                ),
                vec![host.into(), blob.into()],
            )
            .await?;
        let texts = rows.iter().filter_map(|row| text(row, 0));
        Ok(texts.filter_map(|text| text.parse().ok()).collect())
    }

    pub(super) async fn unlink(
        &self,
        host: &str,
        repo: &str,
        source: &str,
    ) -> Result<(), IndexError> {
        self.write_now(
            "unlink an image",
            "DELETE FROM `overlaybd_proxy_links` \
             WHERE `host` = ? AND `repo` = ? AND `src_digest` = ?",
            vec![host.into(), repo.into(), source.into()],
        )
        .await
        .map(drop)
    }

    /// The holder after the attempt, and for how many milliseconds.
    pub(super) async fn acquire(
        &self,
        name: &str,
        token: &str,
        ttl: i64,
    ) -> Result<(String, u64), IndexError> {
        let what = "acquire a lease";
        let started = Instant::now();
        loop {
            // Assignments happen from left to right: the second sees the holder that the
            // first chose. Done twice with one token, the outcome is the same.
            self.write_now(
                what,
                &format!(
                    "INSERT INTO `overlaybd_proxy_leases` (`name`, `holder`, `expires_at`) \
                     VALUES (?, ?, {NOW} + ?) ON DUPLICATE KEY UPDATE \
                     `holder` = IF(`expires_at` <= {NOW}, ?, `holder`), \
                     `expires_at` = IF(`holder` = ?, {NOW} + ?, `expires_at`)"
                ),
                vec![
                    name.into(),
                    token.into(),
                    ttl.into(),
                    token.into(),
                    token.into(),
                    ttl.into(),
                ],
            )
            .await?;
            let rows = self
                .select(
                    what,
                    &format!(
                        "SELECT `holder`, GREATEST(`expires_at` - {NOW}, 0) \
                         FROM `overlaybd_proxy_leases` WHERE `name` = ?"
                    ),
                    vec![name.into()],
                )
                .await?;
            if let Some(row) = rows.first() {
                let remaining = integer(row, 1).and_then(|left| u64::try_from(left).ok());
                return Ok((text(row, 0).unwrap_or_default(), remaining.unwrap_or(0)));
            }
            // Its holder gave it back in between.
            if started.elapsed() > Duration::from_secs(5) {
                return Ok((String::new(), 0));
            }
        }
    }

    pub(super) async fn heartbeat(
        &self,
        name: &str,
        token: &str,
        ttl: i64,
    ) -> Result<bool, IndexError> {
        let rows = self
            .write_now(
                "keep a lease",
                &format!(
                    "UPDATE `overlaybd_proxy_leases` SET `expires_at` = {NOW} + ? \
                     WHERE `name` = ? AND `holder` = ?"
                ),
                vec![ttl.into(), name.into(), token.into()],
            )
            .await?;
        Ok(rows > 0)
    }

    pub(super) async fn release(&self, name: &str, token: &str) -> Result<bool, IndexError> {
        let rows = self
            .write_now(
                "release a lease",
                "DELETE FROM `overlaybd_proxy_leases` WHERE `name` = ? AND `holder` = ?",
                vec![name.into(), token.into()],
            )
            .await?;
        Ok(rows > 0)
    }

    pub(super) async fn release_range(&self, from: &str, to: &str) -> Result<u64, IndexError> {
        self.write_now(
            "release leases",
            "DELETE FROM `overlaybd_proxy_leases` WHERE `holder` >= ? AND `holder` < ?",
            vec![from.into(), to.into()],
        )
        .await
    }
}

fn key_values(key: &ManifestKey) -> Vec<Value> {
    vec![
        key.host.as_str().into(),
        key.repo.as_str().into(),
        key.source.as_str().into(),
        key.media_type.as_str().into(),
    ]
}

/// A column as text; another program's row may hold anything.
fn text(row: &Row, column: usize) -> Option<String> {
    match row.get(column)?.as_ref()? {
        Value::Bytes(bytes) => String::from_utf8(bytes.clone()).ok(),
        _ => None,
    }
}

fn integer(row: &Row, column: usize) -> Option<i64> {
    match row.get(column)?.as_ref()? {
        Value::Int(number) => Some(*number),
        Value::UInt(number) => i64::try_from(*number).ok(),
        Value::Bytes(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        _ => None,
    }
}

fn target(table: &str, row: &Row) -> Option<(Digest, u64)> {
    parse_target(table, text(row, 0).as_deref(), integer(row, 1))
}

fn origin(variants: &[(String, String)], digest: &Digest) -> Origin {
    let made = variants.iter().find(|(_, made)| made == digest.as_str());
    made.map_or(Origin::Foreign, |(variant, _)| Origin::Ours {
        variant: variant.clone(),
    })
}
