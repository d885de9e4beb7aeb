//! What operators are shown of images that were converted.

use rusqlite::types::Value;
use rusqlite::{Row, Transaction, params, params_from_iter};

use super::super::record_values::{COLUMNS, ListValues, RecordValues};
use super::super::records::{MAX_PARTS, RecordedImage};
use super::leases::NOW;
use super::{SqliteIndex, text};
use crate::oci::Digest;
use crate::store::error::IndexError;

/// Rows of one transaction: other writers wait for that.
const TRIMMED_AT_ONCE: i64 = 1000;

impl SqliteIndex {
    /// The rows of a list; `None` for one that cannot be understood.
    pub(in crate::store::index) async fn images(
        &self,
        list: ListValues,
    ) -> Result<Vec<Option<RecordedImage>>, IndexError> {
        self.read("list images", move |db| {
            let mut statement = db.prepare_cached(&list.sql())?;
            let values: Vec<Value> = list.values();
            let rows = statement.query_map(params_from_iter(values), record)?;
            rows.collect()
        })
        .await
    }

    pub(in crate::store::index) async fn image_parts(
        &self,
        host: &str,
        repo: &str,
        source: &str,
    ) -> Result<Vec<Digest>, IndexError> {
        let [host, repo, source] = [host, repo, source].map(str::to_owned);
        let limit = i64::try_from(MAX_PARTS).unwrap_or(i64::MAX);
        self.read("find an image's parts", move |db| {
            let found = db
                .prepare_cached(
                    "SELECT blob_digest FROM overlaybd_proxy_links \
                     WHERE host = ?1 AND repo = ?2 AND src_digest = ?3 \
                     ORDER BY blob_digest LIMIT ?4",
                )?
                .query_map(params![host, repo, source, limit], |row| text(row, 0))?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            let texts = found.into_iter().flatten();
            Ok(texts.filter_map(|text| text.parse().ok()).collect())
        })
        .await
    }

    pub(in crate::store::index) async fn put_image(
        &self,
        row: RecordValues,
    ) -> Result<(), IndexError> {
        self.write_soon("record an image", move |db| insert_record(db, &row))
            .await
    }

    pub(in crate::store::index) async fn forget_image(
        &self,
        row: RecordValues,
    ) -> Result<bool, IndexError> {
        self.write("forget an image", move |db| {
            let rows = db.execute(
                "DELETE FROM overlaybd_proxy_images WHERE host = ?1 AND repo = ?2 \
                 AND reference = ?3 AND variant = ?4 AND src_digest = ?5",
                params![row.host, row.repo, row.reference, row.variant, row.source],
            )?;
            db.execute(
                "DELETE FROM overlaybd_proxy_manifests WHERE src_digest = ?1 AND variant = ?2",
                params![row.source, row.variant],
            )?;
            Ok(rows > 0)
        })
        .await
    }

    pub(in crate::store::index) async fn trim_images(&self, most: i64) -> Result<u64, IndexError> {
        let mut forgotten = 0_u64;
        loop {
            let excess = self.read("count images", move |db| {
                db.query_row("SELECT count(*) FROM overlaybd_proxy_images", [], |row| {
                    row.get::<_, i64>(0)
                })
            });
            let excess = excess.await?.saturating_sub(most).min(TRIMMED_AT_ONCE);
            if excess <= 0 {
                return Ok(forgotten);
            }
            let rows = self.write_soon("forget the oldest images", move |db| {
                db.execute(
                    "DELETE FROM overlaybd_proxy_images \
                     WHERE (host, repo, reference, variant) IN ( \
                       SELECT host, repo, reference, variant FROM overlaybd_proxy_images \
                       ORDER BY converted_at, host, repo, reference, variant LIMIT ?1)",
                    params![excess],
                )
            });
            let rows = rows.await?;
            forgotten = forgotten.saturating_add(u64::try_from(rows).unwrap_or(u64::MAX));
        }
    }
}

fn record(row: &Row<'_>) -> rusqlite::Result<Option<RecordedImage>> {
    let text = |column| Ok::<_, rusqlite::Error>(text(row, column)?.unwrap_or_default());
    // What is no number is a row that cannot be understood.
    let number = |column| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_i64().unwrap_or(-1));
    let values = RecordValues {
        host: text(0)?,
        repo: text(1)?,
        reference: text(2)?,
        variant: text(3)?,
        format: text(4)?,
        algorithm: text(5)?,
        source: text(6)?,
        digest: text(7)?,
        media_type: text(8)?,
        platforms: text(9)?,
        source_bytes: row.get_ref(10)?.as_i64().ok(),
        bytes: number(11)?,
        layers: number(12)?,
        layers_made: number(13)?,
        has_tag: true,
    };
    Ok(values.parse(number(14)?))
}

pub(super) fn insert_record(db: &Transaction<'_>, row: &RecordValues) -> rusqlite::Result<()> {
    let columns = COLUMNS.join(", ");
    // Where the reference is a digest, another row may tell of the image already.
    let condition = "?15 OR NOT EXISTS (SELECT 1 FROM overlaybd_proxy_images \
         WHERE src_digest = ?7 AND variant = ?4 AND host = ?1 AND repo = ?2)";
    let update: Vec<String> = COLUMNS
        .iter()
        .skip(4)
        .map(|column| format!("{column} = excluded.{column}"))
        .collect();
    db.execute(
        &format!(
            "INSERT INTO overlaybd_proxy_images ({columns}, converted_at) \
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, {NOW} \
             WHERE {condition} \
             ON CONFLICT (host, repo, reference, variant) DO UPDATE \
             SET {}, converted_at = excluded.converted_at",
            update.join(", ")
        ),
        params![
            row.host,
            row.repo,
            row.reference,
            row.variant,
            row.format,
            row.algorithm,
            row.source,
            row.digest,
            row.media_type,
            row.platforms,
            row.source_bytes,
            row.bytes,
            row.layers,
            row.layers_made,
            row.has_tag,
        ],
    )
    .map(|_| ())
}
