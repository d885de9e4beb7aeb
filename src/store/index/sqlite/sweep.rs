//! Deletes rows whose blob is gone.

use rusqlite::types::Value;
use rusqlite::{Transaction, params, params_from_iter};

use super::SqliteIndex;
use crate::oci::Digest;
use crate::store::error::IndexError;

/// Rows of one transaction: other writers wait for that.
const PAGE_ROWS: usize = 256;
/// Leases that expired this many milliseconds ago are deleted.
const EXPIRED_LEASE_MS: i64 = 86_400_000;

/// A table of this program's own with a blob in each row, keyed by texts.
#[derive(Debug, Clone, Copy)]
struct Table {
    name: &'static str,
    keys: &'static [&'static str],
    blob: &'static str,
}

const TABLES: [Table; 3] = [
    Table {
        name: "overlaybd_proxy_chains",
        keys: &["chain_id", "variant"],
        blob: "data_digest",
    },
    Table {
        name: "overlaybd_proxy_manifests",
        keys: &["src_digest", "variant"],
        blob: "out_digest",
    },
    Table {
        name: "overlaybd_proxy_images",
        keys: &["host", "repo", "reference", "variant"],
        blob: "out_digest",
    },
];

type Key = Vec<String>;

impl SqliteIndex {
    /// Deletes the rows of blobs that are neither in the store, by `is_there`, nor were pushed: such
    /// a row is of no use, and is written again when the blob is made again. Returns the number of
    /// rows.
    ///
    /// `is_there` is called while nothing is written. A row is written after its blob, so no row of
    /// a blob that is there is deleted.
    pub(in crate::store::index) async fn sweep<F>(&self, is_there: F) -> Result<u64, IndexError>
    where
        F: Fn(&Digest) -> bool + Clone + Send + 'static,
    {
        let mut forgotten = 0_u64;
        for table in TABLES {
            let mut after = Some(vec![String::new(); table.keys.len()]);
            while let Some(key) = after {
                let is_there = is_there.clone();
                let page = move |db: &Transaction<'_>| sweep_page(db, table, &key, is_there);
                let (rows, next) = self.write("forget rows without a blob", page).await?;
                forgotten = forgotten.saturating_add(rows);
                after = next;
            }
        }
        self.write("forget leases that ran out", |db| {
            db.execute(
                "DELETE FROM overlaybd_proxy_leases \
                 WHERE expires_at < CAST(unixepoch('subsec') * 1000 AS INTEGER) - ?1",
                params![EXPIRED_LEASE_MS],
            )
        })
        .await?;
        Ok(forgotten)
    }
}

/// Checks the rows after `after`; returns how many were deleted, and where to continue.
fn sweep_page(
    db: &Transaction<'_>,
    table: Table,
    after: &Key,
    is_there: impl Fn(&Digest) -> bool,
) -> rusqlite::Result<(u64, Option<Key>)> {
    let Table { name, keys, blob } = table;
    let width = keys.len();
    let columns = keys.join(", ");
    let places = |from: usize| {
        let places: Vec<String> = (0..width).map(|n| format!("?{}", from + n)).collect();
        places.join(", ")
    };
    let mut values: Vec<Value> = vec![i64::try_from(PAGE_ROWS).unwrap_or(i64::MAX).into()];
    values.extend(after.iter().map(|text| text.clone().into()));
    let rows = db
        .prepare_cached(&format!(
            "SELECT {columns}, {blob}, EXISTS (SELECT 1 FROM overlaybd_proxy_pushed \
               WHERE blob_digest = {blob}) \
             FROM {name} WHERE ({columns}) > ({}) ORDER BY {columns} LIMIT ?1",
            places(2)
        ))?
        .query_map(params_from_iter(values), |row| {
            let key = (0..width).map(|column| row.get(column));
            let key: Key = key.collect::<rusqlite::Result<_>>()?;
            Ok((
                key,
                row.get::<_, String>(width)?,
                row.get::<_, bool>(width + 1)?,
            ))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let next = (rows.len() == PAGE_ROWS).then(|| rows.last().map(|(key, ..)| key.clone()));
    let mut forgotten = 0;
    let mut delete = db.prepare_cached(&format!(
        "DELETE FROM {name} WHERE ({columns}) = ({})",
        places(1)
    ))?;
    for (key, digest, is_pushed) in rows {
        // An invalid digest is of no use either.
        let is_used = is_pushed || digest.parse().is_ok_and(|digest| is_there(&digest));
        if !is_used {
            delete.execute(params_from_iter(key))?;
            forgotten += 1;
        }
    }
    Ok((forgotten, next.flatten()))
}
