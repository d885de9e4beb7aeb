//! Rows whose blob is gone, forgotten.

use rusqlite::{Transaction, params};

use super::SqliteIndex;
use crate::oci::Digest;
use crate::store::IndexError;

/// Rows looked at in one transaction: others wait for that.
const PAGE: usize = 256;
/// A lease that ran out so long ago, in milliseconds, is nobody's any more.
const DEAD: i64 = 86_400_000;

/// A table of this program's own with a blob in each row, keyed by two texts.
#[derive(Debug, Clone, Copy)]
struct Table {
    name: &'static str,
    keys: [&'static str; 2],
    blob: &'static str,
}

const TABLES: [Table; 2] = [
    Table {
        name: "overlaybd_proxy_chains",
        keys: ["chain_id", "variant"],
        blob: "data_digest",
    },
    Table {
        name: "overlaybd_proxy_manifests",
        keys: ["src_digest", "variant"],
        blob: "out_digest",
    },
];

type Key = (String, String);

impl SqliteIndex {
    /// Forgets what was made of chains and manifests, where that is neither in the store, as
    /// `is_there` tells, nor was pushed: such a row is of no use to anybody, and what it names is
    /// recorded when it is made again. Says how many rows went.
    ///
    /// `is_there` is asked while nothing is written. A row is written when its blob is there, so
    /// none is lost.
    pub(in crate::store::index) async fn sweep<F>(&self, is_there: F) -> Result<u64, IndexError>
    where
        F: Fn(&Digest) -> bool + Clone + Send + 'static,
    {
        let mut forgotten = 0_u64;
        for table in TABLES {
            let mut after = Some(Key::default());
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
                params![DEAD],
            )
        })
        .await?;
        Ok(forgotten)
    }
}

/// Looks at the rows behind `after`; gives how many went, and where to go on.
fn sweep_page(
    db: &Transaction<'_>,
    table: Table,
    after: &Key,
    is_there: impl Fn(&Digest) -> bool,
) -> rusqlite::Result<(u64, Option<Key>)> {
    let Table {
        name,
        keys: [first, second],
        blob,
    } = table;
    let rows = db
        .prepare_cached(&format!(
            "SELECT {first}, {second}, {blob}, EXISTS (SELECT 1 FROM overlaybd_proxy_pushed \
               WHERE blob_digest = {blob}) \
             FROM {name} WHERE ({first}, {second}) > (?1, ?2) \
             ORDER BY {first}, {second} LIMIT ?3"
        ))?
        .query_map(
            params![after.0, after.1, i64::try_from(PAGE).unwrap_or(i64::MAX)],
            |row| {
                let key: Key = (row.get(0)?, row.get(1)?);
                Ok((key, row.get::<_, String>(2)?, row.get::<_, bool>(3)?))
            },
        )?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let next = (rows.len() == PAGE).then(|| rows.last().map(|(key, ..)| key.clone()));
    let mut forgotten = 0;
    let mut delete = db.prepare_cached(&format!(
        "DELETE FROM {name} WHERE {first} = ?1 AND {second} = ?2"
    ))?;
    for ((one, other), digest, is_pushed) in rows {
        // What is no digest is of no use either.
        let is_used = is_pushed || digest.parse().is_ok_and(|digest| is_there(&digest));
        if !is_used {
            delete.execute(params![one, other])?;
            forgotten += 1;
        }
    }
    Ok((forgotten, next.flatten()))
}
