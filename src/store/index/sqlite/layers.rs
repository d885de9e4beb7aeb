//! The rows of layers: by repository, by chain, and what a source layer inflates to.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::super::rows::{LayerRow, MAX_ELSEWHERE, Origin};
use super::super::shared::LayerValues;
use super::{Found, SqliteIndex, origin, target, text};
use crate::oci::{DiffId, Digest, RepoName};
use crate::store::error::IndexError;

impl SqliteIndex {
    pub(in crate::store::index) async fn find_layer(
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

    pub(in crate::store::index) async fn find_layer_elsewhere(
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
            layer_rows(db, &chain, found)
        })
        .await
    }

    pub(in crate::store::index) async fn find_other_layers(
        &self,
        host: &str,
        chain: &str,
        digest: &str,
    ) -> Result<Vec<(RepoName, LayerRow)>, IndexError> {
        let [host, chain, digest] = [host, chain, digest].map(str::to_owned);
        self.read("find a layer", move |db| {
            let mut statement = db.prepare_cached(
                "SELECT data_digest, data_size, repo FROM overlaybd_layers \
                 WHERE host = ?1 AND chain_id = ?2 AND data_digest <> ?3 \
                 ORDER BY repo LIMIT ?4",
            )?;
            let limit = i64::try_from(MAX_ELSEWHERE).unwrap_or(i64::MAX);
            let found = statement
                .query_map(params![host, chain, digest, limit], |row| {
                    Ok((text(row, 2)?, target(row)?))
                })?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            layer_rows(db, &chain, found)
        })
        .await
    }

    pub(in crate::store::index) async fn find_built(
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

    pub(in crate::store::index) async fn find_diff_id(
        &self,
        layer: &str,
    ) -> Result<Option<DiffId>, IndexError> {
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

    pub(in crate::store::index) async fn put_diff_id(
        &self,
        layer: &str,
        diff_id: &str,
    ) -> Result<(), IndexError> {
        let (layer, diff_id) = (layer.to_owned(), diff_id.to_owned());
        // What is lost of it is verified again.
        self.write_soon("record a diff id", move |db| {
            db.execute(
                "INSERT INTO overlaybd_proxy_layers (layer_digest, diff_id) VALUES (?1, ?2) \
                 ON CONFLICT DO UPDATE SET diff_id = excluded.diff_id",
                params![layer, diff_id],
            )
            .map(|_| ())
        })
        .await
    }

    pub(in crate::store::index) async fn put_built(
        &self,
        chain: &str,
        variant: &str,
        digest: &str,
        size: i64,
    ) -> Result<(), IndexError> {
        let [chain, variant, digest] = [chain, variant, digest].map(str::to_owned);
        // What is lost of it is made again, to the byte.
        self.write_soon("record a layer", move |db| {
            db.execute(
                "INSERT INTO overlaybd_proxy_chains (chain_id, variant, data_digest, data_size) \
                 VALUES (?1, ?2, ?3, ?4) ON CONFLICT (chain_id, variant) DO UPDATE \
                 SET data_digest = excluded.data_digest, data_size = excluded.data_size",
                params![chain, variant, digest, size],
            )
            .map(|_| ())
        })
        .await
    }

    pub(in crate::store::index) async fn share_layer(
        &self,
        row: &LayerValues,
    ) -> Result<bool, IndexError> {
        let row = row.clone();
        self.write("share a layer", move |db| {
            let LayerValues {
                host,
                repo,
                chain,
                digest,
                size,
                below,
            } = &row;
            match below {
                None => db.execute(
                    "INSERT INTO overlaybd_layers (host, repo, chain_id, data_digest, data_size) \
                     VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (host, repo, chain_id) DO NOTHING",
                    params![host, repo, chain, digest, size],
                )?,
                Some((parent, on)) => db.execute(
                    "INSERT INTO overlaybd_layers (host, repo, chain_id, data_digest, data_size) \
                     SELECT ?1, ?2, ?3, ?4, ?5 FROM overlaybd_layers \
                     WHERE host = ?1 AND repo = ?2 AND chain_id = ?6 AND data_digest = ?7 \
                     ON CONFLICT (host, repo, chain_id) DO NOTHING",
                    params![host, repo, chain, digest, size, parent, on],
                )?,
            };
            db.query_row(
                "SELECT count(*) > 0 FROM overlaybd_layers WHERE host = ?1 AND repo = ?2 \
                 AND chain_id = ?3 AND data_digest = ?4",
                params![host, repo, chain, digest],
                |row| row.get(0),
            )
        })
        .await
    }

    pub(in crate::store::index) async fn replace_shared_layer(
        &self,
        row: &LayerValues,
        old: &str,
    ) -> Result<bool, IndexError> {
        let (row, old) = (row.clone(), old.to_owned());
        self.write("share a layer", move |db| {
            db.execute(
                "UPDATE overlaybd_layers SET data_digest = ?4, data_size = ?5 \
                 WHERE host = ?1 AND repo = ?2 AND chain_id = ?3 AND data_digest = ?6",
                params![row.host, row.repo, row.chain, row.digest, row.size, old],
            )
            .map(|rows| rows > 0)
        })
        .await
    }

    pub(in crate::store::index) async fn delete_layer(
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
}

/// The usable ones of rows with a repository's name, a digest and a size.
fn layer_rows(
    db: &Connection,
    chain: &str,
    found: Vec<(Option<String>, Found)>,
) -> rusqlite::Result<Vec<(RepoName, LayerRow)>> {
    let mut rows = Vec::with_capacity(found.len());
    for (repo, found) in found {
        let repo = repo.and_then(|repo| repo.parse::<RepoName>().ok());
        if let (Some(repo), Some((digest, size))) = (repo, found.parse("overlaybd_layers")) {
            rows.push((repo, layer_row(db, chain, digest, size)?));
        }
    }
    Ok(rows)
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
